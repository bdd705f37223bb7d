"""Hessians of real convolutions and linear layers, against torch."""

import pytest
import torch
from torch.nn import functional as F

from benchmarks import kernel_counts
from benchmarks.costs import hessian as cost
from benchmarks.layers import layer_table
from benchmarks.suite import Reference
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
DEPTHWISE_SAMPLES = 8  # few flop for their bytes: more would take seconds and show no more
BATCH = 64  # of trace, by default
CHECKED = 64  # samples that a GPU's result is checked on
CHECKED_AT_ONCE = 8  # unfolded in float64


def samples_for(shape, suite):
    """Enough samples for the suite's flop by the plain formula."""
    if suite.check:
        return 1
    most = DEPTHWISE_SAMPLES if shape.depthwise else 256
    return max(1, min(most, round(suite.flop / cost(shape, 1).plain_flop)))


def unfolded(x, shape):
    """Unfolded inputs [groups, D, N] by torch."""
    columns = F.unfold(x, shape.kernel, padding=shape.padding, stride=shape.stride)
    return columns.transpose(0, 1).reshape(shape.groups, shape.cols, -1)


def plain(x, shape):
    """The plain formula in torch, [groups, D, D]: the unfolded inputs times themselves."""
    rows = unfolded(x, shape)
    return rows @ rows.mT


def add_plain(h, x, shape):
    """The same, added to h."""
    rows = unfolded(x, shape)
    return h.baddbmm_(rows, rows.mT)


def relative_error(h, expected):
    """||H - expected|| / ||expected||."""
    return ((h.double() - expected.reshape(h.shape)).norm() / expected.norm()).item()


def in_double(plain, x):
    """plain(x) in float64, some samples at a time."""
    return sum(plain(part.double()) for part in x.split(CHECKED_AT_ONCE))


def residual(op, plain, x, bound=2e-6):
    """||H - expected|| / ||expected|| of op(x) and plain(x); a wrong H is not timed.

    A GPU's float32 sums over long inputs are no reference: there it is float64, and of some samples.
    """
    if x.is_cuda:
        x = x[:CHECKED]
    expected = in_double(plain, x) if x.is_cuda else plain(x).double()
    error = relative_error(op(x), expected)
    assert error < bound
    return error


def convolution(shape):
    """The layer of a shape."""
    sizes = shape.channels, shape.rows, shape.kernel, shape.stride, shape.padding
    return torch.nn.Conv2d(*sizes, groups=shape.groups)


@pytest.mark.parametrize(
    ("layer", "samples"),
    [(x, None) for x in CONVOLUTIONS + POINTWISE] + [(CONVOLUTIONS[3], BATCH)],
)
@pytest.mark.benchmark(group="hessian of a convolution")
def test_convolution(measure, suite, layer, samples):
    shape = layer_table()[layer]
    samples = 1 if suite.check else samples or samples_for(shape, suite)
    x = torch.randn(shape.input_shape(samples), device=suite.device).relu()
    layer = convolution(shape)
    geometry = {n: getattr(layer, n) for n in ("kernel_size", "stride", "padding", "groups")}
    measure(
        lambda: hessian(x, **geometry),
        cost(shape, samples),
        kernels=kernel_counts.hessian(shape, samples),
        reference=Reference("unfold + product", lambda: plain(x, shape)),
        memory=True,
        residual=residual(lambda x: hessian(x, **geometry), lambda x: plain(x, shape), x),
        op="hessian",
        problem=f"{shape}, {samples} samples",
    )


@pytest.mark.parametrize("layer", CONVOLUTIONS[:4])
@pytest.mark.benchmark(group="hessian of a convolution, accumulated")
def test_accumulator(measure, suite, layer):
    shape = layer_table()[layer]
    samples = samples_for(shape, suite)
    x = torch.randn(shape.input_shape(samples), device=suite.device).relu()
    accumulator = HessianAccumulator(convolution(shape))
    accumulator.update(x)
    h = plain(x, shape)

    def accumulated(x):
        fresh = HessianAccumulator(convolution(shape))
        fresh.update(x)
        return fresh.hessian

    error = residual(accumulated, lambda x: plain(x, shape), x)
    measure(
        lambda: accumulator.update(x),
        cost(shape, samples),
        kernels=kernel_counts.hessian(shape, samples),
        reference=Reference("unfold + product", lambda: add_plain(h, x, shape)),
        memory=True,
        residual=error,
        op="HessianAccumulator.update",
        problem=f"{shape}, {samples} samples",
    )


@pytest.mark.parametrize("layer", LINEAR)
@pytest.mark.benchmark(group="hessian of linear inputs")
def test_linear(measure, suite, layer):
    shape = layer_table()[layer]
    samples = samples_for(shape, suite)
    x = torch.randn(shape.input_shape(samples), device=suite.device).relu()

    def product(x):
        rows = x.flatten(0, -2)
        return rows.T @ rows

    measure(
        lambda: hessian(x),
        cost(shape, samples),
        kernels=kernel_counts.hessian(shape, samples),
        reference=Reference("product", lambda: product(x)),
        memory=True,
        residual=residual(hessian, product, x),
        op="hessian",
        problem=f"{shape}, {samples} samples",
    )
