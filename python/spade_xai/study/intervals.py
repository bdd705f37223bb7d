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
    """Draws of raters, of images and of answers, the same for every measure.

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
        self._counts = [int(k.max()) + 1 if len(k) else 0 for k in (raters, images)]
        self._draws, self._seed = draws, seed

    def interval(self, measure: Callable[[Floats], Floats], n: int) -> Interval:
        """The interval of a measure.

        Args:
            measure: Takes how often each answer counts, [B, N], gives [B]; NaN where it is not defined.
            n: The number of answers that it looks at.
        """
        size = len(self._raters)
        if not size:
            return Interval(math.nan, math.nan, math.nan, math.nan, n)
        estimate = float(measure(np.ones((1, size)))[0])
        by_rater, by_image, by_answer = (
            self._variance(measure, groups) for groups in (self._raters, self._images, None)
        )
        variance = max(by_rater + by_image - by_answer, by_rater, by_image)
        fewest = min(len(np.unique(self._raters)), len(np.unique(self._images)))
        if fewest < 2 or not math.isfinite(variance):
            return Interval(estimate, math.nan, math.nan, math.nan, n)
        error = math.sqrt(max(variance, 0.0))
        reach = _t_quantile(fewest - 1) * error
        return Interval(estimate, estimate - reach, estimate + reach, error, n)

    def _variance(
        self, measure: Callable[[Floats], Floats], groups: NDArray[np.int64] | None
    ) -> float:
        rng = np.random.default_rng(self._seed)
        size = len(self._raters)
        count = size if groups is None else int(groups.max()) + 1
        chunk = max(1, min(self._draws, 4_000_000 // max(1, size)))
        found = []
        for start in range(0, self._draws, chunk):
            times = min(chunk, self._draws - start)
            drawn = rng.multinomial(count, np.full(count, 1 / count), size=times).astype(np.float64)
            found.append(measure(drawn if groups is None else drawn[:, groups]))
        values = np.concatenate(found)
        values = values[np.isfinite(values)]
        return float(values.var(ddof=1)) if len(values) > 1 else math.nan


def share(hit: NDArray[np.bool_], among: NDArray[np.bool_]) -> Callable[[Floats], Floats]:
    """The measure of how many of some answers are of a kind."""
    top, bottom = (hit & among).astype(np.float64), among.astype(np.float64)

    def measure(weights: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            result: Floats = (weights @ top) / (weights @ bottom)
        return result

    return measure


def _t_quantile(degrees: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.5 + LEVEL / 2, degrees))
