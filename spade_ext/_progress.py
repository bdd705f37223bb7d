"""Progress of native calls: None, True for a tqdm bar, or callback(done, total)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm

Callback = Callable[[int, int], object]


@contextmanager
def reporting(progress: bool | Callback | None, description: str) -> Iterator[Callback | None]:
    """Yield what the native call reports to."""
    if progress is None or progress is False:
        yield None
    elif progress is True:
        with tqdm(desc=description, leave=False) as bar:

            def update(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            yield update
    else:
        yield progress
