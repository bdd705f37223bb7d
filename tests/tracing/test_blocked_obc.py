"""SPADE in blocks of a kernel: whole kernels go, in the order of the op, with the losses that the search reads."""

import pytest
import torch
from torch import nn

from spade_ext import hessian, obc_trace
from spade_xai import trace
from spade_xai.models.layers import find_layers
from spade_xai.tracing.pruning.registry import PRUNING_METHODS, TRACERS


@pytest.fixture
def layer_and_hessian():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 6, 3), nn.Conv2d(6, 5, 1), nn.Conv2d(5, 8, 2, groups=1)
    ).eval()
    (layer, *_) = find_layers(model)
    weight = layer.read(model)
    return layer, weight, hessian(torch.randn(300, layer.cols))[None]


def test_whole_kernels_go_as_the_op_says(layer_and_hessian):
    layer, weight, h = layer_and_hessian
    method = PRUNING_METHODS["blocked_obc"]
    (found,) = method.prune([method.prepare(layer, weight, h, 0.01)], [0.5])
    expected = obc_trace(weight[0], h[0], block=9).prune(0.5)
    torch.testing.assert_close(found.weights[0], expected, rtol=0, atol=0)
    kernels = (found.weights == 0).reshape(6, 4, 9)
    assert torch.equal(kernels.any(-1), kernels.all(-1)) and int(kernels.all(-1).sum()) == 12


def test_losses_without_pruning_are_those_of_pruning(layer_and_hessian):
    layer, weight, h = layer_and_hessian
    method = PRUNING_METHODS["blocked_obc"]
    prepared = method.prepare(layer, weight, h, 1e-3)
    ratios = [0.0, 0.25, 0.5, 1.0]
    pruned = [x.relative_loss for x in method.prune([prepared] * 4, ratios)]
    assert method.losses(prepared, ratios) == pytest.approx(pruned, abs=0.01)


def test_saved_and_loaded(layer_and_hessian, tmp_path):
    layer, weight, h = layer_and_hessian
    method = PRUNING_METHODS["blocked_obc"]
    prepared = method.prepare(layer, weight, h, 0.01)
    method.save(prepared, tmp_path / "layer.safetensors")
    again = method.load(tmp_path / "layer.safetensors", layer, weight, 0.01)
    (a,), (b,) = method.prune([prepared], [0.7]), method.prune([again], [0.7])
    torch.testing.assert_close(a.weights, b.weights, rtol=0, atol=0)


def test_trace_takes_it_by_both_names():
    assert TRACERS["SPADE-blocks"] == "blocked_obc"
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    options = {"sparsity": 0.5, "augmentations": 16, "progress": False}
    image = torch.rand(1, 3, 12, 12)
    found = trace(model, image, method="spade-blocks", **options).model
    gone = (found[0].weight == 0).flatten(2)
    assert torch.equal(gone.any(-1), gone.all(-1)) and int(gone.all(-1).sum()) == 12
    plain = trace(model, image, method="obc", **options).model
    torch.testing.assert_close(found[4].weight, plain[4].weight, rtol=1e-5, atol=1e-6)
