"""Table 4 of the paper: how often raters decide, and agree with Score-CAM, without and with SPADE."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spade_xai.study.answers import Answer
from spade_xai.study.assignment import CONDITIONS
from spade_xai.study.intervals import Bootstrap, Interval, share

# Percent, of 746 answers of 24 raters; SPADE (ICML 2024), Table 4.
PAPER = {
    "undecided": (22.9, 12.6),
    "agree": (56.7, 69.8),
    "disagree": (20.4, 17.8),
    "agree when decided": (73.6, 79.9),
    "disagree when decided": (26.4, 20.1),
    "success": (56.7, 69.8),
}
TITLES = {
    "undecided": "Undecided ↓",
    "agree": "Agree with Score-CAM ↑",
    "disagree": "Disagree with Score-CAM ↓",
    "agree when decided": "Agree when not undecided ↑",
    "disagree when decided": "Disagree when not undecided ↓",
    "success": "Overall success ↑",
}


@dataclass(frozen=True)
class Row:
    """A row of Table 4.

    Attributes:
        name: A key of TITLES.
        dense: The share without SPADE.
        spade: The share with SPADE.
        difference: With minus without.
        published: What the paper has, in percent.
    """

    name: str
    dense: Interval
    spade: Interval
    difference: Interval
    published: tuple[float, float]


def table(
    answers: Sequence[Answer],
    *,
    only: Sequence[str] = tuple(TITLES),
    draws: int = 2000,
    seed: int = 0,
) -> list[Row]:
    """Table 4 with intervals. Repeated tasks do not count.

    Args:
        answers: All answers.
        only: The rows, keys of TITLES.
        draws: The number of bootstrap draws.
        seed: Their seed.
    """
    first = [a for a in answers if not a.repeat]
    return [_row(name, first, draws, seed) for name in only]


def difference(answers: Sequence[Answer], *, draws: int = 2000, seed: int = 0) -> Interval:
    """Overall success with SPADE minus without."""
    return table(answers, only=["success"], draws=draws, seed=seed)[0].difference


def _row(name: str, answers: Sequence[Answer], draws: int, seed: int) -> Row:
    outcome = np.array([a.outcome for a in answers], dtype=object)
    kind = name.split(" ")[0].replace("success", "agree")
    hit = outcome == kind
    known = (
        outcome != "undecided" if name.endswith("decided") and " " in name else outcome == outcome
    )
    bootstrap = Bootstrap(
        _numbers([a.rater for a in answers]), _numbers([str(a.image) for a in answers]),
        draws=draws, seed=seed,
    )  # fmt: skip
    condition = np.array([a.condition for a in answers], dtype=object)
    among = [known & (condition == c) for c in CONDITIONS]
    columns = [column for part in among for column in (hit & part, part)]
    counts = np.stack(columns, axis=1).astype(np.float64)
    sizes = [int(part.sum()) for part in among]
    return Row(
        name,
        bootstrap.interval(counts[:, :2], share, sizes[0]),
        bootstrap.interval(counts[:, 2:], share, sizes[1]),
        bootstrap.interval(counts, share, sum(sizes)),
        PAPER[name],
    )


def _numbers(names: Sequence[str]) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    if not names:
        return np.zeros(0, dtype=np.int64)
    return np.unique(np.array(names), return_inverse=True)[1].astype(np.int64)
