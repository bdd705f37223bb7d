"""The Python layer over the CUDA backend, on CPU tensors with the kernels emulated.

SPADE_CUDA_LIBRARY names the emulated backend (the target spade_cuda_emulated of tests/cuda).
"""

from contextlib import nullcontext

import pytest
import test_obc_groups
import torch
from problems import layer
from test_devices import relative, same_order
from test_obc_groups import assert_as_alone, grouped
from torch import nn
from torch.overrides import TorchFunctionMode

import spade_ext
from spade_ext import _cuda, _gram, reference
from spade_ext._elimination import Pattern, eliminate
from spade_ext._elimination_cuda import eliminate_cuda
from spade_ext.geometry import Conv2dGeometry
from spade_xai import trace_many

pytestmark = pytest.mark.skipif(
    spade_ext.build_info().get("nvcc") != "emulated",
    reason="SPADE_CUDA_LIBRARY names no emulated backend",
)


class OnDevice(torch.Tensor):
    """A CPU tensor that the ops take for one on CUDA."""

    is_cuda = True

    def cpu(self):
        return self.as_subclass(torch.Tensor)

    def __deepcopy__(self, memo):
        made = self.detach().clone()
        memo[id(self)] = nn.Parameter(made) if isinstance(self, nn.Parameter) else made
        return memo[id(self)]


@pytest.fixture
def on_device(monkeypatch):
    """Turns CPU tensors into such that public functions compute with the emulated kernels."""
    monkeypatch.setattr(_cuda, "_device", lambda tensor: nullcontext())
    monkeypatch.setattr(_cuda, "_stream", lambda tensor: 0)
    monkeypatch.setattr(_cuda, "_limit", lambda tensor: 2**28)
    return lambda tensor: tensor.as_subclass(OnDevice)


class Waits(TorchFunctionMode):
    """Counts what makes Python wait for a device."""

    NAMES = frozenset(
        {
            "tolist",
            "item",
            "__bool__",
            "__int__",
            "__float__",
            "__index__",
            "nonzero",
            "cpu",
            "bincount",
        }
    )

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, function, types, arguments=(), options=None):
        if getattr(function, "__name__", "") in self.NAMES:
            self.seen.append(function.__name__)
        return function(*arguments, **(options or {}))


