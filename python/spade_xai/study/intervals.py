"""Intervals for shares of answers that depend on who answers and on the image.

Answers of one rater are alike, and so are answers to one image. Raters, images and single answers are each drawn anew
with replacement; the variances of the three bootstraps make that of two-way clustered answers,

    V = V_raters + V_images - V_answers,

at least the larger of the first two. The interval is the estimate and t_{.975}, with one degree of freedom fewer than
there are raters or images, whichever are fewer, times sqrt(V).

Source: Cameron, Gelbach, Miller, "Robust inference with multiway clustering" (JBES 2011). Drawing raters and images in
one bootstrap counts the answers' own variance three times (Owen, "The pigeonhole bootstrap", AOAS 2007), which makes
the interval of a paired difference far too wide.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval; NaN where there are too few answers.

    Attributes:
        estimate: The share, or the difference of two.
        low: The lower end.
        high: The upper end.
        error: The standard error.
        n: The number of answers.
    """

    estimate: float
    low: float
    high: float
    error: float
    n: int

    @property
    def width(self) -> float:
        """High - low."""
        return self.high - self.low


class Bootstrap:
    """Draws of raters, of images and of answers.

    Args:
        raters: The number of each answer's rater, [N].
        images: The number of each answer's image, [N].
        draws: The number of draws of each kind.
        seed: Their seed.
    """

    def __init__(
        self,
        raters: NDArray[np.int64],
        images: NDArray[np.int64],
        *,
        draws: int = 2000,
        seed: int = 0,
    ) -> None:
        self._raters, self._images = raters, images
        self._draws, self._seed = draws, seed

    def interval(self, counts: Floats, measure: Callable[[Floats], Floats], n: int) -> Interval:
        """The interval of a measure of sums over answers.

        Args:
            counts: What is summed, [N, K].
            measure: Takes sums [B, K], gives [B]; NaN where it is not defined.
            n: The number of answers that it looks at.
        """
        if not len(counts):
            return Interval(math.nan, math.nan, math.nan, math.nan, n)
        estimate = float(measure(counts.sum(0, keepdims=True))[0])
        # Answers of equal counts are alike: how many of each kind are drawn is all that matters.
        kinds, many = np.unique(counts, axis=0, return_counts=True)
        by_answer = self._variance(kinds, many / len(counts), len(counts), measure)
        clustered = []
        for groups in (self._raters, self._images):
            sums = np.zeros((int(groups.max()) + 1, counts.shape[1]))
            np.add.at(sums, groups, counts)
            equal = np.full(len(sums), 1 / len(sums))
            clustered.append(self._variance(sums, equal, len(sums), measure))
        variance = max(sum(clustered) - by_answer, *clustered)
        fewest = min(len(np.unique(self._raters)), len(np.unique(self._images)))
        if fewest < 2 or not math.isfinite(variance):
            return Interval(estimate, math.nan, math.nan, math.nan, n)
        error = math.sqrt(max(variance, 0.0))
        reach = _t_quantile(fewest - 1) * error
        return Interval(estimate, estimate - reach, estimate + reach, error, n)

    def _variance(
        self, sums: Floats, chances: Floats, size: int, measure: Callable[[Floats], Floats]
    ) -> float:
        """Of the measure, where `size` of the rows are drawn with replacement."""
        rng = np.random.default_rng(self._seed)
        drawn = rng.multinomial(size, chances, size=self._draws).astype(np.float64)
        values = measure(drawn @ sums)
        values = values[np.isfinite(values)]
        return float(values.var(ddof=1)) if len(values) > 1 else math.nan


def share(sums: Floats) -> Floats:
    """Of sums [B, 2 or 4]: the first by the second, or the last two's share less the first two's."""
    with np.errstate(invalid="ignore", divide="ignore"):
        shares: Floats = sums[:, ::2] / sums[:, 1::2]
    return shares[:, -1] - shares[:, 0] if sums.shape[1] == 4 else shares[:, 0]


def _t_quantile(degrees: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.5 + LEVEL / 2, degrees))
