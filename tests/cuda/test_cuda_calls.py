"""What ops hand to the CUDA backend and get from it, on a device that is none: stream, memory, errors.

SPADE_CUDA_LIBRARY names the emulated backend (the target spade_cuda_emulated of tests/cuda).
"""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from problems import layer

import spade_ext
from spade_ext import _cuda
from spade_xai.tracing.memory import available_memory

pytestmark = pytest.mark.skipif(
    spade_ext.build_info().get("nvcc") != "emulated",
    reason="SPADE_CUDA_LIBRARY names no emulated backend",
)

NATIVE = [
    "hessian_linear", "hessian_conv2d", "obc_trace", "obc_trace_nm", "obc_trace_pattern_f32",
    "obc_trace_pattern_f64", "obc_weights", "obc_weights_f64", "sparsegpt_prune",
]  # fmt: skip


@pytest.fixture(params=NATIVE)
def op(request, on_device):
    """The name of a native function, and an op on the device whose first native call it is."""
    weight, h = (on_device(x) for x in layer(6, 48, dtype=torch.float32))
    made = spade_ext.obc_trace(weight, h)
    wide = spade_ext.obc_trace(weight.double(), h.double())
    images = on_device(torch.rand(4, 6, 7, 7))
    ops = {
        "hessian_linear": lambda: spade_ext.hessian(weight),
        "hessian_conv2d": lambda: spade_ext.hessian(images, kernel_size=3, padding=1),
        "obc_trace": lambda: spade_ext.obc_trace(weight, h).loss,
        "obc_trace_nm": lambda: spade_ext.obc_prune(weight, h, n=2, m=4),
        "obc_trace_pattern_f32": lambda: spade_ext.obc_trace(weight, h, block=4).loss,
        "obc_trace_pattern_f64": lambda: spade_ext.obc_trace(weight.double(), h.double()).loss,
        "obc_weights": lambda: made.prune(0.5),
        "obc_weights_f64": lambda: wide.prune(0.5),
        "sparsegpt_prune": lambda: spade_ext.sparsegpt_prune(weight, h, 0.5),
    }
    return request.param, ops[request.param]


def test_the_fake_device_refuses_what_a_gpu_refuses(fake_cuda, on_device):
    x = torch.ones(3)
    for call in (lambda: on_device(x) + x, lambda: torch.stack([x, on_device(x)])):
        with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
            call()
    with pytest.raises(RuntimeError, match="numpy"):
        on_device(x).numpy()
    there = on_device(x)
    with pytest.raises(RuntimeError, match="all_finite_f32 reads memory of the device"):
        spade_ext._C.all_finite_f32(there.data_ptr(), 3)
    fake_cuda.forget()
    mask = on_device(x) > 0
    assert (on_device(x) + 1)[mask].tolist() == [2.0, 2.0, 2.0] and float(mask.sum()) == 3
    assert fake_cuda.moved == [3, 1]
    assert fake_cuda.waits == ["copy to cuda"] * 2 + ["index.Tensor", "copy to cpu", "item"]


def test_work_goes_to_the_current_stream(fake_cuda, monkeypatch, op):
    name, call = op
    results = []
    for stream in (0x5EED0, 0x5EED8):
        fake_cuda.switch_stream(stream)  # the backend refuses any other
        fake_cuda.forget()
        results.append(call().cpu())
        assert fake_cuda.native[0].removesuffix("_f32") == f"cuda_{name}".removesuffix("_f32")
    assert torch.equal(*results)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: SimpleNamespace(cuda_stream=0))
    with pytest.raises(RuntimeError, match="work on another stream than the caller's"):
        call()


def test_errors_carry_the_text_of_cuda(fake_cuda, op):
    name, call = op
    fake_cuda.refuse("an illegal memory access was encountered")
    with pytest.raises(RuntimeError, match=f"^spade_cuda_{name}: an illegal memory access was enc"):
        call()
    fake_cuda.refuse(None)
    call()


