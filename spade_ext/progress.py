"""Progress of native calls: None, True for a tqdm bar, or callback(done, total)."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from tqdm.auto import tqdm

Callback = Callable[[int, int], object]

_SILENT = nullcontext(None)  # of every call without progress; nullcontext holds no state


@contextmanager
def _bar(description: str) -> Iterator[Callback]:
    with tqdm(desc=description, leave=False) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update


def reporting(
    progress: bool | Callback | None, description: str
) -> AbstractContextManager[Callback | None]:
    """Context that gives what the native call reports to."""
    if progress is True:
        return _bar(description)
    return nullcontext(progress) if progress else _SILENT
