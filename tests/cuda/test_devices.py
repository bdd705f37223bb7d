"""Every op on every device against the float64 reference on the CPU."""

import pytest
import torch
from problems import assert_same_order, layer, relative
from torch import nn

import spade_ext
from spade_ext import HessianAccumulator, OBCTrace, reference
from spade_xai.tracing.packed import Packed, pack_bits
from spade_xai.tracing.trace import trace, trace_many

SIZES = [(1, 1), (3, 2), (5, 31), (7, 33), (4, 129), (3, 300)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (100, 33), (2, 70, 129)])
def test_hessian_linear(device, dtype, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    got = spade_ext.hessian(x.to(device))
    assert got.device.type == device.type
    assert relative(got, reference.hessian(x.double())) < 1e-6


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 1},
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": (3, 2), "stride": 2, "padding": (1, 0)},
        {"kernel_size": 3, "dilation": 2, "padding": 2, "groups": 2},
        {"kernel_size": 3, "padding": 1, "groups": 6},
    ],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hessian_conv2d(device, options, layout, dtype):
    x = torch.randn(3, 6, 9, 7, generator=torch.Generator().manual_seed(1), dtype=dtype)
    got = spade_ext.hessian(x.contiguous(memory_format=layout).to(device), **options)
    expected = reference.hessian(x.double(), **options)
    assert relative(got, expected) < (1e-6 if dtype == torch.float32 else 1e-13)


def test_fast_precision(device):
    x = torch.randn(200, 40, generator=torch.Generator().manual_seed(2))
    got = spade_ext.hessian(x.to(device), precision="fast")
    error = relative(got, reference.hessian(x.double()))
    if device.type == "cuda":
        assert 1e-5 < error < 1e-3
    else:  # has one precision
        assert error < 1e-6


def test_accumulator(device):
    layer_ = nn.Conv2d(4, 5, 3, padding=1)
    x = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    accumulator = HessianAccumulator(layer_)
    for batch in x.to(device).split(2):
        accumulator.update(batch)
    expected = reference.hessian(x.double(), kernel_size=3, padding=1)
    assert relative(accumulator.hessian, expected) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_damped_inverse(device, dtype):
    _, h = layer(2, 33, dtype=dtype)
    inverse, damp = spade_ext.damped_inverse(h.to(device), 0.01)
    expected, _ = reference.damped_inverse(h.double(), 0.01)
    assert damp == 0.01 and relative(inverse, expected) < 1e-5


@pytest.mark.parametrize("rows, cols", SIZES)
def test_obc_trace(device, rows, cols):
    weight, h = layer(rows, cols, dtype=torch.float32)
    weight[0, cols // 2] = 0.0
    got = spade_ext.obc_trace(weight.to(device), h.to(device))
    expected, loss = reference.obc_trace(weight.double(), h.double())
    assert_same_order(got.order, got.loss, expected, loss, rtol=1e-4)
    assert got.order.device.type == device.type
    assert torch.equal(got.order.cpu().sort(1).values, torch.arange(cols).int().expand(rows, -1))
    if cols > 1:
        assert got.order[0, 0] == cols // 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "pattern",
    [
        {"sparsity": 0.3},
        {"sparsity": 0.9},
        {"n": 2, "m": 4},
        {"n": 5, "m": 8},
        {"sparsity": 0.5, "block": 4},
        {"sparsity": 0.5, "block": 64},
    ],
)
def test_obc_prune(device, pattern, dtype):
    weight, h = layer(6, 64, dtype=dtype)
    got = spade_ext.obc_prune(weight.to(device), h.to(device), **pattern)
    expected = reference.obc_prune(weight.double(), h.double(), **pattern)
    assert got.device.type == device.type
    assert relative(got, expected) < 1e-3


def test_trace_survives_a_file(torch_device, tmp_path):
    weight, h = layer(3, 20, dtype=torch.float32)
    made = spade_ext.obc_trace(weight.to(torch_device), h.to(torch_device))
    made.save(tmp_path / "trace.safetensors")
    again = OBCTrace.load(tmp_path / "trace.safetensors")
    assert torch.equal(again.order, made.order.cpu())
    assert relative(again.prune(0.5), made.prune(0.5).double().cpu()) < 1e-5


