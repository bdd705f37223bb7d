"""Progress of everything that takes long, by bars or one kind of callback; and the time of the stages of a run."""

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from tqdm.auto import tqdm

StageCallback = Callable[[str, int, int], object]
"""Called with the stage, what is done of it, and its total: "forward", "hessian", "prune" and "fidelity" of a trace."""

Progress = bool | StageCallback | None
"""What every function of this package takes: True for bars after the first second, a callback, or None or False."""

_DELAY = 1.0  # seconds before a bar is shown: what is done by then needs none

LABELS = {
    "forward": "augmentations",
    "hessian": "Hessians",
    "prune": "pruning",
    "tune": "candidates",
    "fidelity": "budgets",
}


class Stages:
    """One bar a stage, or a callback; and the seconds of each stage."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.seconds: dict[str, float] = {}
        self.counts: dict[str, float] = {}
        self._bars: dict[str, tqdm] = {}  # type: ignore[type-arg]

    def __enter__(self) -> "Stages":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for bar in self._bars.values():
            bar.close()

    def report(self, stage: str, done: float, total: int) -> None:
        """Set how much of a stage is done."""
        self.counts[stage] = done
        if callable(self.progress):
            self.progress(stage, int(done), total)
        elif self.progress:
            bar = self._bars.get(stage)
            if bar is None:
                label = LABELS.get(stage, stage)
                place = len(self._bars)
                bar = tqdm(desc=label, total=total, position=place, leave=False, delay=_DELAY)
                self._bars[stage] = bar
            bar.total = total
            bar.n = round(done, 2)
            if done >= total and bar.format_dict["elapsed"] >= _DELAY:
                bar.refresh()
            else:
                bar.update(0)

    def add(self, stage: str, seconds: float) -> None:
        """Count time of a stage."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the time of the block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - start)


@contextmanager
def reporting(progress: Progress, stage: str) -> Iterator[Callable[[int, int], None] | None]:
    """What a function of one stage reports (done, total) to; None if nobody looks."""
    with Stages(progress) as stages:
        yield functools.partial(stages.report, stage) if progress else None
