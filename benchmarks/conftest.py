"""What every benchmark records: machine, versions, commit, and the machine's own SGEMM rate in the same run."""

import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import spade_ext


def seconds(call: Callable[[], object], rounds: int = 3) -> float:
    """Least time of a call over some rounds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def sgemm_gflops() -> float:
    """GFLOP/s of torch's float32 matrix product at 2048, 2 n^3 flop, with torch's threads."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    a @ b
    return 2 * 2048**3 / seconds(lambda: a @ b, 5) / 1e9


def peak_extra_bytes(call: Callable[[], object]) -> int:
    """Most resident memory during a call beyond what there was before it (Linux)."""
    resident = {}
    Path("/proc/self/clear_refs").write_text("5")  # the peak restarts at the present
    for when in ("VmRSS", "VmHWM"):
        if when == "VmHWM":
            result = call()
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(when):
                resident[when] = int(line.split()[1]) * 1024
    del result
    return resident["VmHWM"] - resident["VmRSS"]


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    """Replace the machine's name by what matters for the figures."""
    model = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    machine_info.clear()
    machine_info.update(
        cpu=model[0] if model else platform.processor(),
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        torch=torch.__version__,
        spade_ext=spade_ext.build_info(),
    )


def pytest_benchmark_update_commit_info(config: pytest.Config, commit_info: dict) -> None:
    """Keep the commit's hash and whether the tree differs from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    commit_info.clear()
    commit_info.update(commit=result.stdout.strip() or "unknown")


@pytest.fixture
def record(benchmark) -> Callable[..., None]:
    """A function that writes figures down: rate from flop, and its share of the SGEMM rate measured right after."""

    def write(flop: float | None = None, **more: object) -> None:
        benchmark.extra_info.update(more)
        if flop is not None:
            rate = flop / benchmark.stats.stats.min / 1e9
            sgemm = sgemm_gflops()
            benchmark.extra_info.update(
                flop=flop, gflops=rate, sgemm_gflops=sgemm, share_of_sgemm=rate / sgemm
            )

    return write
