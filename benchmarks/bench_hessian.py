"""Hessians of real convolutions and linear layers, against torch."""

import pytest
import torch
from torch.nn import functional as F

from benchmarks.costs import hessian as cost
from benchmarks.layers import layer_table
from spade_ext import HessianAccumulator, hessian

CONVOLUTIONS = [
    "resnet50:layer1.0.conv2",
    "resnet50:layer2.1.conv2",
    "resnet50:layer3.1.conv2",
    "resnet50:layer4.1.conv2",
    "resnet50:conv1",
    "resnet50:layer3.0.conv2",
    "mobilenet_v2:features.12.conv.1.0",
    "convnext_tiny:features.3.0.block.0",
]
POINTWISE = [
    "resnet50:layer1.0.conv3",
    "resnet50:layer3.1.conv1",
    "mobilenet_v2:features.18.0",
]
LINEAR = [
    "convnext_tiny:features.5.0.block.3",
    "bert_base:bert.encoder.layer.0.attention.self.query",
    "bert_base:bert.encoder.layer.0.output.dense",
]
FLOP = {"cpu": 1e10, "cuda": 1e12}  # of a problem, by the plain formula
DEPTHWISE_SAMPLES = 8  # few flop for their bytes: more would take seconds and show no more


def samples_for(shape, suite):
    """Enough samples for a problem of FLOP."""
    if suite.check:
        return 1
    most = DEPTHWISE_SAMPLES if shape.depthwise else 256
    return max(1, min(most, round(FLOP[suite.device] / cost(shape, 1).plain_flop)))


def unfolded(x, shape):
    """The plain formula in torch, [groups, D, D]: the unfolded inputs times themselves."""
    columns = F.unfold(x, shape.kernel, padding=shape.padding, stride=shape.stride)
    rows = columns.transpose(0, 1).reshape(shape.groups, shape.cols, -1)
    return rows @ rows.transpose(1, 2)


def residual(h, expected):
    """||H - expected|| / ||expected||; a wrong H is not timed."""
    h, expected = h.double(), expected.double().reshape(h.shape)
    error = ((h - expected).norm() / expected.norm()).item()
    assert error < 2e-6
    return error


@pytest.mark.parametrize(
    ("layer", "method"),
    [(x, "accumulate") for x in CONVOLUTIONS[:4]]
    + [(x, method) for x in CONVOLUTIONS + POINTWISE for method in ("spade", "torch")],
)
@pytest.mark.benchmark(group="hessian of a convolution")
def test_convolution(measure, suite, layer, method):
    shape = layer_table()[layer]
    samples = samples_for(shape, suite)
    x = torch.randn(shape.input_shape(samples), device=suite.device).relu()
    layer = torch.nn.Conv2d(
        shape.channels, shape.rows, shape.kernel, shape.stride, shape.padding, groups=shape.groups
    )
    geometry = {n: getattr(layer, n) for n in ("kernel_size", "stride", "padding", "groups")}
    accumulator = HessianAccumulator(layer)
    calls = {
        "spade": lambda: hessian(x, **geometry),
        "accumulate": lambda: accumulator.update(x),
        "torch": lambda: unfolded(x, shape),
    }
    checked = {}
    if method == "spade":
        checked["residual"] = residual(calls["spade"](), calls["torch"]())
    if method == "accumulate":
        accumulator.update(x)
        checked["residual"] = residual(accumulator.hessian, calls["spade"]())
    measure(
        calls[method],
        cost(shape, samples),
        rounds=2 if method == "torch" else 4,
        memory=True,
        **checked,
        op="hessian",
        method=method,
        problem=f"{shape}, {samples} samples",
    )


@pytest.mark.parametrize("method", ["spade", "torch"])
@pytest.mark.parametrize("layer", LINEAR)
@pytest.mark.benchmark(group="hessian of linear inputs")
def test_linear(measure, suite, layer, method):
    shape = layer_table()[layer]
    samples = samples_for(shape, suite)
    x = torch.randn(shape.input_shape(samples), device=suite.device).relu()
    rows = x.flatten(0, -2)
    calls = {"spade": lambda: hessian(x), "torch": lambda: rows.T @ rows}
    error = residual(calls["spade"](), calls["torch"]())
    measure(
        calls[method],
        cost(shape, samples),
        memory=True,
        residual=error,
        op="hessian",
        method=method,
        problem=f"{shape}, {samples} samples",
    )
