"""Pruning methods: found by themselves, one file each; FastSPADE in layers of few rows."""

import sys

import pytest
import torch
from torch import nn

from spade_xai import trace
from spade_xai.exceptions import SparsityWarning
from spade_xai.models.layers import find_layers
from spade_xai.tracing import pruning
from spade_xai.tracing.pruning import registry
from spade_xai.tracing.pruning.registry import PRUNING_METHODS, TRACERS, method_of
from spade_xai.tracing.pruning.sparsegpt import block_width

LAST_COLUMNS = '''
from spade_xai.tracing.pruning.method import PruningMethod, layer_losses, pruned_layer


class LastColumns(PruningMethod):
    """Zeros the last columns."""

    name, title = "last_columns", "LastColumns"

    def prune_layer(self, prepared, ratio, max_scratch=None):
        weights = prepared.weight.clone()
        weights[..., round((1 - ratio) * prepared.layer.cols) :] = 0
        losses = layer_losses(prepared, weights).tolist()
        return pruned_layer(weights, 0.0, losses)

    def pruning_bytes(self, layer, samples):
        return 0

    def cuda_pruning_bytes(self, layers, samples):
        return 0
'''


def test_another_method_is_one_file(tmp_path, monkeypatch):
    (tmp_path / "last_columns.py").write_text(LAST_COLUMNS)
    monkeypatch.setattr(pruning, "__path__", [*pruning.__path__, str(tmp_path)])
    found = {method.name: method for method in registry._found()}
    monkeypatch.delitem(sys.modules, f"{pruning.__name__}.last_columns")
    assert set(found) == {*PRUNING_METHODS, "last_columns"}
    monkeypatch.setitem(registry._SPELLINGS, "lastcolumns", found["last_columns"])
    torch.manual_seed(0)
    model, x = nn.Linear(8, 3).eval(), torch.rand(20, 8)
    made = trace(model, x, method="LastColumns", sparsity=0.5, augment=None, progress=False)
    assert not made.masks()[""][:, 4:].any() and made.masks()[""][:, :4].all()
    searched = trace(model, x, method="LastColumns", augment=None, progress=False)
    assert searched.faithful and searched.at(0.5).agreement(made) == {"": 1.0}


def test_names_of_methods():
    assert list(PRUNING_METHODS)[:2] == ["obc", "sparsegpt"]  # the paper's come first
    assert {
        **TRACERS,
        "SPADE": "obc",
        "FastSPADE": "sparsegpt",
        "Magnitude": "magnitude",
    } == TRACERS
    assert method_of("f", "batched fastspade") is PRUNING_METHODS["sparsegpt"]
    with pytest.raises(
        ValueError, match=f"f: method must be one of {', '.join(PRUNING_METHODS)}, got 3"
    ):
        method_of("f", 3)


@pytest.mark.parametrize("outputs", [1, 2, 3, 10, 100])
def test_fastspade_reaches_the_sparsity_in_layers_of_few_rows(outputs):
    torch.manual_seed(0)
    model, x = nn.Linear(200, outputs).eval(), torch.rand(300, 200)
    options = {"augment": None, "progress": False, "sparsity": 0.95}
    exact, fast = (trace(model, x, method=m, **options).layers[0] for m in ("obc", "sparsegpt"))
    assert exact.sparsity_got == pytest.approx(0.95, abs=0.005)
    assert fast.sparsity_got == pytest.approx(0.95, abs=0.015)


def test_published_mask_blocks_stay_where_they_do():
    (wide,) = find_layers(nn.Conv2d(16, 100, 3))
    assert block_width(wide, 0.95) == 9
    (narrow,) = find_layers(nn.Linear(50, 2))
    assert block_width(narrow, 0.99) == 46  # 91 of 92
    assert block_width(narrow, 0.5) == 1


def test_a_layer_that_misses_its_sparsity_is_named():
    torch.manual_seed(0)
    model, x = nn.Conv2d(6, 6, 3, groups=6).eval(), torch.rand(4, 6, 8, 8)
    head = nn.Sequential(model, nn.Flatten())
    with pytest.warns(SparsityWarning, match=r"layers got less .*: 0 \(asked 0\.99, got 0\.889\)"):
        trace(
            head, x, method="sparsegpt", sparsity=0.99, depthwise=True, augment=None, progress=False
        )


@pytest.mark.parametrize("layer", [nn.Linear(6, 5), nn.Conv2d(4, 6, 3, groups=2, bias=False)])
def test_known_losses_of_exact_obc_are_those_of_the_pruned_layer(layer):
    """At every ratio, on and between counts of weights; with so little damping that the damped error is the error."""
    torch.manual_seed(0)
    shape = (200, 6) if isinstance(layer, nn.Linear) else (40, 4, 6, 6)
    layer = layer.double().eval()
    x = torch.randn(shape, dtype=torch.float64)
    options = {"damp": 1e-9, "augment": None, "progress": False}
    made = trace(layer, x, method="obc", sparsity=0.5, **options)
    (found,) = find_layers(layer)
    method, prepared = PRUNING_METHODS["obc"], made._prepared.get(found.name)
    size = found.numel
    ratios = [0.0, 0.3, 0.5, 0.51, 0.7, 0.95, 1.0, 3 / size, 3.2 / size, 3.8 / size]
    expected = [made.at(ratio).layers[0].relative_loss if ratio else 0.0 for ratio in ratios]
    assert method.losses(prepared, ratios) == pytest.approx(expected, rel=1e-6)
    assert expected[-1] == expected[-2] > expected[-3]  # a part of a weight is a weight