def test_errors_carry_the_text_of_the_backend():
    with pytest.raises(ValueError, match=r"spade_cuda_obc_trace: R must be in .*, got -1"):
        spade_ext._C.cuda_obc_trace(0, 0, -1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0)


def test_errors_reach_programs_that_link_libspade():
    """Where libspade is in the global scope, as in a program linked to it, the backend still uses its own functions."""
    program = f"""
import ctypes
spade = ctypes.CDLL({spade_ext.library_path()!r}, mode=ctypes.RTLD_GLOBAL)
spade.spade_last_error.restype = ctypes.c_char_p
size = ctypes.c_size_t()
spade.spade_cuda_obc_trace_workspace_bytes(
    ctypes.c_int64(-1), ctypes.c_int64(1), ctypes.c_int64(1), ctypes.c_size_t(0), ctypes.byref(size)
)
print(spade.spade_last_error().decode())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "R must be in" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("cols", "options"),
    [
        (20, {"sparsity": 0.5}),
        (80, {"sparsity": 0.5}),
        (600, {"n": 1, "m": 6}),
        (40, {"sparsity": 0.5, "block": 4}),
        (96, {"sparsity": 0.5, "block": 48}),
    ],
)
def test_rows_in_chunks(fake_cuda, on_device, monkeypatch, cols, options):
    weight, h = (on_device(x) for x in layer(5, cols, dtype=torch.float32))
    expected = spade_ext.obc_prune(weight, h, **options).cpu()
    scratch = memory_of_calls(monkeypatch)
    spade_ext.obc_prune(weight, h, **options)
    whole = list(scratch)
    scratch.clear()
    fake_cuda.free = max(whole)  # of which a call may take half
    assert torch.equal(spade_ext.obc_prune(weight, h, **options).cpu(), expected)
    assert max(scratch) <= max(whole) // 2
    fake_cuda.free = 2  # a row at a time
    assert torch.equal(spade_ext.obc_prune(weight, h, **options).cpu(), expected)


def test_memory_available_is_within_the_fraction_of_the_process(fake_cuda):
    fake_cuda.free, fake_cuda.reserved, fake_cuda.allocated = 1000, 700, 300
    for allowed, expected in ((fake_cuda.total, 1400), (500, 200), (200, 0)):
        fake_cuda.fraction = allowed / fake_cuda.total
        assert _cuda.available_memory(fake_cuda.device) == expected
        assert available_memory(fake_cuda.device) == expected  # what plans go by


def test_scratch_is_within_the_fraction_of_the_process(fake_cuda, on_device, monkeypatch):
    weight, h = (on_device(x) for x in layer(5, 40, dtype=torch.float32))
    scratch = memory_of_calls(monkeypatch)
    expected = spade_ext.obc_trace(weight, h, block=20).order.cpu()
    whole = scratch.pop()
    fake_cuda.fraction = whole / fake_cuda.total  # of which a call may take half
    assert torch.equal(spade_ext.obc_trace(weight, h, block=20).order.cpu(), expected)
    assert scratch.pop() <= whole // 2


def test_samples_in_chunks(fake_cuda, on_device, monkeypatch):
    weight, h = layer(5, 40, dtype=torch.float32)
    h = on_device(torch.stack([h, -h, 2 * h, h + torch.eye(40)]))
    arguments = on_device(weight), h, 0.5
    expected = spade_ext.sparsegpt_prune_batch(*arguments)
    scratch = memory_of_calls(monkeypatch)
    for free in (2**29, 0):
        fake_cuda.free = scratch[0] if scratch else free
        got = spade_ext.sparsegpt_prune_batch(*arguments)
        assert torch.equal(got.weights.cpu(), expected.weights.cpu())
        assert torch.equal(got.damp, expected.damp) and torch.equal(got.failed, expected.failed)
    assert scratch[1] <= scratch[0] // 2


def memory_of_calls(monkeypatch):
    """Bytes of scratch of every native call from now on."""
    seen, run = [], _cuda._run

    def noted(like, function, bytes_, *rest):
        seen.append(bytes_)
        run(like, function, bytes_, *rest)

    monkeypatch.setattr(_cuda, "_run", noted)
    return seen
