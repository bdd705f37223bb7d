"""How many raters a study needs: simulated studies, each with the interval that the report would give it.

A rater r agrees with Score-CAM on image i under condition c with probability p_c + a_r + b_i, cut to [0, 1]; a and b
are normal. Raters have tasks as `assign` gives them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spade_xai.study.assignment import assign
from spade_xai.study.intervals import Bootstrap, Interval, share


@dataclass(frozen=True)
class Expected:
    """What a study is expected to find.

    Attributes:
        dense: Success without SPADE, in [0, 1].
        spade: Success with SPADE, in [0, 1].
        rater_spread: Standard deviation of success between raters.
        image_spread: Standard deviation of success between images.
    """

    dense: float = 0.567
    spade: float = 0.698
    rater_spread: float = 0.1
    image_spread: float = 0.15

    def __post_init__(self) -> None:
        for name in ("dense", "spade"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"power: {name} must be in [0, 1], got {getattr(self, name)}")
        for name in ("rater_spread", "image_spread"):
            if not 0 <= getattr(self, name) <= 0.5:
                raise ValueError(f"power: {name} must be in [0, 0.5], got {getattr(self, name)}")


@dataclass(frozen=True)
class Power:
    """What studies of one size find.

    Attributes:
        raters: The number of raters.
        answers: The number of answers.
        power: The share of studies whose interval of the difference does not hold 0, on the right side of it.
        width: The mean width of that interval.
        studies: The number of simulated studies.
    """

    raters: int
    answers: int
    power: float
    width: float
    studies: int

    @property
    def error(self) -> float:
        """The standard error of the power."""
        return math.sqrt(self.power * (1 - self.power) / self.studies)


def power(
    expected: Expected,
    raters: int,
    *,
    images: int,
    tasks: int,
    studies: int = 200,
    draws: int = 200,
    seed: int = 0,
) -> Power:
    """Simulate studies of one size.

    Args:
        expected: What is expected.
        raters: Raters per study, 2 at least.
        images: Images per study.
        tasks: Images per rater, even.
        studies: The number of studies.
        draws: Bootstrap draws per study.
        seed: The seed of every draw.
    """
    if raters < 2:
        raise ValueError(f"power: raters must be at least 2, got {raters}")
    lists = assign([[2 * k, 2 * k + 1] for k in range(images)], tasks=tasks, seed=seed)
    slots = np.array([[slot.task for slot in lists[r % len(lists)]] for r in range(raters)])
    rater = np.repeat(np.arange(raters), tasks)
    image, spade = slots.reshape(-1) // 2, slots.reshape(-1) % 2 == 1
    rng = np.random.default_rng(seed)
    sign = math.copysign(1.0, expected.spade - expected.dense)
    found = []
    for k in range(studies):
        own = rng.normal(0, expected.rater_spread, raters)[rater]
        own += rng.normal(0, expected.image_spread, images)[image]
        chance = np.clip(np.where(spade, expected.spade, expected.dense) + own, 0, 1)
        hit = rng.random(len(rater)) < chance
        found.append(_difference(rater, image, hit, spade, draws, seed + k))
    beyond = [math.isfinite(i.low) and min(sign * i.low, sign * i.high) > 0 for i in found]
    width = float(np.mean([i.width for i in found]))
    return Power(raters, len(rater), sum(beyond) / studies, width, studies)


def raters_needed(
    expected: Expected,
    *,
    images: int,
    tasks: int,
    least: float = 0.8,
    width: float | None = None,
    most: int = 2000,
    studies: int = 200,
    seed: int = 0,
) -> tuple[list[Power], Power | None]:
    """The smallest number of raters that is enough, by doubling and then halving the step.

    Args:
        expected: What is expected.
        images: Images of the study.
        tasks: Images per rater.
        least: The power to reach.
        width: The width of the difference's interval to reach in place of a power.
        most: The most raters that are tried.
        studies: Simulated studies of each size.
        seed: The seed of every draw.

    Returns:
        All sizes that were tried, in order, and the smallest that was enough; None if none was.
    """
    tried: dict[int, Power] = {}

    def enough(raters: int) -> bool:
        tried[raters] = power(
            expected, raters, images=images, tasks=tasks, studies=studies, seed=seed
        )
        return tried[raters].width <= width if width is not None else tried[raters].power >= least

    high = 4
    while not enough(high):
        if high >= most:
            return _ordered(tried), None
        high = min(2 * high, most)
    low = high // 2 if high > 4 else 1
    while high - low > max(1, high // 16):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return _ordered(tried), tried[high]


def _ordered(tried: dict[int, Power]) -> list[Power]:
    return [tried[raters] for raters in sorted(tried)]


def _difference(
    rater: "np.ndarray[tuple[int], np.dtype[np.int64]]",
    image: "np.ndarray[tuple[int], np.dtype[np.int64]]",
    hit: "np.ndarray[tuple[int], np.dtype[np.bool_]]",
    spade: "np.ndarray[tuple[int], np.dtype[np.bool_]]",
    draws: int,
    seed: int,
) -> Interval:
    columns = (hit & ~spade, ~spade, hit & spade, spade)
    counts = np.stack(columns, axis=1).astype(np.float64)
    return Bootstrap(rater, image, draws=draws, seed=seed).interval(counts, share, len(rater))


def sizes(sequence: Sequence[Power]) -> list[dict[str, float]]:
    """As rows for JSON."""
    return [
        {"raters": p.raters, "answers": p.answers, "power": p.power, "power_error": p.error, "width": p.width}
        for p in sequence
    ]  # fmt: skip
