"""The machine that benchmarks run on: what it is, how fast it multiplies and copies, what memory a call takes."""

import functools
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import spade_ext
from benchmarks import ROOT


def synchronize(device: str) -> None:
    """Wait for the work queued on a CUDA device."""
    if device != "cpu":
        torch.cuda.synchronize()


def seconds(call: Callable[[], object], device: str = "cpu", rounds: int = 3) -> float:
    """Least time of a call over some rounds."""
    times = []
    for _ in range(rounds):
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)


def product_gflops(
    device: str = "cpu", size: int = 2048, dtype: torch.dtype = torch.float32
) -> float:
    """GFLOP/s of one product of torch, [size / 2, size] by [size, size], with torch's threads, without TF32."""
    a, b = _factors(device, size, dtype)
    return size**3 / seconds(lambda: a @ b, device, 1) / 1e9


@functools.cache
def _factors(device: str, size: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    a = torch.randn(size // 2, size, device=device, dtype=dtype)
    b = torch.randn(size, size, device=device, dtype=dtype)
    a @ b  # the first product starts the library
    return a, b


def copy_gbs(device: str = "cpu", size: int = 2**26) -> float:
    """GB/s of torch's copy of `size` floats, each read once and written once."""
    a = torch.ones(size, device=device)
    b = torch.empty_like(a)
    b.copy_(a)
    return 8 * size / seconds(lambda: b.copy_(a), device, 5) / 1e9


def peak_extra_bytes(call: Callable[[], object], device: str = "cpu") -> int | None:
    """Most memory during a call beyond what there was before it; None where the system does not tell."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    reset = Path("/proc/self/clear_refs")
    try:
        reset.write_text("5")  # the peak restarts at the present
    except OSError:
        call()
        return None
    before = _status("VmRSS")
    call()
    return max(0, _status("VmHWM") - before)


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")


def _capability(device: str) -> tuple[int, int]:
    return (0, 0) if device == "cpu" else torch.cuda.get_device_capability()


def obc_update(device: str) -> str:
    """The update that exact OBC takes by itself in wide layers: "fp16" on compute capability 8.0 and from 9.0 on."""
    capability = _capability(device)
    return "fp16" if capability == (8, 0) or capability >= (9, 0) else "ffma"


def fast_double(device: str) -> bool:
    """Whether doubles run at half the rate of floats, so that SparseGPT's factor on the GPU is in double."""
    return _capability(device) in ((8, 0), (9, 0), (10, 0))


def cpu_name() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def describe(device: str = "cpu") -> dict[str, Any]:
    """Device, threads and versions; nothing that names the machine."""
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "device": "cpu" if device == "cpu" else torch.cuda.get_device_name(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "driver": driver_version(),
        "spade_ext": {**spade_ext.build_info(), "cuda": _cuda()},
    }


def _cuda() -> str:
    """Whether the CUDA backend is there; why not may name folders of this machine."""
    return "available" if spade_ext.cuda_is_available() else "unavailable"


def driver_version() -> str | None:
    """Version of the NVIDIA driver, or None without one."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip().partition("\n")[0] or None


def commit() -> str:
    """The checkout's commit; "-dirty" if tracked code differs from it."""
    code = ["csrc", "spade_ext", "python", "benchmarks", ":(exclude)benchmarks/results"]
    try:
        head, changes = (
            subprocess.run(["git", *words], capture_output=True, text=True, cwd=ROOT, check=True)
            for words in (
                ["rev-parse", "HEAD"],
                ["status", "--porcelain", "--untracked-files=no", "--", *code],
            )
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("-dirty" if changes.stdout.strip() else "")
