"""Texts of padding as the baseline of token ids."""

import pytest
import torch

from spade_xai import attribute, load_model
from spade_xai.attribution.tokens import TEXT_METHODS, pad_baseline, token_map
from spade_xai.models.tokens import Tokenizer


@pytest.fixture
def model(berts):
    return load_model(f"transformers:{berts()}").double()


@pytest.fixture
def tokens(berts, model):
    return Tokenizer(f"transformers:{berts()}", model)("the story was quite moving").tokens


def test_integrated_gradients_sum_to_the_difference_to_a_text_of_padding(model, tokens):
    pad = 0
    blank = tokens.ids.masked_fill(tokens.free, pad)
    assert blank[0].tolist() == [2, 0, 0, 0, 0, 0, 3]
    with torch.no_grad():
        whole, none = (model(ids, **tokens.further).logits[0, 1] for ids in (tokens.ids, blank))
    baseline = pad_baseline(model, tokens.ids, tokens.free, pad)
    got = attribute(
        model, tokens.ids, 1, "integrated_gradients", kwargs=tokens.further, baseline=baseline, steps=400,
        progress=False,
    )  # fmt: skip
    torch.testing.assert_close(got.sum(), whole - none, rtol=1e-3, atol=1e-4)
    assert got[0, [0, -1]].abs().max() == 0  # [CLS] and [SEP] stay as they are


@pytest.mark.parametrize("method", TEXT_METHODS)
def test_a_map_per_method(model, tokens, method):
    found = {b: token_map(model, tokens, 1, method, pad=0, baseline=b) for b in ("pad", "zero")}
    for values in found.values():
        assert values.shape == tokens.ids.shape[1:] and values.dtype == torch.float32
        assert values.isfinite().all()
        assert values.any() or method == "lrp"  # which says so: relevance is lost in few units
    depends = method in ("integrated_gradients", "gradient_shap", "deep_lift", "lime", "occlusion")
    assert torch.equal(*found.values()) != depends


def test_no_embedding_of_that_name(model, tokens):
    with pytest.raises(ValueError, match="embedding must name a layer of the model, got 'none'"):
        pad_baseline(model, tokens.ids, tokens.free, 0, embedding="none")
