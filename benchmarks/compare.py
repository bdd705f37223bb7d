"""Regressions between two result files: every benchmark paired with itself.

The paired ratio is new time / old time, each in units of what the machine's own SGEMM of the same run took, so that a
slower machine, or a busy one, is not taken for a regression of the code.
"""

from dataclasses import dataclass
from typing import Any

LIMIT = 1.10


@dataclass(frozen=True)
class Pair:
    """One benchmark in both files.

    Attributes:
        name: Of the benchmark.
        old: Median seconds.
        new: Median seconds.
        ratio: new / old, relative to the machine's SGEMM rate in each run where both have it.
    """

    name: str
    old: float
    new: float
    ratio: float

    @property
    def regressed(self) -> bool:
        """Whether the new time is over the limit."""
        return self.ratio > LIMIT


def pairs(old: dict[str, Any], new: dict[str, Any]) -> list[Pair]:
    """Benchmarks that both files have, worst first."""
    before = {b["name"]: b for b in old["benchmarks"]}
    found = []
    for b in new["benchmarks"]:
        a = before.get(b["name"])
        if a is None or not _same_problem(a, b):
            continue
        times = [_seconds(x) for x in (a, b)]
        rates = [x.get("sgemm_gflops") for x in (a, b)]
        machine = rates[1] / rates[0] if all(rates) else 1.0
        found.append(Pair(b["name"], times[0], times[1], times[1] / times[0] * machine))
    return sorted(found, key=lambda pair: -pair.ratio)


def _seconds(benchmark: dict[str, Any]) -> float:
    return float(benchmark.get("total_seconds", benchmark["seconds"]["median"]))


def _same_problem(a: dict[str, Any], b: dict[str, Any]) -> bool:
    keys = ("flop", "augmentations", "samples", "mode", "rows_share", "augmentations_run", "device")
    return all(a.get(k) == b.get(k) for k in keys)


def comparison(old: dict[str, Any], new: dict[str, Any]) -> tuple[str, bool]:
    """A table of the pairs, and whether any regressed.

    Raises:
        ValueError: The files share no benchmark.
    """
    found = pairs(old, new)
    if not found:
        raise ValueError("compare: the files share no benchmark of the same problem")
    lines = [f"{'ratio':>7}  {'old ms':>10}  {'new ms':>10}  benchmark"]
    for pair in found:
        mark = "  <- slower" if pair.regressed else ""
        lines.append(
            f"{pair.ratio:7.3f}  {pair.old * 1e3:10.3f}  {pair.new * 1e3:10.3f}  {pair.name}{mark}"
        )
    slower = sum(pair.regressed for pair in found)
    lines.append(f"{slower} of {len(found)} slower by more than {LIMIT - 1:.0%}")
    return "\n".join(lines), slower > 0
