"""Exact OBC over the CUDA backend, with the kernels emulated and on tensors of a device that is none.

SPADE_CUDA_LIBRARY names the emulated backend (the target spade_cuda_emulated of tests/cuda).
"""

import pytest
import torch
from problems import assert_as_alone, assert_same_order, grouped, layer, relative

import spade_ext
from spade_ext import _cuda, reference
from spade_ext._elimination import EliminationPattern, eliminate
from spade_ext._elimination_cuda import eliminate_cuda

pytestmark = pytest.mark.skipif(
    spade_ext.build_info().get("nvcc") != "emulated",
    reason="SPADE_CUDA_LIBRARY names no emulated backend",
)


def test_eliminate_runs_in_float64_where_float32_is_out_of_range(on_device):
    weight, h = layer(2, 24, dtype=torch.float32)
    got = spade_ext.obc_trace(on_device(weight), on_device(h * 1e-40))
    assert got.loss.dtype == torch.float64
    assert torch.equal(got.order.cpu(), spade_ext.obc_trace(weight, h * 1e-40).order)
    with pytest.raises(spade_ext.SingularHessianError, match=r"in the range of torch.float64"):
        spade_ext.obc_trace(on_device(weight), on_device(torch.eye(24).double() * 1e-310))


@pytest.mark.parametrize("update", ["ffma", "fp16"])
@pytest.mark.parametrize("cols", [20, 150])
def test_obc_trace_and_weights(on_device, update, cols):
    weight, h = layer(3, cols, dtype=torch.float32)
    trace = spade_ext.obc_trace(weight, h)
    arguments = on_device(weight[None]), on_device(trace.hinv[None]), cols, update
    order, loss, info = (x.cpu() for x in _cuda.obc_trace(*arguments))
    assert not info.any()
    expected, expected_loss = reference.obc_trace(weight.double(), h.double())
    assert_same_order(order[0], loss[0], expected, expected_loss, rtol=1e-4)
    counts = torch.tensor([0, cols // 3, cols - 1])
    arguments = weight, trace.hessian, trace.hinv, trace.order, counts
    weights, info = _cuda.obc_weights(*(on_device(x[None]) for x in arguments))
    assert not info.any()
    assert relative(weights[0], trace.prune_rows(counts).double()) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("most_columns", [4608, 20])
@pytest.mark.parametrize(
    "pattern",
    [
        EliminationPattern(),
        EliminationPattern(2, 4),
        EliminationPattern(block=4),
        EliminationPattern(block=48),
    ],
)
def test_eliminate(on_device, monkeypatch, pattern, dtype, most_columns):
    monkeypatch.setattr(_cuda, "MOST_COLUMNS", most_columns)
    weight, h = layer(3, 48, dtype=dtype)
    h[3] = h[:, 3] = 0
    there = on_device(weight), on_device(h), pattern
    got = eliminate_cuda("obc_trace", *there, 0.01, None)
    expected = eliminate("obc_trace", weight, h, pattern, 0.01, 1, None)
    assert torch.equal(got.order.cpu(), expected.order) and got.damp == expected.damp
    for name in ("loss", "weight", "hessian", "hinv"):
        assert relative(getattr(got, name), getattr(expected, name).double()) < 1e-4
    low = eliminate_cuda("obc_trace", *there, 1e-5, None)
    assert low.loss.dtype == torch.float64


@pytest.mark.parametrize("update", ["ffma", "fp16"])
@pytest.mark.parametrize("cols, n, m", [(24, 2, 4), (96, 4, 8), (600, 1, 6)])
def test_obc_trace_nm(on_device, update, cols, n, m):
    weight, h = layer(2, cols, dtype=torch.float32)
    trace = spade_ext.obc_trace(weight, h)
    arguments = on_device(weight[None]), on_device(trace.hinv[None]), n, m, update
    (order,), (loss,), info = (x.cpu() for x in _cuda.obc_trace_nm(*arguments))
    assert not info.any() and order.shape == loss.shape == (2, cols // m * n)
    groups = order.long() // m
    assert torch.equal(
        groups.sort(1).values, torch.arange(cols // m).repeat_interleave(n).expand(2, -1)
    )
    expected = spade_ext.obc_prune(weight, h, n=n, m=m)
    counts = torch.full((2,), order.shape[1])
    arguments = weight, trace.hessian, trace.hinv, order, counts
    got, info = _cuda.obc_weights(*(on_device(x[None]) for x in arguments))
    assert not info.any() and relative(got[0], expected.double()) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "pattern",
    [
        {"sparsity": 0.3},
        {"n": 2, "m": 4},
        {"sparsity": 0.5, "block": 4},
        {"sparsity": 0.5, "block": 24},
        {"sparsity": 0.5, "block": 48},
    ],
)
def test_obc_prune(on_device, dtype, pattern):
    weight, h = layer(3, 48, dtype=dtype)
    got = spade_ext.obc_prune(on_device(weight), on_device(h), **pattern)
    expected = spade_ext.obc_prune(weight, h, **pattern)
    assert relative(got, expected.double()) < (1e-4 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("rows, cols, options", [(1, 9, {}), (3, 49, {}), (2, 40, {"block": 4})])
def test_groups_are_as_if_each_were_alone(on_device, rows, cols, options, dtype):
    weight, h = (x.to(dtype) / 32 for x in grouped(3, rows, cols))
    h[2, 1] = h[2, :, 1] = 0
    trace = spade_ext.obc_trace(on_device(weight), on_device(h), **options)
    assert_as_alone(trace, on_device(weight), on_device(h), **options)
    alone = spade_ext.obc_trace(weight[1], h[1], **options)
    assert torch.equal(trace.order[1].cpu(), alone.order)


@pytest.mark.parametrize(
    "cols, pattern",
    [
        (9, {"sparsity": 0.5}),
        (9, {"n": 1, "m": 3}),
        (9, {"sparsity": 0.5, "block": 3}),
        (80, {"sparsity": 0.5, "block": 40}),
    ],
)
def test_native_calls_and_waits_do_not_grow_with_groups(fake_cuda, on_device, cols, pattern):
    seen = []
    for groups in (1, 2, 96):
        weight, h = (on_device(x) for x in grouped(groups, 1, cols))
        fake_cuda.forget()
        spade_ext.obc_prune(weight, h, **pattern)
        seen.append((list(fake_cuda.native), list(fake_cuda.waits)))
    assert seen[0] == seen[1] == seen[2]
    native, waits = seen[0]
    assert len(native) == 2 and len(waits) == 3
    assert all(name.startswith("cuda_obc_") for name in native)
