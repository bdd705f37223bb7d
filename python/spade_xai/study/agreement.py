"""How alike the answers of raters are, and of one rater to the same task again."""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from spade_xai.study.answers import Answer


def krippendorff_alpha(units: Iterable[Sequence[Hashable]]) -> float:
    """Krippendorff's alpha for nominal values: 1 - observed over expected disagreement.

    With n_uv the number of values v of unit u, n_u their sum (units of one value do not count), n_v = sum_u n_uv, and
    n = sum_u n_u:

        alpha = 1 - (n - 1) sum_u [(n_u^2 - sum_v n_uv^2) / (n_u - 1)] / (n^2 - sum_v n_v^2)

    Args:
        units: The values that each unit was given, by any number of raters.

    Returns:
        1 if all agree, 0 as for values drawn by chance; NaN if there are no two values to compare, or all are the same.

    Source: Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011).
    """
    counts = [Counter(values) for values in units]
    counts = [c for c in counts if c.total() > 1]
    totals: Counter[Hashable] = Counter()
    for c in counts:
        totals.update(c)
    n = totals.total()
    expected = n * n - sum(k * k for k in totals.values())
    if expected == 0:
        return math.nan
    observed = sum(
        (c.total() ** 2 - sum(k * k for k in c.values())) / (c.total() - 1) for c in counts
    )
    return 1 - (n - 1) * observed / expected


def agreement(answers: Iterable[Answer], condition: str | None = None) -> float:
    """Krippendorff's alpha over tasks, of the outcomes; NaN if no task has two raters."""
    units: dict[str, list[str]] = {}
    for answer in answers:
        if not answer.repeat and condition in (None, answer.condition):
            units.setdefault(answer.task, []).append(answer.outcome)
    return krippendorff_alpha(units.values())


@dataclass(frozen=True)
class RaterSummary:
    """One rater's answers.

    Attributes:
        rater: The random id.
        tasks: The number of tasks, without repetitions.
        success: The share of agreement with Score-CAM.
        decided: The share of decisions.
        left: The share of "left" among the decisions; far from a half: the rater presses one side.
        seconds: Median time per task.
        repeats: The number of repeated tasks.
        consistent: How many of them got the same outcome, with the sides the other way round.
    """

    rater: str
    tasks: int
    success: float
    decided: float
    left: float
    seconds: float
    repeats: int
    consistent: int


def raters(answers: Sequence[Answer]) -> list[RaterSummary]:
    """A summary of each rater, in the order of their first answers."""
    by_rater: dict[str, list[Answer]] = {}
    for answer in answers:
        by_rater.setdefault(answer.rater, []).append(answer)
    return [_summary(name, own) for name, own in by_rater.items()]


def _summary(name: str, own: Sequence[Answer]) -> RaterSummary:
    first = {a.task: a for a in own if not a.repeat}
    decided = [a for a in first.values() if a.outcome != "undecided"]
    again = [a for a in own if a.repeat and a.task in first]
    return RaterSummary(
        rater=name,
        tasks=len(first),
        success=_share(a.outcome == "agree" for a in first.values()),
        decided=_share(a.outcome != "undecided" for a in first.values()),
        left=_share(a.choice == "left" for a in decided),
        seconds=median(a.seconds for a in own),
        repeats=len(again),
        consistent=sum(a.outcome == first[a.task].outcome for a in again),
    )


def _share(found: Iterable[bool]) -> float:
    values = list(found)
    return sum(values) / len(values) if values else math.nan
