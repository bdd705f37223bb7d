"""Where shards are computed: in this process, or as Ray tasks on one machine or many."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

AHEAD = 2
"""Tasks that wait per one that runs, so that the driver holds few."""

Make = Callable[[int], None]
"""Computes the shard of a number and writes its file."""


def here(make: Make, numbers: Sequence[int]) -> Iterator[int]:
    """Compute the shards one after the other.

    Yields:
        The number of each, when its file is there.
    """
    for number in numbers:
        make(number)
        yield number


def on_ray(
    make: Make, numbers: Sequence[int], *, address: str | None, cpus: int, gpus: int
) -> Iterator[int]:
    """Compute the shards as Ray tasks. A task whose worker is lost runs again; one that raises ends the run.

    Args:
        make: Must be picklable; the files that it reads and writes must be at the same paths on all machines.
        numbers: Of the shards.
        address: Of a cluster, such as "auto"; None: a cluster of this machine alone, for the time of the run.
        cpus: Processors that a task takes.
        gpus: GPUs that a task takes.

    Raises:
        ModuleNotFoundError: Ray is not installed.

    Yields:
        The number of each, when its file is there.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"evaluate: --engine ray needs Ray ({error}): pip install 'spade-ext[ray]'"
        ) from None
    started = not ray.is_initialized()
    if started:
        ray.init(address=address, log_to_driver=False, include_dashboard=False)
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=3)(_numbered)
    held = ray.put(make)
    waiting: list[Any] = []
    rest = iter(numbers)
    try:
        while True:
            room = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)) // cpus)
            for number in rest:
                waiting.append(task.remote(held, number))
                if len(waiting) >= room:
                    break
            if not waiting:
                return
            done, waiting = ray.wait(waiting, num_returns=1)
            yield ray.get(done[0])
    finally:
        for one in waiting:
            with contextlib.suppress(Exception):
                ray.cancel(one)
        if started:
            ray.shutdown()


def _numbered(make: Make, number: int) -> int:
    make(number)
    return number
