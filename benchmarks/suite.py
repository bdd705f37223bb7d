"""How a run of the benchmarks was asked for, and the rates that each benchmark is set against."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import pytest
import torch

from benchmarks import machine
from benchmarks.configurations import Part
from benchmarks.costs import Work

FRESH_SECONDS = 5.0  # the copy rate is measured again after so long
_measured: dict[str, tuple[float, float]] = {}  # device: when, GB/s of a copy


@dataclass(frozen=True)
class Reference:
    """What an op is timed against, in the same rounds.

    Attributes:
        name: Of what it does.
        call: Does it.
        share: Of the op's work that a call does.
    """

    name: str
    call: Callable[[], object]
    share: float = 1.0


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

    @property
    def flop(self) -> float:
        """Of a benchmark's problem, where the layer allows: a fraction of a second."""
        return 1e10 if self.device == "cpu" else 1e13

    def sgemm_gflops(self) -> float:
        """The machine's SGEMM rate at this moment."""
        size = 256 if self.check else 2048 if self.device == "cpu" else 8192
        return machine.sgemm_gflops(self.device, size)

    def copy_gbs(self) -> float:
        """The machine's copy rate, now or a moment ago."""
        when, copy = _measured.get(self.device, (-FRESH_SECONDS, 0.0))
        if time.monotonic() - when > FRESH_SECONDS:
            copy = machine.copy_gbs(self.device, 2**16 if self.check else 2**25)
            _measured[self.device] = time.monotonic(), copy
        return copy

    def rates(
        self, work: Work | None, seconds: Sequence[float], sgemm: Sequence[float]
    ) -> dict[str, Any]:
        """Flop and byte counts, rates and their shares of the machine's: medians of rounds.

        Args:
            work: Of a round.
            seconds: Of each round.
            sgemm: The machine's GFLOP/s just before each round.
        """
        copy = self.copy_gbs()
        info: dict[str, Any] = {
            "device": self.device,
            "threads": torch.get_num_threads(),
            "sgemm_gflops": median(sgemm),
            "copy_gbs": copy,
        }
        if work is not None:
            gflops = [work.flop / t / 1e9 for t in seconds]
            gbs = work.bytes / median(seconds) / 1e9
            info |= {
                "flop": work.flop,
                "plain_flop": work.plain_flop,
                "bytes": work.bytes,
                "gflops": median(gflops),
                "gbs": gbs,
                "share_of_sgemm": median(g / s for g, s in zip(gflops, sgemm, strict=True)),
                "share_of_copy": gbs / copy,
                "share_of_limit": median(
                    g / work.limit(s, copy) for g, s in zip(gflops, sgemm, strict=True)
                ),
                "rounds_sgemm_gflops": list(sgemm),
            }
        return info
