"""What is measured of the whole method, from configurations.toml; published figures and goals, from targets.toml."""

import functools
import sys
from dataclasses import dataclass
from typing import Any

from benchmarks import HERE

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Configuration:
    """What is pruned for a sample; see configurations.toml."""

    name: str
    model: str
    method: str
    augmentations: int
    targets: tuple[str, ...]
    samples: int = 1
    layers: str | None = None


@dataclass(frozen=True)
class Target:
    """A published latency in seconds per sample, with the paper's split where it has one.

    Attributes:
        name: In targets.toml.
        seconds: In all.
        forward_hessian: Forward pass and Hessian.
        prune_save: Pruning and saving.
        source: Table of the paper.
    """

    name: str
    seconds: float
    forward_hessian: float | None
    prune_save: float | None
    source: str


@dataclass(frozen=True)
class Goal:
    """What this project aims at on a GPU; not a published figure.

    Attributes:
        name: In targets.toml.
        what: Is measured.
        device: A word of the GPU's name that it is meant for.
        most: Of it.
        unit: Of it.
    """

    name: str
    what: str
    device: str
    most: float
    unit: str = "s"


@dataclass(frozen=True)
class Part:
    """What part of a configuration is run in sampled mode; the rest is extrapolated.

    Attributes:
        rows: Share of each layer's rows that exact OBC eliminates; the time to eliminate is proportional to them.
        augmentations: How many; forward passes and Hessians are proportional to them.
        samples: Most samples that a batch prunes; the time is proportional to them.
    """

    rows: float = 0.05
    augmentations: int = 512
    samples: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.rows <= 1 or self.augmentations < 1 or self.samples < 1:
            raise ValueError(
                f"Part: rows must be in (0, 1], augmentations and samples at least 1, got {self}"
            )


@functools.cache
def configurations() -> dict[str, Configuration]:
    """Every configuration by name."""
    data = tomllib.loads((HERE / "configurations.toml").read_text())
    return {
        name: Configuration(name, **{**row, "targets": tuple(row["targets"])})
        for name, row in data.items()
    }


@functools.cache
def targets() -> dict[str, Target]:
    """Every published latency by name."""
    data = tomllib.loads((HERE / "targets.toml").read_text())["latency"]
    return {name: _target(name, row) for name, row in data.items()}


@functools.cache
def goals() -> dict[str, Goal]:
    """Every goal by name."""
    data = tomllib.loads((HERE / "targets.toml").read_text())["goal"]
    return {name: Goal(name, **row) for name, row in data.items()}


def _target(name: str, row: dict[str, Any]) -> Target:
    forward, prune = row.get("forward_hessian_seconds"), row.get("prune_save_seconds")
    if "gpu_hours" in row:
        seconds = row["gpu_hours"] * 3600 / row["samples"]
    else:
        seconds = row["seconds"] if "seconds" in row else forward + prune
    return Target(name, seconds, forward, prune, row["source"])
