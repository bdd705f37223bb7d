"""When enough raters were asked: the interval of the difference is as narrow as was wanted.

The rule looks at the interval's width alone, never at where it lies, so that it does not favour a result.

Source: Chow and Robbins, "On the asymptotic theory of fixed-width sequential confidence intervals" (AMS 1965).
"""

from collections import Counter
from dataclasses import dataclass, field

from spade_xai.study.answers import Answer, meaning
from spade_xai.study.folder import Study
from spade_xai.study.intervals import Interval
from spade_xai.study.store import Store
from spade_xai.study.table import difference

LEAST_RATERS = 12  # intervals of fewer are too uncertain to stop by


@dataclass
class WidthRule:
    """Whether the interval of the difference in overall success is narrow enough.

    Args:
        width: From its lower to its upper end, in (0, 1]: 0.05 is five points.
        least: Raters with all tasks before anything is looked at.
        draws: The number of bootstrap draws.
    """

    width: float
    least: int = LEAST_RATERS
    draws: int = 1000
    _known: tuple[int, bool] = field(default=(-1, False), init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.width <= 1:
            raise ValueError(f"WidthRule: width must be in (0, 1], got {self.width}")

    def __call__(self, store: Store, study: Study) -> bool:
        """Whether no more raters are needed; computed anew when answers have come."""
        raw = store.answers()
        if self._known[0] != len(raw):
            answers = [meaning(study, answer) for answer in raw]
            self._known = (len(raw), self.is_met(answers, len(study.lists[0])))
        return self._known[1]

    def is_met(self, answers: list[Answer], tasks: int) -> bool:
        """Whether these answers are enough, of which those of a rater who is done are `tasks`."""
        done = sum(count >= tasks for count in Counter(a.rater for a in answers).values())
        return done >= self.least and self.interval(answers).width <= self.width

    def interval(self, answers: list[Answer]) -> Interval:
        """The interval of the difference."""
        return difference(answers, draws=self.draws)