def counted(monkeypatch, call, *arguments, **options):
    """Names of the native calls and of the waits of a call."""
    native, run = [], _cuda._run

    def record(like, function, *rest):
        native.append(function.__name__)
        run(like, function, *rest)

    with monkeypatch.context() as patch, Waits() as waits:
        patch.setattr(_cuda, "_run", record)
        call(*arguments, **options)
    return native, waits.seen


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
        assert torch.allclose(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_accumulator(on_device, dtype):
    layer_ = torch.nn.Conv2d(4, 5, 3, padding=1)
    x = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(3)).to(dtype)
    accumulator, other = (spade_ext.HessianAccumulator(layer_) for _ in range(2))
    with Waits() as waits:
        accumulator.update(on_device(x[:2]))
        other.update(on_device(x[2:]))
        accumulator.merge(other)
    assert not waits.seen
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
    assert torch.equal(got.order, spade_ext.obc_trace(weight, h * 1e-40).order)
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
def test_obc_trace_and_weights(update, cols):
    weight, h = layer(3, cols, dtype=torch.float32)
    trace = spade_ext.obc_trace(weight, h)
    order, loss, info = _cuda.obc_trace(weight[None], trace.hinv[None], cols, update)
    assert not info.any()
    expected, expected_loss = reference.obc_trace(weight.double(), h.double())
    assert same_order(order[0], loss[0], weight, h, expected, expected_loss)
    counts = torch.tensor([0, cols // 3, cols - 1])
    arguments = weight, trace.hessian, trace.hinv, trace.order, counts
    weights, info = _cuda.obc_weights(*(x[None] for x in arguments))
    assert not info.any()
    assert relative(weights[0], trace.prune_rows(counts).double()) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("most_columns", [4608, 20])
@pytest.mark.parametrize("pattern", [Pattern(), Pattern(2, 4), Pattern(block=4), Pattern(block=48)])
def test_eliminate(monkeypatch, pattern, dtype, most_columns):
    monkeypatch.setattr(_cuda, "MOST_COLUMNS", most_columns)
    weight, h = layer(3, 48, dtype=dtype)
    h[3] = h[:, 3] = 0
    arguments = "obc_trace", weight, h, pattern, 0.01, 1, None
    got, expected = eliminate_cuda(*arguments), eliminate(*arguments)
    assert torch.equal(got.order, expected.order) and got.damp == expected.damp
    for name in ("loss", "weight", "hessian", "hinv"):
        assert relative(getattr(got, name), getattr(expected, name).double()) < 1e-4
    low = eliminate_cuda("obc_trace", weight, h, pattern, 1e-5, 1, None)
    assert low.loss.dtype == torch.float64


@pytest.mark.parametrize("update", ["ffma", "fp16"])
@pytest.mark.parametrize("cols, n, m", [(24, 2, 4), (96, 4, 8), (600, 1, 6)])
def test_obc_trace_nm(update, cols, n, m):
    weight, h = layer(2, cols, dtype=torch.float32)
    trace = spade_ext.obc_trace(weight, h)
    (order,), (loss,), info = _cuda.obc_trace_nm(weight[None], trace.hinv[None], n, m, update)
    assert not info.any() and order.shape == loss.shape == (2, cols // m * n)
    groups = order.long() // m
    assert torch.equal(
        groups.sort(1).values, torch.arange(cols // m).repeat_interleave(n).expand(2, -1)
    )
    expected = spade_ext.obc_prune(weight, h, n=n, m=m)
    counts = torch.full((2,), order.shape[1])
    arguments = weight, trace.hessian, trace.hinv, order, counts
    got, info = _cuda.obc_weights(*(x[None] for x in arguments))
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
    assert torch.equal(trace.order[1], spade_ext.obc_trace(weight[1], h[1], **options).order)


@pytest.mark.parametrize(
    "test",
    [
        test_obc_groups.test_groups_take_the_damping_and_precision_that_each_needs,
        test_obc_groups.test_errors,
        test_obc_groups.test_one_group_keeps_its_dimension,
    ],
)
def test_groups_on_the_device(on_device, monkeypatch, test):
    def on(*arguments):
        return tuple(on_device(x) for x in grouped(*arguments))

    monkeypatch.setattr(test_obc_groups, "grouped", on)
    test(torch.device("cpu"))


@pytest.mark.parametrize(
    "pattern", [{"sparsity": 0.5}, {"n": 1, "m": 3}, {"sparsity": 0.5, "block": 3}]
)
def test_native_calls_and_waits_do_not_grow_with_groups(on_device, monkeypatch, pattern):
    seen = []
    for groups in (1, 2, 96):
        weight, h = (on_device(x) for x in grouped(groups, 1, 9))
        seen.append(counted(monkeypatch, spade_ext.obc_prune, weight, h, **pattern))
    assert seen[0] == seen[1] == seen[2]
    native, waits = seen[0]
    assert len(native) == 2 and len(waits) == 3


def test_waits_of_sparsegpt_and_hessian(on_device, monkeypatch):
    weight, h = (on_device(x) for x in grouped(6, 2, 9))
    native, waits = counted(monkeypatch, spade_ext.sparsegpt_prune_batch, weight, h, 0.5)
    assert len(native) == 1 and len(waits) == 2
    x = on_device(torch.ones(5, 9))
    assert len(counted(monkeypatch, spade_ext.hessian, x)[1]) == 1
    for bad in ((weight, h * torch.nan), (weight * torch.inf, h)):
        with pytest.raises(ValueError, match=r"(hessian|weight) must be finite, got"):
            spade_ext.sparsegpt_prune_batch(*bad, 0.5)


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


def small_network(place):
    """Convolutions, one of them depthwise, and a linear layer, their parameters where place() puts them."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 6, 1), nn.Flatten(), nn.Linear(6 * 64, 5),
    )  # fmt: skip
    for module in model:
        for name, parameter in list(module.named_parameters()):
            setattr(module, name, nn.Parameter(place(parameter.detach())))
    return model.eval()


@pytest.mark.parametrize(
    ("method", "kernel"), [("obc", "cuda_obc_trace"), ("sparsegpt", "cuda_sparsegpt_prune")]
)
def test_traces_of_a_model_on_the_device(on_device, monkeypatch, method, kernel):
    images = list(torch.rand(2, 3, 8, 8))
    options = dict(method=method, sparsity=0.6, augmentations=8, seed=0, depthwise=True)
    moved = []
    cpu = OnDevice.cpu
    monkeypatch.setattr(OnDevice, "cpu", lambda x: (moved.append(x.numel()), cpu(x))[1])
    expected = list(trace_many(small_network(lambda x: x), images, **options))
    found = []
    native, _ = counted(
        monkeypatch,
        lambda: found.extend(
            trace_many(small_network(on_device), [on_device(x) for x in images], **options)
        ),
    )
    assert {"cuda_hessian_conv2d", "cuda_hessian_linear", kernel} <= set(native)
    kept = sum(int((x != 0).sum()) for ours in expected for x in ours.model.state_dict().values())
    assert sum(moved) <= kept  # no more than the packed traces
    for got, ours in zip(found, expected, strict=True):
        assert [layer.status for layer in got.layers] == [layer.status for layer in ours.layers]
        for name, tensor in ours.model.state_dict().items():
            there = got.model.state_dict()[name]
            assert torch.equal(there != 0, tensor != 0) and relative(there, tensor) < 1e-3


def test_errors_carry_the_text_of_the_backend():
    with pytest.raises(ValueError, match=r"spade_cuda_obc_trace: R must be in .*, got -1"):
        spade_ext._C.cuda_obc_trace(0, 0, -1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0)
