"""Ops on every device at sizes that reach the kernels for large layers, against float64 on the CPU.

Too large for `make cuda-test`: emulated, a case takes up to minutes.
"""

import pytest
import torch
from problems import assert_same_order, layer, relative

import spade_ext
from spade_ext import _cuda, reference
from spade_ext._elimination import EliminationPattern, eliminate

DAMP = 0.01


def damped(h):
    return h.double() + DAMP * h.double().diagonal().mean() * torch.eye(len(h))


def eliminations(weight, h, device, pattern):
    """Order and losses by each way that the device has to update a row's matrix."""
    if device.type == "cpu":
        trace = eliminate("obc_trace", weight, h, pattern, DAMP, torch.get_num_threads(), None)
        yield trace.order, trace.loss
        return
    hinv, _ = spade_ext.damped_inverse(h.to(device), DAMP)
    for update in ("ffma", "fp16"):
        there = weight.to(device)[None], hinv[None]
        if pattern.m:
            made = _cuda.obc_trace_nm(*there, pattern.n, pattern.m, update)
        else:
            made = _cuda.obc_trace(*there, weight.shape[1], update)
        order, loss, info = (x[0].cpu() for x in made)
        assert not info.any()
        yield order, loss


@pytest.mark.parametrize("rows, cols", [(3, 700), (2, 1300)])
def test_obc_trace(device, rows, cols):
    weight, h = layer(rows, cols, dtype=torch.float32)
    expected = spade_ext.obc_trace(weight.double(), h.double())
    total = 0.5 * (weight.double() @ damped(h) * weight).sum(1)  # whatever the order
    for order, loss in eliminations(weight, h, device, EliminationPattern()):
        assert_same_order(order, loss, expected.order, expected.loss)
        assert torch.equal(order.sort(1).values, torch.arange(cols).int().expand(rows, -1))
        torch.testing.assert_close(loss.double().sum(1), total, rtol=1e-4, atol=0)


@pytest.mark.parametrize("n, m", [(2, 4), (5, 8)])
def test_obc_trace_nm(device, n, m):
    weight, h = layer(2, 640, dtype=torch.float32)
    pattern = EliminationPattern(n, m)
    wide = weight.double(), h.double()
    expected = eliminate("obc_trace", *wide, pattern, DAMP, torch.get_num_threads(), None)
    groups = torch.arange(640 // m).repeat_interleave(n)
    for order, loss in eliminations(weight, h, device, pattern):
        assert_same_order(order, loss, expected.order, expected.loss)
        assert torch.equal((order.long() // m).sort(1).values, groups.expand(2, -1))


@pytest.mark.parametrize("block", [4, 64, 320])
def test_obc_trace_of_blocks(device, block):
    weight, h = layer(2, 640, dtype=torch.float32)
    got = spade_ext.obc_trace(weight.to(device), h.to(device), block=block)
    expected = spade_ext.obc_trace(weight.double(), h.double(), block=block)
    assert_same_order(got.order.cpu(), got.loss.cpu(), expected.order, expected.loss)


def best_weights(weight, h, kept):
    """W' = argmin (W' - W) H (W' - W)^T over the kept weights, a row at a time."""
    out = torch.zeros_like(weight, dtype=torch.float64)
    for row, w, keep in zip(out, weight.double(), kept, strict=True):
        row[keep] = torch.linalg.solve(h[keep][:, keep], h[keep] @ w)
    return out


@pytest.mark.parametrize(
    "pattern", [{"sparsity": 0.3}, {"sparsity": 0.8}, {"n": 2, "m": 4}, {"n": 5, "m": 8}]
)
def test_obc_prune(device, pattern):
    weight, h = layer(3, 640, dtype=torch.float32)
    got = spade_ext.obc_prune(weight.to(device), h.to(device), **pattern).cpu()
    expected = spade_ext.obc_prune(weight.double(), h.double(), **pattern)
    assert ((got == 0) == (expected == 0)).float().mean() > 0.99
    assert relative(got, best_weights(weight, damped(h), got != 0)) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_hessian_linear(device, dtype):
    x = torch.randn(700, 136, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert relative(spade_ext.hessian(x.to(device)), reference.hessian(x.double())) < 1e-6


@pytest.mark.parametrize(
    "channels, options",
    [
        (40, {"kernel_size": 3}),
        (64, {"kernel_size": 3, "padding": 1}),
        (64, {"kernel_size": 3, "padding": 1, "groups": 2}),
        (40, {"kernel_size": 3, "padding": 1, "stride": 2}),
        (136, {"kernel_size": 1}),
    ],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hessian_conv2d(device, channels, options, layout, dtype):
    x = torch.randn(2, channels, 19, 17, generator=torch.Generator().manual_seed(1)).to(dtype)
    got = spade_ext.hessian(x.to(memory_format=layout).to(device), **options)
    assert relative(got, reference.hessian(x.double(), **options)) < 1e-6


@pytest.mark.parametrize("sparsity", [0.5, 0.9])
def test_sparsegpt_prune_with_wide_masks(device, sparsity):
    weight, h = layer(9, 420, dtype=torch.float32)
    got = spade_ext.sparsegpt_prune(weight.to(device), h.to(device), sparsity, block_size=200)
    expected = reference.sparsegpt_prune(weight.double(), h.double(), sparsity, block_size=200)
    assert relative(got, expected) < 1e-3
