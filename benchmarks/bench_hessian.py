"""Hessians of ResNet50's 3 x 3 layers and of linear layers, against torch."""

import pytest
import torch
from conftest import peak_extra_bytes
from torch.nn import functional as F

from spade_ext import HessianAccumulator, hessian

CONVOLUTIONS = {  # 3 x 3, stride 1, padding 1: channels, pixels, images
    "56px": (64, 56, 32),
    "28px": (128, 28, 64),
    "14px": (256, 14, 128),
    "7px": (512, 7, 128),
}
LINEAR = {
    "1x1-56px": (100352, 64),
    "1x1-14px": (25088, 256),
    "768": (8192, 768),
    "2048": (8192, 2048),
}


def unfold_product(x):
    """What a Hessian costs in torch: the unfolded inputs times themselves."""
    rows = F.unfold(x, 3, padding=1).transpose(0, 1).flatten(1)
    return rows @ rows.T


def check(h, expected):
    assert (h.double() - expected.double()).norm() <= 2e-6 * expected.double().norm()


@pytest.mark.parametrize("method", ["spade", "accumulate", "torch"])
@pytest.mark.parametrize("shape", CONVOLUTIONS)
@pytest.mark.benchmark(group="hessian of a 3 x 3 convolution")
def test_convolution(benchmark, record, shape, method):
    channels, pixels, images = CONVOLUTIONS[shape]
    x = torch.randn(images, channels, pixels, pixels).relu()
    columns, samples = 9 * channels, images * pixels**2
    accumulator = HessianAccumulator(torch.nn.Conv2d(channels, 1, 3, padding=1))
    calls = {
        "spade": lambda: hessian(x, kernel_size=3, padding=1),
        "accumulate": lambda: accumulator.update(x),
        "torch": lambda: unfold_product(x),
    }
    if method == "spade":
        check(calls["spade"](), unfold_product(x))
    calls[method]()
    benchmark.pedantic(calls[method], rounds=5)
    record(
        flop=samples * columns * (columns + 1.0),  # the symmetric half, as if unfolded
        input_bytes=x.numel() * 4,
        hessian_bytes=columns**2 * 8,
        peak_extra_bytes=peak_extra_bytes(calls[method]),
    )


@pytest.mark.parametrize("method", ["spade", "torch"])
@pytest.mark.parametrize("shape", LINEAR)
@pytest.mark.benchmark(group="hessian of linear inputs")
def test_linear(benchmark, record, shape, method):
    samples, columns = LINEAR[shape]
    x = torch.randn(samples, columns).relu()
    calls = {"spade": lambda: hessian(x), "torch": lambda: x.T @ x}
    check(calls["spade"](), calls["torch"]())
    benchmark.pedantic(calls[method], rounds=7, warmup_rounds=1)
    record(flop=samples * columns * (columns + 1.0))
