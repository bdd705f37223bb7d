"""libspade_cuda as nvcc built it, loaded: on machines without a GPU it says so and changes nothing.

SPADE_CUDA_LIBRARY names the library (the target spade_cuda of csrc/cuda), ARCHITECTURES what CMake was asked to build
it for, if anything.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import spade_ext

LIBRARY = os.environ.get("SPADE_CUDA_LIBRARY", "")
INFO = spade_ext.build_info()
SUCCESS, CUDA_UNAVAILABLE = 0, 7  # of spade_status_t
NO_DEVICE = (
    "no NVIDIA driver",
    "CUDA driver version is insufficient for CUDA runtime version",
    "no CUDA-capable device is detected",
    "compute capability 8.0 or higher is needed",
)
# Results of the CPU, then whether they are the same once the CUDA half has been asked for.
BEFORE_AND_AFTER = """
import torch, spade_ext
def loaded():
    return "libspade_cuda" in open("/proc/self/maps").read()
def results():
    x = torch.randn(90, 40, generator=torch.Generator().manual_seed(0))
    images = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(1))
    h = spade_ext.hessian(x)
    trace = spade_ext.obc_trace(x[:7], h)
    return [
        h, spade_ext.hessian(images, kernel_size=3, padding=1), spade_ext.damped_inverse(h)[0],
        trace.order, trace.loss, trace.prune(0.5), spade_ext.obc_prune(x[:7], h, n=2, m=4),
        spade_ext.sparsegpt_prune(x[:7], h, 0.5),
    ]
before = results()
assert not loaded(), "loaded before it was asked for"
spade_ext.cuda_is_available()
assert loaded(), spade_ext.build_info()["cuda"]
assert all(torch.equal(a, b) for a, b in zip(before, results(), strict=True)), "other results"
"""

pytestmark = pytest.mark.skipif(
    not LIBRARY or INFO.get("nvcc") == "emulated",
    reason="SPADE_CUDA_LIBRARY names no libspade_cuda built by nvcc",
)


def lines_of(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def test_build_info():
    assert INFO["nvcc"].split(".")[0].isdecimal(), INFO
    asked = os.environ.get("ARCHITECTURES") or "80 86-real 89-real 90-real"
    assert INFO["architectures"] == asked


def test_it_loads_and_tells_of_driver_or_device():
    if spade_ext.cuda_is_available():
        assert INFO["cuda"] == "available"
    else:
        assert INFO["cuda"].removeprefix("unavailable: ").startswith(NO_DEVICE), INFO


def test_calls_reach_the_device_or_say_why_not():
    native = ctypes.CDLL(spade_ext.library_path())
    native.spade_last_error.restype = ctypes.c_char_p
    size, number = ctypes.c_size_t(), ctypes.c_int64
    status = native.spade_cuda_obc_trace_workspace_bytes(
        number(2), number(70), number(70), ctypes.c_size_t(0), ctypes.byref(size)
    )
    if spade_ext.cuda_is_available():
        assert status == SUCCESS and size.value > 0
    else:
        reason = INFO["cuda"].removeprefix("unavailable: ")
        text = f"spade_cuda_obc_trace_workspace_bytes: {reason}"
        assert (status, native.spade_last_error().decode()) == (CUDA_UNAVAILABLE, text)


@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf")
def test_it_needs_no_library_of_cuda():
    needed = [line.split("[")[1] for line in lines_of("readelf", "-d", LIBRARY) if "NEEDED" in line]
    assert needed
    assert not [name for name in needed if name.startswith(("libcu", "libnv", "libspade"))]


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
def test_it_exports_one_symbol():
    lines = lines_of("nm", "-D", "--defined-only", "--format=posix", LIBRARY)
    assert [line.split()[0] for line in lines] == ["spade_cuda_backend"]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_loading_it_changes_no_result_of_the_cpu(tmp_path):
    command = [sys.executable, "-c", BEFORE_AND_AFTER]
    environment = os.environ | {"SPADE_CUDA_LIBRARY": str(Path(LIBRARY).resolve())}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