@pytest.mark.parametrize(
    "options",
    [
        {"sparsity": 0.5, "block_size": 1},
        {"sparsity": 0.9, "block_size": 9},
        {"sparsity": 0.7},
        {"n": 2, "m": 4},
    ],
)
@pytest.mark.parametrize("rows, cols", [(5, 36), (33, 132)])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-3), (torch.float64, 1e-10)])
def test_sparsegpt_prune(device, rows, cols, options, dtype, bound):
    weight, h = layer(rows, cols, dtype=dtype)
    got = spade_ext.sparsegpt_prune(weight.to(device), h.to(device), **options)
    expected = reference.sparsegpt_prune(weight.double(), h.double(), **options)
    assert got.device.type == device.type and got.dtype == dtype
    assert relative(got, expected) < bound


def test_sparsegpt_prune_layers(device):
    problems = [
        layer(5, 36, dtype=torch.float32),
        layer(9, 140, dtype=torch.float32),
        layer(3, 20, dtype=torch.float64),
        layer(6, 7, dtype=torch.bfloat16),
    ]
    weights = [w.to(device) for w, _ in problems]
    hessians = [
        torch.stack([h, -h, 2 * h])[: 1 + i].to(device) for i, (_, h) in enumerate(problems)
    ]
    sparsity, block_size = [0.5, 0.9, 0.0, 0.3], [9, 1, 4, 7]
    got = spade_ext.sparsegpt_prune_layers(weights, hessians, sparsity, block_size=block_size)
    for i, batch in enumerate(got):
        alone = spade_ext.sparsegpt_prune_batch(
            weights[i], hessians[i], sparsity[i], block_size=block_size[i]
        )
        assert torch.equal(batch.weights.cpu(), alone.weights.cpu())
        assert batch.weights.dtype == weights[i].dtype
        assert torch.equal(batch.damp, alone.damp) and torch.equal(batch.failed, alone.failed)
        assert batch.failed.tolist() == [False, True, False][: len(hessians[i])]


def test_sparsegpt_batch_with_a_failure(device):
    weight, h = layer(4, 24, dtype=torch.float32)
    h = torch.stack([h, -h, 2 * h])
    batch = spade_ext.sparsegpt_prune_batch(weight.to(device), h.to(device), 0.5)
    assert batch.failed.tolist() == [False, True, False]
    assert torch.equal(batch.weights[1].cpu(), weight)
    assert relative(batch.weights[2], batch.weights[0].double().cpu()) < 1e-4


def test_accumulator_tells_of_nan(device):
    accumulator = HessianAccumulator(None)
    x = torch.ones(3, 4).to(device)
    with pytest.raises(ValueError, match=r"must be finite, got .*NaN or Inf"):
        accumulator.update(x)
        accumulator.update(x * torch.inf)
        _ = accumulator.hessian


def test_errors_on_mixed_devices(device):
    weight, h = layer(2, 8, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"hessian must be on the device of weight, .*, got meta"):
        spade_ext.obc_trace(weight.to(device), h.to("meta"))
    with pytest.raises(ValueError, match="weight must be finite"):
        spade_ext.obc_trace(weight.to(device) * float("nan"), h.to(device))


@pytest.mark.parametrize("method", ["obc", "sparsegpt"])
def test_spade(torch_device, method):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(288, 4),
    )
    sample = torch.rand(1, 3, 8, 8)
    options = {
        "method": method,
        "augment": lambda x: x + 0.1 * torch.randn_like(x),
        "augmentations": 64,
    }
    result = trace(
        model.to(torch_device), sample.to(torch_device), sparsity=0.5, progress=False, **options
    )
    weights = dict(result.model.named_parameters())
    assert all(value.device.type == torch_device.type for value in weights.values())
    assert all(x.sparsity_got > 0.47 for x in result.layers)  # dead inputs take theirs with them
    assert result.fidelity().sample.label == 1.0
    if method == "sparsegpt":
        (many,) = trace_many(
            model, sample.to(torch_device), sparsity=0.5, progress=False, **options
        )
        assert min(many.agreement(result).values()) == 1.0


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 100])
def test_packed_weights(device, count):
    weights = torch.randn(2, count, generator=torch.Generator().manual_seed(4)).clamp_min(0)
    packed = Packed.of(weights.to(device)[None])
    assert torch.equal(packed.weights(), weights[None])
    assert torch.equal(pack_bits((weights != 0).flatten().to(device)).cpu(), packed.bits)
