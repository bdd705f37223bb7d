"""The ops over the CUDA backend, with the kernels emulated and on tensors of a device that is none.

SPADE_CUDA_LIBRARY names the emulated backend (the target spade_cuda_emulated of tests/cuda).
"""

import pytest
import test_obc_groups
import torch
from problems import layer
from test_devices import relative, same_order
from test_obc_groups import assert_as_alone, grouped

import spade_ext
from spade_ext import _cuda, _gram, reference
from spade_ext._elimination import Pattern, eliminate
from spade_ext._elimination_cuda import eliminate_cuda
from spade_ext.geometry import Conv2dGeometry

pytestmark = pytest.mark.skipif(
    spade_ext.build_info().get("nvcc") != "emulated",
    reason="SPADE_CUDA_LIBRARY names no emulated backend",
)


def counted(fake_cuda, call, *arguments, **options):
    """Names of the native calls and of the waits of a call."""
    fake_cuda.forget()
    call(*arguments, **options)
    return list(fake_cuda.native), list(fake_cuda.waits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("precision", ["default", "fast"])
def test_hessian_linear(on_device, dtype, precision):
    x = torch.randn(60, 40, generator=torch.Generator().manual_seed(0)).to(dtype)
    out = on_device(torch.zeros(2, 40, 40, dtype=torch.float64))
    _cuda.add_hessian_linear(on_device(x), out, precision, samples=2)
    exact = dtype != torch.float32 or precision == "default"
    for got, rows in zip(out, x.double().chunk(2), strict=True):
        assert relative(got, rows.T @ rows) < (1e-6 if exact else 1e-3)


def test_hessian_conv2d_adds_to_the_sum(on_device):
    x = torch.randn(2, 4, 7, 6, generator=torch.Generator().manual_seed(1))
    geometry = Conv2dGeometry.of(3, 1, 1, 1, 2)
    out = on_device(torch.ones(1, 2, 18, 18, dtype=torch.float64))
    _cuda.add_hessian_conv2d(on_device(x), geometry.fields(x), out)
    expected = reference.hessian(x.double(), kernel_size=3, padding=1, groups=2)
    assert relative(out[0] - 1, expected) < 1e-6


@pytest.mark.parametrize("patch_bytes", [1, 2**28])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": (3, 2), "stride": 2, "padding": (1, 0), "groups": 3},
        {"kernel_size": 3, "dilation": 2, "padding": "same", "groups": 6},
        {"kernel_size": 3, "padding": 2, "padding_mode": "reflect"},
        {"kernel_size": 9},
    ],
)
def test_float64_hessian_conv2d(on_device, monkeypatch, options, patch_bytes):
    monkeypatch.setattr(_gram, "_PATCH_BYTES", patch_bytes)
    x = torch.randn(4, 6, 8, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for layout in (torch.contiguous_format, torch.channels_last):
        got = spade_ext.hessian(on_device(x.contiguous(memory_format=layout)), **options)
        expected = spade_ext.hessian(x, **options)
        assert got.dtype == torch.float64 and got.shape == expected.shape
        assert torch.allclose(got.cpu(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_accumulator(fake_cuda, on_device, dtype):
    layer_ = torch.nn.Conv2d(4, 5, 3, padding=1)
    x = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(3)).to(dtype)
    accumulator, other = (spade_ext.HessianAccumulator(layer_) for _ in range(2))
    first, rest = on_device(x[:2]), on_device(x[2:])
    fake_cuda.forget()
    accumulator.update(first)
    other.update(rest)
    accumulator.merge(other)
    assert not fake_cuda.waits
    assert (
        relative(accumulator.hessian, reference.hessian(x.double(), kernel_size=3, padding=1))
        < 1e-6
    )
    other.update(on_device(x * torch.nan))
    accumulator.merge(other)
    for one in (accumulator, other):
        with pytest.raises(ValueError, match=r"HessianAccumulator.hessian: inputs must be finite"):
            _ = one.hessian


@pytest.mark.parametrize("damp", [0.0, 0.01])
def test_damped_inverse(on_device, damp):
    _, h = layer(1, 20, dtype=torch.float32)
    h[3] = h[:, 3] = 0
    got, used = spade_ext.damped_inverse(on_device(h), damp)
    expected, _ = spade_ext.damped_inverse(h, damp)
    assert used == damp and relative(got, expected.double()) < 1e-5


def test_damped_inverse_reads_the_lower_triangle_and_knows_its_range(on_device):
    _, h = layer(1, 20, dtype=torch.float32)
    asymmetric = on_device(h.tril() + torch.randn(20, 20).triu(1))
    got, _ = spade_ext.damped_inverse(asymmetric)
    assert relative(got, spade_ext.damped_inverse(h)[0].double()) < 1e-5
    damped = spade_ext.obc_trace(on_device(torch.ones(1, 20)), asymmetric).hessian
    assert torch.equal(damped, damped.T)
    for scale in (1e-39, 3e38):
        with pytest.raises(spade_ext.SingularHessianError, match=r"in the range of torch.fl"):
            spade_ext.damped_inverse(on_device(scale * torch.eye(3)), 0.01)


def test_eliminate_runs_in_float64_where_float32_is_out_of_range(on_device):
    weight, h = layer(2, 24, dtype=torch.float32)
    got = spade_ext.obc_trace(on_device(weight), on_device(h * 1e-40))
    assert got.loss.dtype == torch.float64
    assert torch.equal(got.order.cpu(), spade_ext.obc_trace(weight, h * 1e-40).order)
    with pytest.raises(spade_ext.SingularHessianError, match=r"in the range of torch.float64"):
        spade_ext.obc_trace(on_device(weight), on_device(torch.eye(24).double() * 1e-310))


def test_damped_inverse_climbs_the_ladder_and_gives_up(on_device):
    h = torch.ones(5, 5)
    indefinite = h - 0.05 * torch.eye(5)
    with pytest.warns(spade_ext.DampingWarning):
        got, used = spade_ext.damped_inverse(on_device(indefinite), 0.0)
    with pytest.warns(spade_ext.DampingWarning):
        expected, climbed = spade_ext.damped_inverse(indefinite, 0.0)
    assert used == climbed and relative(got, expected.double()) < 1e-5
    with pytest.raises(spade_ext.SingularHessianError, match="even with damp = 1"):
        spade_ext.damped_inverse(on_device(-h), 0.01)
    with pytest.raises(ValueError, match="hessian must be finite, got 25 NaN or Inf"):
        spade_ext.damped_inverse(on_device(h * torch.inf), 0.01)


@pytest.mark.parametrize("update", ["ffma", "fp16"])
@pytest.mark.parametrize("cols", [20, 150])
def test_obc_trace_and_weights(on_device, update, cols):
    weight, h = layer(3, cols, dtype=torch.float32)
    trace = spade_ext.obc_trace(weight, h)
    arguments = on_device(weight[None]), on_device(trace.hinv[None]), cols, update
    order, loss, info = (x.cpu() for x in _cuda.obc_trace(*arguments))
    assert not info.any()
    expected, expected_loss = reference.obc_trace(weight.double(), h.double())
    assert same_order(order[0], loss[0], weight, h, expected, expected_loss)
    counts = torch.tensor([0, cols // 3, cols - 1])
    arguments = weight, trace.hessian, trace.hinv, trace.order, counts
    weights, info = _cuda.obc_weights(*(on_device(x[None]) for x in arguments))
    assert not info.any()
    assert relative(weights[0], trace.prune_rows(counts).double()) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("most_columns", [4608, 20])
@pytest.mark.parametrize("pattern", [Pattern(), Pattern(2, 4), Pattern(block=4), Pattern(block=48)])
def test_eliminate(on_device, monkeypatch, pattern, dtype, most_columns):
    monkeypatch.setattr(_cuda, "MOST_COLUMNS", most_columns)
    weight, h = layer(3, 48, dtype=dtype)
    h[3] = h[:, 3] = 0
    there, rest = (on_device(weight), on_device(h), pattern), (1, None)
    got = eliminate_cuda("obc_trace", *there, 0.01, *rest)
    expected = eliminate("obc_trace", weight, h, pattern, 0.01, *rest)
    assert torch.equal(got.order.cpu(), expected.order) and got.damp == expected.damp
    for name in ("loss", "weight", "hessian", "hinv"):
        assert relative(getattr(got, name), getattr(expected, name).double()) < 1e-4
    low = eliminate_cuda("obc_trace", *there, 1e-5, *rest)
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
    "test",
    [
        test_obc_groups.test_groups_take_the_damping_and_precision_that_each_needs,
        test_obc_groups.test_errors,
        test_obc_groups.test_one_group_keeps_its_dimension,
    ],
)
def test_groups_on_the_device(fake_cuda, test):
    test(fake_cuda.device)


@pytest.mark.parametrize(
    "pattern", [{"sparsity": 0.5}, {"n": 1, "m": 3}, {"sparsity": 0.5, "block": 3}]
)
def test_native_calls_and_waits_do_not_grow_with_groups(fake_cuda, on_device, pattern):
    seen = []
    for groups in (1, 2, 96):
        weight, h = (on_device(x) for x in grouped(groups, 1, 9))
        seen.append(counted(fake_cuda, spade_ext.obc_prune, weight, h, **pattern))
    assert seen[0] == seen[1] == seen[2]
    native, waits = seen[0]
    assert len(native) == 2 and len(waits) == 3


def test_waits_of_sparsegpt_and_hessian(fake_cuda, on_device):
    weight, h = (on_device(x) for x in grouped(6, 2, 9))
    native, waits = counted(fake_cuda, spade_ext.sparsegpt_prune_batch, weight, h, 0.5)
    assert len(native) == 1 and len(waits) == 2
    x = on_device(torch.ones(5, 9))
    assert len(counted(fake_cuda, spade_ext.hessian, x)[1]) == 1
    for bad in ((weight, h * torch.nan), (weight * torch.inf, h)):
        with pytest.raises(ValueError, match=r"(hessian|weight) must be finite, got"):
            spade_ext.sparsegpt_prune_batch(*bad, 0.5)


@pytest.mark.parametrize(
    "options", [(0.5, 1, 0, 0), (0.7, 9, 0, 0), (0.9, 128, 0, 0), (0.0, 128, 2, 4)]
)
def test_sparsegpt_prune(on_device, options):
    weight, h = layer(5, 36, dtype=torch.float32)
    h = torch.stack([h, -h, 3 * h])
    arguments = on_device(weight), on_device(h), (*options, 0.01, 0)
    out, damp, info = (x.cpu() for x in _cuda.sparsegpt_prune(*arguments))
    assert damp[0] == 0.01 and info.tolist() == [0, 3, 0]
    assert torch.equal(out[1], weight)
    sparsity, block_size, n, m = options
    pattern = {"n": n, "m": m} if m else {"sparsity": sparsity}
    expected = reference.sparsegpt_prune(
        weight.double(), h[0].double(), block_size=block_size, **pattern
    )
    assert relative(out[0], expected) < 1e-4 and relative(out[2], expected) < 1e-4


@pytest.mark.parametrize("scale", [1e-18, 1e18])
def test_hessian_of_inputs_of_extreme_scale(on_device, scale):
    x = torch.randn(60, 20, generator=torch.Generator().manual_seed(4)) * scale
    expected = reference.hessian(x.double())
    assert relative(spade_ext.hessian(on_device(x)), expected) < 1e-6


@pytest.mark.parametrize("damp", [0.01, 1e-4])
@pytest.mark.parametrize("scale", [2.0**-112, 2.0**-62, 2.0**60, 2.0**120])
def test_the_scale_of_the_hessian_changes_no_bit(on_device, scale, damp):
    weight, h = layer(8, 60, dtype=torch.float32)
    weight, options = on_device(weight * 1e3), {"block_size": 1, "damp": damp}
    expected = spade_ext.sparsegpt_prune(weight, on_device(h), 0.5, **options)
    got = spade_ext.sparsegpt_prune(weight, on_device(h * scale), 0.5, **options)
    assert torch.equal(got.cpu(), expected.cpu())
