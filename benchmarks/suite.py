"""How a run of the benchmarks was asked for, and the rates that each benchmark is set against."""

import time
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from benchmarks import machine
from benchmarks.configurations import Part
from benchmarks.costs import Work

FRESH_SECONDS = 5.0  # the machine's rates are measured again after so long
_measured: dict[str, tuple[float, float, float]] = {}  # device: when, SGEMM, copy


def _machine_rates(device: str, check: bool) -> tuple[float, float]:
    """GFLOP/s of SGEMM and GB/s of a copy, now or a moment ago."""
    when, sgemm, copy = _measured.get(device, (-FRESH_SECONDS, 0.0, 0.0))
    if time.monotonic() - when > FRESH_SECONDS:
        size, floats = (256, 2**16) if check else (2048, 2**25)
        sgemm = machine.sgemm_gflops(device, size)
        copy = machine.copy_gbs(device, floats)
        _measured[device] = time.monotonic(), sgemm, copy
    return sgemm, copy


@dataclass(frozen=True)
class Suite:
    """Options of a run.

    Attributes:
        full: Every shape, more rounds.
        check: Small problems and one round: results are checked and reported, their times mean nothing.
        device: "cpu" or "cuda".
        published: A checkout of the published code.
        configurations: Names in configurations.toml; empty for the suite's own choice.
        mode: "full" or "sampled" for all configurations; None for the suite's own choice.
        part: What sampled mode runs; None for the suite's own choice.
    """

    full: bool = False
    check: bool = False
    device: str = "cpu"
    published: str | None = None
    configurations: tuple[str, ...] = ()
    mode: str | None = None
    part: Part | None = None

    @classmethod
    def of(cls, config: pytest.Config) -> "Suite":
        """The options of a pytest run."""
        return cls(
            config.getoption("suite") == "full",
            config.getoption("check"),
            config.getoption("device"),
            config.getoption("published"),
            tuple(config.getoption("configuration") or ()),
            config.getoption("mode"),
            Part(*part) if (part := config.getoption("part")) else None,
        )

    def rates(self, work: Work | None, seconds: float) -> dict[str, Any]:
        """Flop and byte counts, rates and their shares of the machine's, which are measured in this run."""
        sgemm, copy = _machine_rates(self.device, self.check)
        info: dict[str, Any] = {
            "device": self.device,
            "threads": torch.get_num_threads(),
            "sgemm_gflops": sgemm,
            "copy_gbs": copy,
        }
        if work is not None:
            gflops, gbs = work.flop / seconds / 1e9, work.bytes / seconds / 1e9
            info |= {
                "flop": work.flop,
                "plain_flop": work.plain_flop,
                "bytes": work.bytes,
                "gflops": gflops,
                "gbs": gbs,
                "share_of_sgemm": gflops / sgemm,
                "share_of_copy": gbs / copy,
                "share_of_limit": gflops / work.limit(sgemm, copy),
            }
        return info
