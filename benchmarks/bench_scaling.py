"""How cost grows: each op over a range of one size, from which the report fits an exponent."""

import os

import pytest
import torch

from benchmarks.layers import layer_table
from benchmarks.networks import network
from benchmarks.problems import pruning_problem
from spade_ext import damped_inverse, hessian, obc_trace, sparsegpt_prune
from spade_xai.models.layers import find_layers, select_layers
from spade_xai.tracing.hessians import Hessians

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
SIZES = {  # op, variable: values, exponent of the leading term
    ("obc_trace", "D"): ([256, 512, 1024, 2048], 3),
    ("obc_trace", "R"): ([16, 32, 64, 128], 1),
    ("damped_inverse", "D"): ([256, 512, 1024, 2048], 3),
    ("hessian", "D"): ([192, 384, 768, 1536], 2),
    ("hessian", "N"): ([2048, 4096, 8192, 16384], 1),
    ("hessian of a convolution", "images"): ([8, 16, 32, 64], 1),
    ("sparsegpt_prune", "D"): ([256, 512, 1024, 2048], 3),
    ("sparsegpt_prune", "R"): ([128, 256, 512, 1024], 1),
    ("sparsegpt_prune", "samples"): ([1, 2, 4, 8], 1),
    ("forward + Hessian", "augmentations"): ([2, 4, 8, 16], 1),
    ("obc_trace", "threads"): ([2**i for i in range(CORES.bit_length())], -1),
    ("hessian of a convolution", "threads"): ([2**i for i in range(CORES.bit_length())], -1),
    ("sparsegpt_prune", "threads"): ([2**i for i in range(CORES.bit_length())], -1),
}
CASES = [
    pytest.param(op, variable, value, id=f"{op}-{variable}-{value}")
    for (op, variable), (values, _) in SIZES.items()
    for value in values
]
CONVOLUTION = "resnet50:layer3.1.conv2"


def problem(op, variable, value, suite):
    """A call of the op at one size, and what it must return finite."""
    small = 8 if suite.check else 1
    size = {"D": 768 // small, "R": 64, "N": 4096, "samples": 1, "images": 16, "threads": None}
    size |= {variable: value // small if variable in ("D", "N") else value}
    threads = size["threads"]
    if op == "hessian":
        x = torch.randn(size["N"], size["D"], device=suite.device)
        return lambda: hessian(x)
    if op == "hessian of a convolution":
        shape = layer_table()[CONVOLUTION]
        x = torch.randn(shape.input_shape(max(1, size["images"] // small)), device=suite.device)
        return lambda: hessian(x, kernel_size=3, padding=1, threads=threads)
    if op == "forward + Hessian":
        return forward_hessian(max(1, value // small), 64 if suite.check else 224, suite.device)
    weight, h = pruning_problem(size["R"], size["D"], size["samples"], suite.device)
    if op == "damped_inverse":
        return lambda: damped_inverse(h[0])[0]
    if op == "obc_trace":
        rows = weight[:4] if variable == "D" else weight
        return lambda: obc_trace(rows, h[0], threads=threads).loss
    return lambda: sparsegpt_prune(weight, h, 0.9, block_size=1, threads=threads)


def forward_hessian(augmentations, size, device):
    """Forward pass of MobileNetV2 with the Hessians of its layers, augmentations in batches of 2."""
    model = network("mobilenet_v2", device)
    layers = select_layers(find_layers(model), None)
    images = torch.rand(augmentations, 3, size, size, device=device)

    def call():
        sums = Hessians(model, layers, "bench_scaling")
        with torch.no_grad():
            sums.run(images.split(2))
        return sums.take(layers[-1])

    return call


@pytest.mark.parametrize(("op", "variable", "value"), CASES)
@pytest.mark.benchmark(group="scaling")
def test_scaling(measure, suite, op, variable, value):
    if variable == "threads" and suite.device != "cpu":
        pytest.skip("of the CPU")
    call = problem(op, variable, value, suite)
    assert torch.isfinite(call()).all()
    expected = SIZES[op, variable][1]
    measure(call, op=op, variable=variable, value=value, expected_exponent=expected)
