"""Hessians on a GPU of the inputs that traces give them: channels last, 16-bit floats, one product."""

from dataclasses import replace

import pytest
import torch

from benchmarks import kernel_counts
from benchmarks.bench_hessian import (
    BATCH,
    CONVOLUTIONS,
    LINEAR,
    POINTWISE,
    convolution,
    in_double,
    plain,
    relative_error,
)  # fmt: skip
from benchmarks.costs import hessian as cost
from benchmarks.layers import layer_table
from benchmarks.suite import Reference
from spade_ext import hessian

LAYERS = [*CONVOLUTIONS[:4], "resnet50:conv1", *POINTWISE[:2], LINEAR[1]]
INPUTS = {  # dtype, precision, largest relative error
    "float32": (torch.float32, "default", 2e-6),
    "fast": (torch.float32, "fast", 1e-3),
    "float16": (torch.float16, "default", 2e-6),
    "bfloat16": (torch.bfloat16, "default", 2e-6),
}
CHECKED = 8


def small(shape):
    """A layer of the same kind on a few pixels and channels."""
    return replace(
        shape, rows=8, channels=min(shape.channels, 48), size=min(shape.size, 8),
        positions=min(shape.positions, 20),
    )  # fmt: skip


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.benchmark(group="hessian of channels-last inputs on CUDA")
def test_inputs(measure, suite, layer, kind):
    if suite.device == "cpu":
        pytest.skip("of CUDA kernels")
    dtype, precision, bound = INPUTS[kind]
    shape = layer_table()[layer]
    samples = BATCH
    if suite.check:
        samples, shape = 1, small(shape)
    x = torch.randn(shape.input_shape(samples), device=suite.device).relu().to(dtype)
    options = {"precision": precision}
    if shape.kernel:
        x = x.contiguous(memory_format=torch.channels_last)
        made = convolution(shape)
        options |= {n: getattr(made, n) for n in ("kernel_size", "stride", "padding", "groups")}

    def product(x):
        if shape.kernel:
            return plain(x, shape)
        rows = x.flatten(0, -2)
        return rows.T @ rows

    few = x[:CHECKED]
    residual = relative_error(hessian(few, **options), in_double(product, few))
    assert residual < bound
    measure(
        lambda: hessian(x, **options),
        cost(shape, samples),
        reference=Reference("unfold + product", lambda: product(x)),
        memory=True,
        kernels=kernel_counts.hessian(
            shape, samples, itemsize=x.itemsize, channels_last=True, precision=precision
        ),
        residual=residual,
        op="hessian",
        problem=f"{shape}, {samples} samples, {kind}, channels last",
    )
