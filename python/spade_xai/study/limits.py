"""How many requests of a kind are let through."""

import time
from collections.abc import Callable


class Buckets:
    """Token buckets by name: each holds `burst` and gets `rate` per second.

    Args:
        rate: Requests per second in the long run.
        burst: Requests at once.
        most: Names that are remembered; the fullest are forgotten first.
        clock: Seconds.
    """

    def __init__(
        self,
        rate: float,
        burst: int,
        *,
        most: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate, self._burst, self._most, self._clock = rate, burst, most, clock
        self._kept: dict[str, tuple[float, float]] = {}

    def take(self, name: str) -> bool:
        """Whether one more request of that name is let through."""
        now = self._clock()
        level, since = self._kept.get(name, (float(self._burst), now))
        level = min(self._burst, level + (now - since) * self._rate)
        if name not in self._kept and len(self._kept) >= self._most:
            self._forget(now)
        self._kept[name] = (level - 1 if level >= 1 else level, now)
        return level >= 1

    def _forget(self, now: float) -> None:
        filled = sorted(
            self._kept, key=lambda n: self._kept[n][0] + (now - self._kept[n][1]) * self._rate
        )
        for name in filled[self._most // 2 :]:
            del self._kept[name]
