"""Token models get their real ids, whatever else they read them for; language models are explained at a position."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from spade_xai import METHODS, attribute
from spade_xai.exceptions import SpadeWarning

IDS = torch.tensor([[5, 6, 7, 8, 0, 0], [3, 9, 0, 0, 0, 0]])
FAST = {"progress": False}


def by_hook(model, ids, score, **kwargs):
    """The gradient at the embeddings, put in by a hook while the model reads its real ids."""
    vectors = model.get_input_embeddings()(ids).detach().requires_grad_()
    hook = model.get_input_embeddings().register_forward_hook(
        lambda _, args, found: vectors if torch.equal(args[0], ids) else found
    )
    score(model(ids, **kwargs)).sum().backward()
    hook.remove()
    return vectors.grad


class LastToken(nn.Module):
    """Pools at the last token that is no padding, adds positions counted from it, looks other ids up too."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(12, 8)
        self.places = nn.Embedding(12, 8)
        self.mix, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def get_input_embeddings(self):
        return self.embed

    def forward(self, ids):
        assert self.embed.weight.shape == (12, 8)
        last = (ids != 0).sum(1) - 1
        x = self.embed(ids.view(-1, ids.shape[1])) + self.places(last)[:, None]
        x = x + 0.1 * self.embed(ids.flip(1))  # other ids in the same embedding
        x = torch.relu(self.mix(x)).cumsum(1)
        return SimpleNamespace(logits=self.head(x[torch.arange(len(ids)), last]))


@pytest.fixture
def model():
    return LastToken().double().eval()


def test_real_ids_reach_the_model(model):
    expected = by_hook(model, IDS, lambda out: out.logits[:, 1])
    got = attribute(model, IDS, 1, "saliency", **FAST)
    torch.testing.assert_close(got, expected.abs().sum(-1))
    assert got[0, :4].all() and not got[0, 4:].any() and not got[1, 2:].any()


@pytest.mark.parametrize("method", [m for m in METHODS if not m.endswith("grad_cam")])
def test_padding_behind_the_last_token_has_no_part(model, method):
    options = {"lime": {"samples": 64, "alpha": 1e-6}, "gradient_shap": {"samples": 4}}
    got = attribute(model, IDS, 1, method, batch_size=3, **options.get(method, {}), **FAST)
    scale = float(got.abs().max())
    assert got[0, 4:].abs().max() < 1e-5 * scale and got[1, 2:].abs().max() < 1e-5 * scale
    assert got[:, 0].all() or got[:, 1].all()


def test_the_predicted_class_is_that_of_the_real_ids(model):
    predicted = model(IDS).logits.argmax(1)
    for method in ("saliency", "occlusion"):
        got = attribute(model, IDS, None, method, **FAST)
        assert torch.equal(got, attribute(model, IDS, predicted, method, **FAST))


def test_gpt2_pools_at_its_last_token():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_embd=16, n_layer=1, n_head=2, vocab_size=50, num_labels=3, n_positions=16, pad_token_id=0,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model, mask = transformers.GPT2ForSequenceClassification(config).eval(), (IDS != 0).long()
    expected = by_hook(model, IDS, lambda out: out.logits[:, 0], attention_mask=mask)
    got = attribute(model, IDS, 0, "saliency", kwargs={"attention_mask": mask}, **FAST)
    torch.testing.assert_close(got, expected.abs().sum(-1))


class Language(nn.Module):
    """Next-token logits [B, T, 12]."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(12, 8), nn.Linear(8, 12)

    def get_input_embeddings(self):
        return self.embed

    def forward(self, ids):
        return SimpleNamespace(logits=self.head(torch.tanh(self.embed(ids)).cumsum(1)))


def test_language_models_are_explained_at_a_position():
    model = Language().double().eval()
    expected = by_hook(model, IDS, lambda out: out.logits[:, 3, 7])
    got = attribute(model, IDS, 7, "saliency", position=3, **FAST)
    torch.testing.assert_close(got, expected.abs().sum(-1))
    assert not got[:, 4:].any()
    each = attribute(model, IDS, 7, "saliency", position=[3, -5], batch_size=1, **FAST)
    torch.testing.assert_close(each[:1], got[:1])
    assert each[1, :2].all() and not each[1, 2:].any()
    predicted = model(IDS).logits[:, 3].argmax(1)
    assert torch.equal(
        attribute(model, IDS, None, position=3, **FAST),
        attribute(model, IDS, predicted, position=3, **FAST),
    )
    shap = attribute(model, IDS, 7, "integrated_gradients", position=torch.tensor([3, 1]), **FAST)
    assert shap[1, :2].all() and not shap[1, 2:].any()
    with pytest.raises(
        ValueError, match=r"logits \[B, classes\], got shape \(1, 6, 12\); position= "
    ):
        attribute(model, IDS, 7, **FAST)
    with pytest.raises(ValueError, match="position goes with a class"):
        attribute(model, IDS, lambda out: out.logits.sum((1, 2)), position=1, **FAST)
    with pytest.raises(ValueError, match=r"position must be an int or 2 ints, got shape .*float32"):
        attribute(model, IDS, 7, position=0.5, **FAST)
    with pytest.raises(ValueError, match=r"position must be in .*, got 6"):
        attribute(model, IDS, 7, position=6, **FAST)


def test_an_embedding_that_two_parts_share_is_replaced_in_both():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared = nn.Embedding(12, 4)
            self.encoder = nn.Module()
            self.encoder.embed_tokens = self.shared
            self.head = nn.Linear(4, 2)

        def forward(self, ids):
            return self.head(self.encoder.embed_tokens(ids).mean(1))

    got = attribute(Shared(), IDS, 0, embedding="shared", **FAST)
    assert got.all()
    with pytest.raises(ValueError, match="embedding must name a layer of the model, got 'embed'"):
        attribute(Shared(), IDS, 0, embedding="embed", **FAST)


def test_no_warning_about_what_is_right(model, recwarn):
    attribute(model, IDS, 1, "deep_lift", baseline=0.01, **FAST)
    assert not [w for w in recwarn if issubclass(w.category, SpadeWarning)]
