"""The flows of the published programs with the drop-in classes, beside the same flows over plain recurrences."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from published_classes import CLASSES
from torch import nn

from spade_ext import compat

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks import flows

OURS = {name: getattr(compat, name) for name in CLASSES}


def tiny(kind):
    """A two-layer language model and its blocks."""
    transformers = pytest.importorskip("transformers")
    shape = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    if kind == "opt":
        config = transformers.OPTConfig(
            **shape, ffn_dim=32, max_position_embeddings=32, word_embed_proj_dim=16
        )
        model = transformers.OPTForCausalLM(config)
        return model.eval(), model.model.decoder.layers
    if kind == "llama":
        config = transformers.LlamaConfig(**shape, intermediate_size=24, max_position_embeddings=32)
        model = transformers.LlamaForCausalLM(config)
        return model.eval(), model.model.layers
    config = transformers.BloomConfig(vocab_size=50, hidden_size=16, n_layer=2, n_head=2)
    model = transformers.BloomForCausalLM(config)
    return model.eval(), model.transformer.h


@pytest.mark.parametrize("options", [(0.5, 0, 0, 8), (0.0, 2, 4, 128)])
@pytest.mark.parametrize("kind", ["opt", "llama", "bloom"])
def test_language_models(kind, options):
    model, blocks = tiny(kind)
    tokens = [torch.randint(0, 50, (1, 20)) for _ in range(8)]
    theirs = copy.deepcopy(model)
    flows.sparsegpt_language_model(OURS, model, blocks, tokens, *options)
    other = dict(theirs.named_modules())
    names = [name for name, module in model.named_modules() if any(module is b for b in blocks)]
    flows.sparsegpt_language_model(CLASSES, theirs, [other[n] for n in names], tokens, *options)
    layers = flows.prunable(nn.ModuleList(blocks))
    assert len(layers) == {"opt": 12, "llama": 14, "bloom": 8}[kind]
    assert flows.same_mask(model, theirs) > 0.995
    share = sum(int((m.weight == 0).sum()) for m in layers.values()) / sum(
        m.weight.numel() for m in layers.values()
    )
    assert share == pytest.approx(0.5, abs=0.01)
    with torch.no_grad():
        ours, wanted = model(tokens[0]).logits, theirs(tokens[0]).logits
    assert (ours - wanted).norm() < 0.05 * wanted.norm()


def test_weights_that_are_to_be_quantised_are_refused():
    model, blocks = tiny("opt")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        NotImplementedError, match=r"SparseGPT\.quantizer: quantisation is not offered"
    ):
        flows.sparsegpt_language_model(
            OURS, model, blocks, [torch.randint(0, 50, (1, 20))], 0.5, quantizer=object
        )
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def network():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(72, 5),
    ).eval()  # fmt: skip


RATIOS = {"0": 0.3, "2": 0.6, "5": 0.8}


def images(count=2):
    return [torch.randn(20, 3, 8, 8) for _ in range(count)]


def test_exact_spade(tmp_path):
    model, data = network(), images()
    ours = flows.spade_exact(OURS, model, data, RATIOS, tmp_path / "log")
    theirs = flows.spade_exact(CLASSES, model, data, RATIOS)
    assert flows.same_mask(ours, theirs) > 0.995
    for name, ratio in RATIOS.items():
        assert float((ours.get_submodule(name).weight == 0).float().mean()) == pytest.approx(
            ratio, abs=0.04
        )
    assert (tmp_path / "log").read_text().count("Start logging") == 3
    torch.testing.assert_close(ours(data[0]), theirs(data[0]), rtol=0.02, atol=0.02)


def test_fastspade():
    model, data = network(), images()
    ours, theirs = (flows.spade_fast(classes, model, data, RATIOS) for classes in (OURS, CLASSES))
    assert flows.same_mask(ours, theirs) == 1
    torch.testing.assert_close(ours(data[0]), theirs(data[0]), rtol=0.02, atol=0.02)


def test_batched_fastspade():
    model, samples = network(), [images(), images(3)]
    ours, theirs = (
        flows.spade_batched(classes, model, samples, RATIOS) for classes in (OURS, CLASSES)
    )
    for one, other in zip(ours, theirs, strict=True):
        assert flows.same_mask(one, other) == 1
    assert flows.same_mask(ours[0], ours[1]) < 1


@pytest.mark.parametrize("compress", ["unstr", "blocked", "struct"])
def test_the_database_of_obc(compress):
    model, data, sparsities = network(), images(), [0, 0.3, 0.7]
    ours, theirs = (
        flows.obc_database(classes, model, data, sparsities, compress)
        for classes in (OURS, CLASSES)
    )
    for sparsity in sparsities:
        for name, weight in theirs[sparsity].items():
            assert float(((ours[sparsity][name] == 0) == (weight == 0)).float().mean()) > 0.995, (
                name
            )
    assert torch.equal(ours[0]["5.weight"], model[5].weight)
    assert float((ours[0.7]["5.weight"] == 0).float().mean()) > 0.69
