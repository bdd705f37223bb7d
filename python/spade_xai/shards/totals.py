"""Means of the rows of many shards, shard by shard: no shard is held after it was added."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from spade_xai.measures.metrics import Estimate
from spade_xai.shards import rows as r

if TYPE_CHECKING:
    import pyarrow

Key = tuple[Any, ...]


@dataclass
class Moments:
    """Count, mean and sum of squared deviations of values; two of them add up to those of all values.

    Source: Chan, Golub, LeVeque, "Algorithms for computing the sample variance" (1983).
    """

    n: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, n: int, mean: float, squares: float) -> None:
        """Add n further values."""
        whole = self.n + n
        step = mean - self.mean
        self.squares += squares + step * step * self.n * n / whole
        self.mean += step * n / whole
        self.n = whole

    def estimate(self) -> Estimate:
        """The mean with its standard error, as `metrics.mean`."""
        error = math.sqrt(self.squares / (self.n - 1) / self.n) if self.n > 1 else math.nan
        return Estimate(self.mean, error, self.n)


class Totals:
    """Figures of all shards: over all images, of faithful traces alone, and by folder and answer."""

    def __init__(self) -> None:
        self.images = 0
        self.skipped: list[str] = []
        self.all: dict[Key, Moments] = {}
        self.faithful: dict[Key, Moments] = {}
        self.groups: dict[Key, Moments] = {}

    def add(self, shard: "pyarrow.Table") -> None:
        """Add the rows of a shard."""
        import pyarrow
        import pyarrow.compute as pc

        one = ("kind", "metric", "method", "map")
        skipped = pc.equal(shard["kind"], r.SKIPPED)
        self.skipped += shard.filter(skipped)["metric"].to_pylist()
        figures = shard.filter(pc.invert(skipped))
        of_images = pc.not_equal(figures["kind"], r.SECONDS)
        self.images += pc.count_distinct(figures.filter(of_images)["image"]).as_py()
        _add(self.all, figures, one)
        _add(self.faithful, figures.filter(pc.equal(figures["faithful"], True)), one)
        scores = pc.is_in(figures["kind"], pyarrow.array([r.SCORE, r.DIFFERENCE]))
        _add(self.groups, figures.filter(scores), (*one, "folder", "answer"))

    def record(self) -> dict[str, Any]:
        """All figures as `tables.record` has them."""
        agreement: dict[str, dict[str, Any]] = {}
        for (_, measure, _, tracer), moments in self._of(r.FIDELITY):
            agreement.setdefault(tracer, {})[measure] = asdict(moments.estimate())
        return {
            "scores": self._scores(self.all),
            "faithful": {
                key[3]: asdict(moments.estimate()) for key, moments in self._of(r.FAITHFUL)
            },
            "scores_of_faithful": self._scores(self.faithful),
            "own_minus_other_image": [
                {"metric": metric, "method": method, "map": tracer, **asdict(moments.estimate())}
                for (_, metric, method, tracer), moments in self._of(r.OTHERS)
            ],
            "fidelity": agreement,
            "seconds": {key[1]: moments.n * moments.mean for key, moments in self._of(r.SECONDS)},
            "traces": self.images,
        }

    def by_group(self) -> "pyarrow.Table":
        """Scores by folder, answer, metric, method and map, each with n and standard errors."""
        import pyarrow

        return pyarrow.Table.from_pylist(
            [
                {
                    "folder": folder,
                    "answer": answer,
                    **_row(metric, method, name, moments, self.groups[(r.DIFFERENCE, *rest)]),
                }
                for (kind, *rest), moments in self.groups.items()
                if kind == r.SCORE
                for metric, method, name, folder, answer in [rest]
            ]
        )

    def _of(self, kind: str) -> Iterator[tuple[Key, Moments]]:
        return ((key, moments) for key, moments in self.all.items() if key[0] == kind)

    def _scores(self, found: dict[Key, Moments]) -> list[dict[str, Any]]:
        return [
            _row(metric, method, name, moments, found[r.DIFFERENCE, metric, method, name])
            for (kind, metric, method, name), moments in found.items()
            if kind == r.SCORE
        ]


def _add(totals: dict[Key, Moments], rows: "pyarrow.Table", keys: tuple[str, ...]) -> None:
    """Add the moments of the values of rows with equal keys; in order of the first row of each."""
    from pyarrow.compute import VarianceOptions

    figures = [
        ("value", "count"),
        ("value", "mean"),
        ("value", "variance", VarianceOptions(ddof=0)),
    ]
    found = rows.group_by(list(keys), use_threads=False).aggregate(figures)
    for row in found.to_pylist():
        n = row["value_count"]
        moments = totals.setdefault(tuple(row[key] for key in keys), Moments())
        moments.add(n, row["value_mean"], n * row["value_variance"])


def _row(
    metric: str, method: str, name: str, score: Moments, difference: Moments
) -> dict[str, Any]:
    mean, gain = score.estimate(), difference.estimate()
    return {
        "metric": metric,
        "method": method,
        "map": name,
        "n": mean.n,
        "mean": mean.mean,
        "standard_error": mean.standard_error,
        "difference_to_dense": gain.mean,
        "difference_standard_error": gain.standard_error,
    }
