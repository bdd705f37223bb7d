"""Which image's trace is the control of which image: of another answer, where there is one."""

from collections import Counter
from collections.abc import Sequence


def partners(answers: Sequence[int]) -> list[int]:
    """For each image, the one whose maps are scored after pruning for it.

    Every image is the partner of one other. Their answers differ, but for as many as the most frequent answer has
    above half of the images.

    Args:
        answers: What the dense model answers, of two images or more.

    Example:
        >>> partners([7, 7, 2, 5])
        [2, 3, 1, 0]
    """
    count = len(answers)
    order = sorted(range(count), key=lambda k: (answers[k], k))
    most = max(Counter(answers).values())
    shift = most % count or 1
    after = {order[t]: order[(t + shift) % count] for t in range(count)}
    return [after[k] for k in range(count)]


def controls_of(answers: Sequence[int], others: Sequence[int]) -> list[int]:
    """For each image, one of the others whose trace is its control: the next one of another answer, if there is one.

    Args:
        answers: What the dense model answers for the images.
        others: The same for those whose traces are controls.
    """
    found = []
    for k, answer in enumerate(answers):
        turns = [(k + turn) % len(others) for turn in range(len(others))]
        found.append(next((i for i in turns if others[i] != answer), turns[0]))
    return found
