"""Attribution of token ids, summed over their embeddings."""

from types import SimpleNamespace

import pytest
import torch
from classifiers import FEW
from torch import nn
from torch.nn import functional as F

from spade_xai.attribution.attribute import METHODS, attribute


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 6)
        self.norm, self.hidden, self.head = nn.LayerNorm(6), nn.Linear(6, 6), nn.Linear(6, 3)

    def get_input_embeddings(self):
        return self.embed

    def forward(self, ids, attention_mask=None):
        mask = torch.ones_like(ids) if attention_mask is None else attention_mask
        x = F.gelu(self.hidden(self.norm(self.embed(ids)))) * mask[..., None]
        return SimpleNamespace(logits=self.head(x.sum(1)))


@pytest.mark.parametrize(
    "method", [m for m in METHODS if m != "lrp" and not m.endswith("grad_cam")]
)
def test_token_ids(method):
    torch.manual_seed(0)
    model = Text().double()
    ids = torch.randint(0, 20, (2, 5))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    got = attribute(model, ids, 1, method, kwargs={"attention_mask": mask}, **FEW.get(method, {}))
    assert got.shape == ids.shape
    # masked tokens change nothing; lime's ridge regression sees that up to its shrinkage
    noise = 0.05 * got.abs().max() if method == "lime" else 1e-9
    assert got[0, 3:].abs().max() < noise and got[1].abs().sum() > 0
    if method == "deep_lift":
        silent = model(ids, torch.zeros_like(mask)).logits
        assert silent.shape == (2, 3)
    assert model.embed(ids).shape == (2, 5, 6)


def test_transformers_classifier():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    model = transformers.BertForSequenceClassification(config).double()
    ids, mask = torch.randint(0, 50, (2, 6)), torch.ones(2, 6, dtype=torch.long)
    mask[0, 4:] = 0
    kwargs = {"attention_mask": mask}
    for method in ("saliency", "integrated_gradients", "lrp", "occlusion"):
        got = attribute(model, ids, 1, method, kwargs=kwargs, batch_size=7, **FEW.get(method, {}))
        assert got.shape == ids.shape and torch.isfinite(got).all() and got[1].abs().min() > 1e-9
    model.eval()
    got = attribute(model, ids, 1, "integrated_gradients", kwargs=kwargs, steps=200)
    embed = model.get_input_embeddings()
    vectors = embed(ids)
    with torch.no_grad():
        whole, none = (
            model(inputs_embeds=v, attention_mask=mask).logits[:, 1]
            for v in (vectors, torch.zeros_like(vectors))
        )
    torch.testing.assert_close(got.sum(1), whole - none, rtol=1e-2, atol=1e-4)
