"""How a run of the benchmarks was asked for, and the rates that each benchmark is set against."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import pytest
import torch

from benchmarks import machine
from benchmarks.configurations import Part
from benchmarks.costs import Work
from benchmarks.rates import Rates

FRESH_SECONDS = 5.0  # rates but that of SGEMM are measured again after so long
_measured: dict[str, tuple[float, Rates]] = {}  # device: when, what


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
        flow_size: Most images per sample and most columns of a layer in whole flows; None for each flow's own.
    """

    full: bool = False
    check: bool = False
    device: str = "cpu"
    published: str | None = None
    configurations: tuple[str, ...] = ()
    mode: str | None = None
    part: Part | None = None
    flow_size: tuple[int, int] | None = None

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
            config.getoption("flow_size"),
        )

    @property
    def flop(self) -> float:
        """Of a benchmark's problem, where the layer allows: a fraction of a second."""
        return 1e10 if self.device == "cpu" else 1e13

    def sgemm_gflops(self) -> float:
        """The machine's SGEMM rate at this moment."""
        size = 256 if self.check else 2048 if self.device == "cpu" else 8192
        return machine.product_gflops(self.device, size)

    def limits(self, sgemm: float) -> Rates:
        """The machine's rates: SGEMM as given, the others as of now or a moment ago."""
        when, rates = _measured.get(self.device, (-FRESH_SECONDS, Rates(0.0, 0.0, 0.0, 0.0)))
        if time.monotonic() - when > FRESH_SECONDS:
            rates = self._measure()
            _measured[self.device] = time.monotonic(), rates
        double = rates.float64 if self.device != "cpu" else sgemm / 2
        return replace(rates, float32=sgemm, float64=double)

    def _measure(self) -> Rates:
        copy = machine.copy_gbs(self.device, 2**16 if self.check else 2**25)
        if self.device == "cpu":
            return Rates(0.0, 0.0, 0.0, copy)
        double, half = (
            max(
                machine.product_gflops(self.device, 256 if self.check else size, dtype)
                for _ in "abc"
            )
            for size, dtype in ((4096, torch.float64), (8192, torch.float16))
        )
        return Rates(0.0, double, half, copy)

    def rates(
        self, works: Sequence[Work], seconds: Sequence[float], sgemm: Sequence[float]
    ) -> dict[str, Any]:
        """Flop and byte counts, rates and their shares of the machine's: medians of rounds.

        Args:
            works: What a round does, one after another.
            seconds: Of each round.
            sgemm: The machine's GFLOP/s just before each round.
        """
        limits = self.limits(median(sgemm))
        info: dict[str, Any] = {
            "device": self.device,
            "threads": torch.get_num_threads(),
            "sgemm_gflops": median(sgemm),
            "copy_gbs": limits.copy,
        }
        if self.device != "cpu":
            info |= {"fp16_gflops": limits.float16, "float64_gflops": limits.float64}
        if works:
            flop, bytes_ = sum(w.flop for w in works), sum(w.bytes for w in works)
            gflops = [flop / t / 1e9 for t in seconds]
            gbs = bytes_ / median(seconds) / 1e9
            floors = [sum(w.floor(self.limits(s)) for w in works) for s in sgemm]
            info |= {
                "flop": flop,
                "plain_flop": sum(w.plain_flop for w in works),
                "bytes": bytes_,
                "gflops": median(gflops),
                "gbs": gbs,
                "share_of_sgemm": median(g / s for g, s in zip(gflops, sgemm, strict=True)),
                "share_of_copy": gbs / limits.copy,
                "share_of_limit": median(f / t for f, t in zip(floors, seconds, strict=True)),
                "rounds_sgemm_gflops": list(sgemm),
            }
        return info
