"""Numbers of extreme scale are right or an error, never Inf, NaN or 0 in silence."""

import pytest
import torch

from spade_ext import (
    HessianAccumulator,
    OBCTrace,
    hessian,
    obc_prune,
    obc_trace,
    reference,
    sparsegpt_prune,
)

SCALES = [1e-35, 1e-25, 1e-12, 1e12, 1e20, 1e35]
PATTERNS = [{"sparsity": 0.5}, {"n": 2, "m": 4}, {"sparsity": 0.5, "block": 4}]


def layer(rows=6, cols=16):
    x = torch.randn(60, cols)
    return torch.randn(rows, cols), hessian(x)


def power_of_two(scale):
    """A power of two near the scale: no digit of a product by it changes."""
    return 2.0 ** round(torch.tensor(scale, dtype=torch.float64).log2().item())


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_exact_obc_does_not_depend_on_the_scale_of_the_weights(device, pattern, scale):
    weight, h = (x.to(device) for x in layer())
    factor = power_of_two(scale)
    expected = reference.obc_prune(weight.double(), h.double(), **pattern)
    pruned = obc_prune(weight * factor, h, **pattern)
    assert torch.equal(pruned == 0, expected == 0)
    assert torch.allclose(pruned.double() / factor, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("pattern", PATTERNS[:2])
def test_sparsegpt_does_not_depend_on_the_scale_of_the_weights(device, pattern, scale):
    weight, h = (x.to(device) for x in layer())
    factor = power_of_two(scale)
    expected = sparsegpt_prune(weight, h, **pattern)
    pruned = sparsegpt_prune(weight * factor, h, **pattern)
    assert torch.equal(pruned == 0, expected == 0)
    assert torch.allclose(pruned.double() / factor, expected.double(), rtol=1e-5, atol=1e-6)


def test_a_row_far_from_the_others_keeps_its_order(device):
    weight, h = (x.to(device) for x in layer())
    expected = obc_trace(weight, h).order
    factors = torch.tensor([[1.0], [2.0**-80], [2.0**60], [1.0], [2.0**-120], [1.0]], device=device)
    assert torch.equal(obc_trace(weight * factors, h).order, expected)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("op", [obc_prune, sparsegpt_prune])
def test_one_weight_of_1e38(device, pattern, op):
    if op is sparsegpt_prune and "block" in pattern:
        pytest.skip("SparseGPT has no blocks of columns")
    weight, h = (x.to(device) for x in layer())
    weight[2, 5] = 1e38
    try:
        pruned = op(weight, h, **pattern)
    except ValueError as error:
        assert "range" in str(error) or "finite" in str(error)
    else:
        assert pruned.isfinite().all()
        others = [0, 1, 3, 4, 5]  # rows of n:m do not know of one another
        if "m" in pattern:
            expected = op(weight[others], h, **pattern)
            assert torch.equal(pruned[others] == 0, expected == 0)
            assert torch.allclose(pruned[others], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("op", [obc_prune, sparsegpt_prune])
def test_weights_that_leave_a_16_bit_dtype_are_an_error(device, dtype, op):
    most = torch.finfo(dtype).max
    weight = torch.tensor([[most, most]], dtype=dtype, device=device)
    h = torch.tensor([[2.0, 1.9], [1.9, 2.0]], device=device)
    with pytest.raises(ValueError, match=rf"{op.__name__}: .*(range of|must be finite)"):
        op(weight, h, 0.5, damp=0.01)


@pytest.mark.parametrize("scale", [1e20, 1e-24])
@pytest.mark.parametrize("kernel", [{}, {"kernel_size": 3}, {"kernel_size": 3, "groups": 4}])
def test_hessians_beyond_float32_are_an_error_and_float64_is_right(device, kernel, scale):
    x = torch.randn(2, 4, 5, 5) * scale if kernel else torch.randn(30, 8) * scale
    with pytest.raises(ValueError, match=r"hessian: H must be in the range of .*float"):
        hessian(x.to(device), **kernel)
    expected = reference.hessian(x.double(), **kernel)
    h = hessian(x.double().to(device), **kernel).cpu()
    assert torch.allclose(h, expected, rtol=1e-10, atol=1e-10 * float(expected.max()))


@pytest.mark.parametrize("scale", [1e17, 1e-17])
@pytest.mark.parametrize("kernel", [{}, {"kernel_size": 3}, {"kernel_size": 3, "groups": 4}])
def test_hessians_whose_squares_only_float64_holds(device, kernel, scale):
    x = torch.randn(2, 4, 5, 5) * scale if kernel else torch.randn(30, 8) * scale
    expected = reference.hessian(x.double(), **kernel)
    h = hessian(x.to(device), **kernel).cpu().double()
    assert torch.allclose(h, expected, rtol=1e-4, atol=1e-5 * float(expected.max()))


@pytest.mark.parametrize("scale", [1e20, 1e-24])
def test_an_accumulator_keeps_what_float32_cannot(device, scale):
    x = torch.randn(30, 8) * scale
    accumulator = HessianAccumulator(None)
    accumulator.update(x.to(device))
    with pytest.raises(ValueError, match=r"HessianAccumulator\.hessian: H must be in the range of"):
        _ = accumulator.hessian
    accumulator.update((x.double() * 0).to(device))  # of float64 is the result too
    expected = reference.hessian(x.double())
    limit = 1e-5 * float(expected.max())
    assert torch.allclose(accumulator.hessian.cpu(), expected, rtol=1e-4, atol=limit)


def test_bfloat16_of_extreme_scale(device):
    x = (torch.randn(30, 8) * 1e17).bfloat16()
    if device.type == "cuda":
        with pytest.raises(ValueError, match="bfloat16 ones on CUDA"):
            hessian(x.to(device))
        return
    expected = reference.hessian(x.double())
    assert torch.allclose(
        hessian(x).double(), expected, rtol=1e-4, atol=1e-5 * float(expected.max())
    )


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("step", [1, 2, -1])
def test_one_large_number_is_found_wherever_it_lies(channels_last, step):
    x = torch.zeros(3, 4, 9, 10)
    x[2, 3, 4, 6] = 1e20
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    x = x[..., ::2] if step == 2 else x.flip(0) if step == -1 else x
    with pytest.raises(ValueError, match=r"H must be in the range"):
        hessian(x, kernel_size=3, padding=1)
    x[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="x must be finite, got 1 NaN"):
        hessian(x, kernel_size=3, padding=1)


@pytest.mark.parametrize("mode", ["zeros", "replicate"])
def test_a_kernel_larger_than_the_padded_image(device, mode):
    x = torch.ones(1, 2, 2, 5, device=device)
    with pytest.raises(ValueError, match=r"at most the padded image \(2, 5\), got \(3, 3\)"):
        hessian(x, kernel_size=3, padding_mode=mode)
    with pytest.raises(ValueError, match=r"at most the padded image \(4, 7\), got \(5, 5\)"):
        hessian(x, kernel_size=3, padding=1, dilation=2, padding_mode=mode)


def parts_of(trace):
    return [getattr(trace, x) for x in ("order", "loss", "damp", "weight", "hessian", "hinv")]


@pytest.mark.parametrize("at", [0, 1, 4, 5])
def test_a_trace_of_wrong_sizes_is_refused(device, at):
    weight, h = (x.to(device) for x in layer())
    parts = parts_of(obc_trace(weight, h))
    parts[at] = parts[at][:-1]
    with pytest.raises(ValueError, match=r"OBCTrace: \w+ must have shape"):
        OBCTrace(*parts)


@pytest.mark.parametrize("change", [lambda x: x + 1, lambda x: x * 0, lambda x: x - 1])
def test_a_trace_without_an_order_is_refused(device, change):
    weight, h = (x.to(device) for x in layer())
    order, *rest = parts_of(obc_trace(weight, h))
    with pytest.raises(ValueError, match="order must hold each of 16 columns once"):
        OBCTrace(change(order), *rest)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_a_trace_of_other_dtypes_and_strides(device, dtype):
    weight, h = (x.to(device) for x in layer())
    order, loss, damp, *rest = parts_of(trace := obc_trace(weight, h))
    w, damped, hinv = (x.mT.contiguous().mT for x in rest)
    made = OBCTrace(
        order.long().mT.contiguous().mT, loss.to(dtype), damp, w, damped, hinv.to(dtype)
    )
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert made.weight.dtype == wide and made.order.dtype == torch.int32
    pruned = made.prune(0.25)
    assert pruned.dtype == wide
    assert torch.allclose(pruned.float(), trace.prune(0.25), rtol=0.05, atol=0.05)
