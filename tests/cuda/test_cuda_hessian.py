"""Hessians, their inverses and SparseGPT over the CUDA backend, with the kernels emulated and on tensors of a device
that is none.

SPADE_CUDA_LIBRARY names the emulated backend (the target spade_cuda_emulated of tests/cuda).
"""

import pytest
import torch
from problems import grouped, layer, relative

import spade_ext
from spade_ext import _cuda, _gram, reference
from spade_ext.geometry import Conv2dGeometry

pytestmark = pytest.mark.skipif(
    spade_ext.build_info().get("nvcc") != "emulated",
    reason="SPADE_CUDA_LIBRARY names no emulated backend",
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("precision", ["default", "fast"])
def test_hessian_linear(on_device, dtype, precision):
    x = torch.randn(60, 40, generator=torch.Generator().manual_seed(0)).to(dtype)
    out = on_device(torch.zeros(2, 40, 40, dtype=torch.float64))
    _cuda.add_hessian_linear(on_device(x), out, precision, samples=2)
    exact = dtype != torch.float32 or precision == "default"
    for got, rows in zip(out, x.double().chunk(2), strict=True):
        error = relative(got, rows.T @ rows)
        assert error < 1e-6 if exact else 1e-5 < error < 1e-3


@pytest.mark.parametrize("channels, groups", [(40, 1), (4, 2)])
def test_fast_hessian_conv2d_is_one_product(on_device, channels, groups):
    x = torch.randn(2, channels, 7, 6, generator=torch.Generator().manual_seed(2))
    options = {"kernel_size": 2, "groups": groups}
    expected = reference.hessian(x.double(), **options)
    fast = spade_ext.hessian(on_device(x), precision="fast", **options)
    assert 1e-5 < relative(fast, expected) < 1e-3
    assert relative(spade_ext.hessian(on_device(x), **options), expected) < 1e-6


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
        {"kernel_size": 9, "padding": 4},
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


def test_waits_of_sparsegpt_and_hessian(fake_cuda, on_device):
    weight, h = (on_device(x) for x in grouped(6, 2, 9))
    x = on_device(torch.ones(5, 9))
    fake_cuda.forget()
    spade_ext.sparsegpt_prune_batch(weight, h, 0.5)
    assert len(fake_cuda.native) == 1 and len(fake_cuda.waits) == 2
    fake_cuda.forget()
    spade_ext.sparsegpt_prune_layers([weight, weight[0]] * 3, [h, h] * 3, 0.5)
    assert len(fake_cuda.native) == 1 and len(fake_cuda.waits) == 2
    fake_cuda.forget()
    spade_ext.hessian(x)
    assert len(fake_cuda.native) == 1 and len(fake_cuda.waits) == 1


def test_sparsegpt_of_layers_names_the_one_that_is_not_finite(on_device):
    weight, h = (on_device(x) for x in grouped(6, 2, 9))
    weights, hessians = [weight] * 3, [h, h * torch.inf, h]
    with pytest.raises(
        ValueError, match=r"sparsegpt_prune_layers: hessians\[1\] must be finite, got"
    ):
        spade_ext.sparsegpt_prune_layers(weights, hessians, 0.5)


@pytest.mark.parametrize("name", ["weight", "hessian"])
def test_sparsegpt_names_what_is_not_finite(on_device, name):
    weight, hessian = grouped(6, 2, 9)
    given = {"weight": weight, "hessian": hessian}
    given[name] = given[name] * torch.inf
    given = {name: on_device(x) for name, x in given.items()}
    with pytest.raises(ValueError, match=rf"sparsegpt_prune_batch: {name} must be finite, got"):
        spade_ext.sparsegpt_prune_batch(**given, sparsity=0.5)


@pytest.mark.parametrize(
    "options", [(0.5, 1, 0, 0), (0.7, 9, 0, 0), (0.9, 128, 0, 0), (0.0, 128, 2, 4)]
)
def test_sparsegpt_prune(on_device, options):
    weight, h = layer(5, 36, dtype=torch.float32)
    h = torch.stack([h, -h, 3 * h])
    layers = [(on_device(weight), on_device(h), (*options, 0.01, 0))]
    out, damp, info = (x.cpu() for x in _cuda.sparsegpt_prune(layers)[0])
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
