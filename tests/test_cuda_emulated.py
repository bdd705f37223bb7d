"""The Python layer over the CUDA backend, on CPU tensors with the kernels emulated.

SPADE_CUDA_LIBRARY names the emulated backend (the target spade_cuda_emulated of tests/cuda).
"""

import pytest
import torch
from problems import layer
from test_devices import relative, same_order

import spade_ext
from spade_ext import _cuda, reference
from spade_ext._elimination import Pattern, _eliminate_cuda, eliminate
from spade_ext.geometry import Conv2dGeometry
from spade_ext.inverse import invert_cuda

pytestmark = pytest.mark.skipif(
    spade_ext.build_info().get("nvcc") != "emulated",
    reason="SPADE_CUDA_LIBRARY names no emulated backend",
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("precision", ["default", "fast"])
def test_hessian_linear(dtype, precision):
    x = torch.randn(60, 40, generator=torch.Generator().manual_seed(0)).to(dtype)
    out = torch.zeros(2, 40, 40, dtype=torch.float64)
    _cuda.add_hessian_linear(x, out, precision, samples=2)
    exact = dtype != torch.float32 or precision == "default"
    for got, rows in zip(out, x.double().chunk(2), strict=True):
        assert relative(got, rows.T @ rows) < (1e-6 if exact else 1e-3)


def test_hessian_conv2d_adds_to_the_sum():
    x = torch.randn(2, 4, 7, 6, generator=torch.Generator().manual_seed(1))
    geometry = Conv2dGeometry.of(3, 1, 1, 1, 2)
    out = torch.ones(1, 2, 18, 18, dtype=torch.float64)
    _cuda.add_hessian_conv2d(x, geometry.fields(x), out)
    expected = reference.hessian(x.double(), kernel_size=3, padding=1, groups=2)
    assert relative(out[0] - 1, expected) < 1e-6


@pytest.mark.parametrize("damp", [0.0, 0.01])
def test_invert(damp):
    _, h = layer(1, 20, dtype=torch.float32)
    h[3] = h[:, 3] = 0
    inverse, damped, used, dead = _cuda.invert(h, damp)
    assert used == damp and dead == 1
    assert relative(damped.double() @ inverse.double(), torch.eye(20).double()) < 1e-3
    expected, _ = spade_ext.damped_inverse(h, damp)
    assert relative(inverse, expected.double()) < 1e-5


def test_invert_reads_the_lower_triangle_and_knows_its_range():
    _, h = layer(1, 20, dtype=torch.float32)
    inverse, damped, _, _ = _cuda.invert(h.tril() + torch.randn(20, 20).triu(1), 0.01)
    assert relative(inverse, spade_ext.damped_inverse(h)[0].double()) < 1e-5
    assert torch.equal(damped, damped.T)
    for scale in (1e-39, 3e38):
        with pytest.raises(
            spade_ext.SingularHessianError, match=r"op: .* in the range of torch.fl"
        ):
            invert_cuda("op", scale * torch.eye(3), 0.01)


def test_eliminate_runs_in_float64_where_float32_is_out_of_range():
    weight, h = layer(2, 24, dtype=torch.float32)
    arguments = Pattern(), 0.01, 1, None
    got = _eliminate_cuda("obc_trace", weight, h * 1e-40, *arguments)
    assert got.loss.dtype == torch.float64
    assert torch.equal(got.order, spade_ext.obc_trace(weight, h * 1e-40).order)


def test_invert_climbs_the_ladder_and_gives_up():
    h = torch.ones(5, 5)
    _, _, used, _ = _cuda.invert(h - 0.05 * torch.eye(5), 0.0)
    with pytest.warns(spade_ext.DampingWarning):
        _, expected = spade_ext.damped_inverse(h - 0.05 * torch.eye(5), 0.0)
    assert used == pytest.approx(expected)
    assert _cuda.invert(-h, 0.01) is None


@pytest.mark.parametrize("update", ["ffma", "fp16"])
@pytest.mark.parametrize("cols", [20, 150])
def test_obc_trace_and_weights(update, cols):
    weight, h = layer(3, cols, dtype=torch.float32)
    inverse, damped, _, _ = _cuda.invert(h, 0.01)
    order, loss, info = _cuda.obc_trace(weight, inverse, cols, update)
    assert not info.any()
    expected, expected_loss = reference.obc_trace(weight.double(), h.double())
    assert same_order(order, loss, weight, h, expected, expected_loss)
    trace = spade_ext.obc_trace(weight, h)
    counts = torch.tensor([0, cols // 3, cols - 1])
    weights, info = _cuda.obc_weights(weight, damped, inverse, trace.order, counts)
    assert not info.any()
    assert relative(weights, trace.prune_rows(counts).double()) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("most_columns", [4608, 20])
@pytest.mark.parametrize("pattern", [Pattern(), Pattern(2, 4), Pattern(block=4), Pattern(block=48)])
def test_eliminate(monkeypatch, pattern, dtype, most_columns):
    monkeypatch.setattr(_cuda, "MOST_COLUMNS", most_columns)
    weight, h = layer(3, 48, dtype=dtype)
    h[3] = h[:, 3] = 0
    arguments = "obc_trace", weight, h, pattern, 0.01, 1, None
    got, expected = _eliminate_cuda(*arguments), eliminate(*arguments)
    assert torch.equal(got.order, expected.order) and got.damp == expected.damp
    for name in ("loss", "weight", "hessian", "hinv"):
        assert relative(getattr(got, name), getattr(expected, name).double()) < 1e-4
    low = _eliminate_cuda("obc_trace", weight, h, pattern, 1e-5, 1, None)
    assert low.loss.dtype == torch.float64


@pytest.mark.parametrize("update", ["ffma", "fp16"])
@pytest.mark.parametrize("cols, n, m", [(24, 2, 4), (96, 4, 8), (600, 1, 6)])
def test_obc_trace_nm(update, cols, n, m):
    weight, h = layer(2, cols, dtype=torch.float32)
    inverse, _, _, _ = _cuda.invert(h, 0.01)
    order, loss, info = _cuda.obc_trace_nm(weight, inverse, n, m, update)
    assert not info.any() and order.shape == loss.shape == (2, cols // m * n)
    groups = order.long() // m
    assert torch.equal(
        groups.sort(1).values, torch.arange(cols // m).repeat_interleave(n).expand(2, -1)
    )
    trace = spade_ext.obc_trace(weight, h)
    expected = spade_ext.obc_prune(weight, h, n=n, m=m)
    counts = torch.full((2,), order.shape[1])
    got, info = _cuda.obc_weights(weight, trace.hessian, trace.hinv, order, counts)
    assert not info.any() and relative(got, expected.double()) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "pattern", [{}, {"n": 2, "m": 4}, {"block": 4}, {"block": 8}, {"block": 24}]
)
def test_obc_trace_pattern_and_weights(dtype, pattern):
    weight, h = layer(3, 48, dtype=dtype)
    inverse, damped, _, _ = _cuda.invert(h, 0.01)
    block = pattern.get("block", 1)
    steps = 24 if "n" in pattern else 48 // block
    order, loss, info = _cuda.obc_trace_pattern(weight, inverse, steps, **pattern)
    assert not info.any() and loss.dtype == dtype
    if "n" in pattern:
        expected = spade_ext.obc_prune(weight, h, **pattern)
    else:
        trace = spade_ext.obc_trace(weight, h, **pattern)
        assert torch.equal(order, trace.order)
        assert torch.allclose(loss, trace.loss, rtol=1e-4)
        order = (order[:, :24, None] * block + torch.arange(block).int()).flatten(1).contiguous()
        order = order[:, : 24 // block * block].contiguous()
        expected = trace.prune_rows(torch.full((3,), 24 // block))
    counts = torch.full((3,), order.shape[1])
    got, info = _cuda.obc_weights(weight, damped, inverse, order, counts)
    assert not info.any() and got.dtype == dtype
    assert relative(got, expected.double()) < (1e-4 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize(
    "options", [(0.5, 1, 0, 0), (0.7, 9, 0, 0), (0.9, 128, 0, 0), (0.0, 128, 2, 4)]
)
def test_sparsegpt_prune(options):
    weight, h = layer(5, 36, dtype=torch.float32)
    h = torch.stack([h, -h, 3 * h])
    out, damp, info = _cuda.sparsegpt_prune(weight, h, (*options, 0.01, 0))
    assert damp[0] == 0.01 and info.tolist() == [0, 3, 0]
    assert torch.equal(out[1], weight)
    sparsity, block_size, n, m = options
    pattern = {"n": n, "m": m} if m else {"sparsity": sparsity}
    expected = reference.sparsegpt_prune(
        weight.double(), h[0].double(), block_size=block_size, **pattern
    )
    assert relative(out[0], expected) < 1e-4 and relative(out[2], expected) < 1e-4


def test_errors_carry_the_text_of_the_backend():
    with pytest.raises(ValueError, match=r"spade_cuda_obc_trace: R must be in .*, got -1"):
        spade_ext._C.cuda_obc_trace(0, 0, -1, 1, 1, 0, 0, 0, 0, 0, 0, 0)
