"""Which tasks a rater gets, in which order, and on which side the regions stand.

A list is what one rater works through. Images take turns over lists, and the cells of an image (condition x neuron)
rotate as in a Latin square: each rater sees an image once, half of the tasks with SPADE, and over one period of lists
each cell of each image comes equally often.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

CONDITIONS = ("dense", "SPADE")
LEAST_LISTS = 48  # so that raters of one list are few: lists differ in order and sides
GAP = 3  # tasks between a task and its repetition, at least


@dataclass(frozen=True)
class Slot:
    """One task of a list.

    Attributes:
        task: Its place in the study's tasks.
        target_left: Whether the region of the task's neuron stands on the left.
        repeat: Whether the rater has had the task before, with the sides the other way round.
    """

    task: int
    target_left: bool
    repeat: bool = False


def assign(
    cells: Sequence[Sequence[int]], *, tasks: int, repeats: int = 0, seed: int = 0
) -> list[list[Slot]]:
    """Balanced random lists.

    Args:
        cells: For each image its tasks: those of the dense network and of SPADE in turn, for each neuron.
        tasks: Images per rater, even.
        repeats: Tasks of a rater that come a second time, for the rater's consistency.
        seed: The seed of every draw.

    Returns:
        At least LEAST_LISTS lists, a multiple of the period lcm(images, tasks) / tasks x cells per image.

    Raises:
        ValueError: An argument out of its range.
    """
    images = len(cells)
    if not images or len({len(cell) for cell in cells}) != 1 or len(cells[0]) % 2:
        raise ValueError("assign: cells must hold the same even number of tasks for each image")
    if not 2 <= tasks <= images or tasks % 2:
        raise ValueError(
            f"assign: tasks must be even and in [2, {images}], the number of images, got {tasks}"
        )
    if not 0 <= repeats <= max(0, tasks - GAP):
        raise ValueError(f"assign: repeats must be in [0, {max(0, tasks - GAP)}], got {repeats}")
    draw = random.Random(f"assign {seed}")
    order = list(range(images))
    draw.shuffle(order)
    turns = len(cells[0])
    blocks = math.lcm(images, tasks) // tasks
    rounds = math.ceil(LEAST_LISTS / (blocks * turns))
    lists = []
    for _ in range(rounds):
        for block in range(blocks):
            for turn in range(turns):
                chosen = [
                    cells[order[(block * tasks + k) % images]][(k + turn) % turns]
                    for k in range(tasks)
                ]
                lists.append(_in_order(chosen, turn, repeats, draw))
    return lists


def _in_order(chosen: Sequence[int], turn: int, repeats: int, draw: random.Random) -> list[Slot]:
    """A random order; in each condition the target stands on the left as often as on the right."""
    slots = []
    for half in range(2):  # tasks of one condition: every second one
        of_condition = [task for k, task in enumerate(chosen) if (k + turn) % 2 == half]
        odd = [draw.random() < 0.5] if len(of_condition) % 2 else []
        sides = [True, False] * (len(of_condition) // 2) + odd
        draw.shuffle(sides)
        slots += [Slot(task, left) for task, left in zip(of_condition, sides, strict=True)]
    draw.shuffle(slots)
    early = slots[: len(slots) - GAP]
    again = draw.sample(early, repeats) if repeats else []
    return slots + [Slot(slot.task, not slot.target_left, True) for slot in again]
