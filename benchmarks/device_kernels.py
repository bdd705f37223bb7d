"""Time of every kernel that ran on a GPU, beside what its shapes allow: from the profiler's events to a table."""

import re
from collections.abc import Callable, Iterable
from typing import Any

import torch

from benchmarks.kernel_counts import Counts
from benchmarks.rates import Rates

OTHERS = "others"  # kernels, copies and fills of torch and its libraries
LATENCY = 0.25  # a floor that is less of the time does not bound it
Event = tuple[str, float]
"""Name of what ran on the device, and its seconds."""

_NAMESPACE = "spade::cuda::"
_MANGLED = re.compile(r"_ZN5spade4cuda")


def recorded(call: Callable[[], object]) -> list[Event]:
    """What the device ran during a call, by torch's profiler."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        call()
        torch.cuda.synchronize()
    return [
        (event.name, event.time_range.elapsed_us() * 1e-6)
        for event in profiler.events() or ()
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]


def kernel_of(name: str) -> str:
    """The kernel's name without namespaces, template arguments and parameters; OTHERS if it is not ours."""
    if _MANGLED.match(name):
        return _unmangled(name)
    head = re.split(r"[<(]", name.replace("(anonymous namespace)", "anonymous"))[0]
    _, ours, path = head.partition(_NAMESPACE)
    return path.rpartition("::")[2].strip() if ours else OTHERS


def _unmangled(name: str) -> str:
    """The last of the names in _ZN <length><name> ... <length><name> E or I."""
    rest, last = name.removeprefix("_ZN"), ""
    while found := re.match(r"\d+", rest):
        end = found.end() + int(found[0])
        last, rest = rest[found.end() : end], rest[end:]
    return last


def table(events: Iterable[Event], counts: Counts, rates: Rates) -> list[dict[str, Any]]:
    """A row per kernel, the longest first.

    Args:
        events: What ran.
        counts: Work of the kernels by name, for all that ran.
        rates: The machine's.

    Returns:
        kernel, calls, seconds. Those with counts also have flop, bytes, arithmetic, tflops, tbs, floor_seconds, floor:
        what that is the limit of (an arithmetic or memory), and bound: the same, or latency where the floor is far
        below the time.
    """
    spent: dict[str, list[float]] = {}
    for name, seconds in events:
        spent.setdefault(kernel_of(name), []).append(seconds)
    rows = []
    for kernel, times in spent.items():
        row: dict[str, Any] = {"kernel": kernel, "calls": len(times), "seconds": sum(times)}
        rows.append({**row, **_rates(row["seconds"], kernel, counts, rates)})
    return sorted(rows, key=lambda row: -row["seconds"])


def _rates(seconds: float, kernel: str, counts: Counts, rates: Rates) -> dict[str, Any]:
    works = counts.get(kernel)
    if not works or seconds <= 0:
        return {}
    flop, bytes_ = sum(w.flop for w in works), sum(w.bytes for w in works)
    floor = sum(w.floor(rates) for w in works)
    computing = [w for w in works if w.arithmetic_seconds(rates) > w.memory_seconds(rates)]
    most = max(works, key=lambda w: w.flop).arithmetic
    limit = most if 2 * sum(w.floor(rates) for w in computing) > floor else "memory"
    return {
        "flop": flop,
        "bytes": bytes_,
        "arithmetic": most if flop else None,
        "tflops": flop / seconds / 1e12,
        "tbs": bytes_ / seconds / 1e12,
        "floor_seconds": floor,
        "floor": limit,
        "bound": limit if floor >= LATENCY * seconds else "latency",
    }


def measured(call: Callable[[], object], counts: Counts, rates: Rates) -> dict[str, Any]:
    """The table of a call, its limits, and what the result file says of them."""
    return {
        "device_kernels": table(recorded(call), counts, rates),
        "device_limits": {
            "sgemm_gflops": rates.float32,
            "float64_gflops": rates.float64,
            "fp16_gflops": rates.float16,
            "copy_gbs": rates.copy,
        },
    }
