"""Lists of tasks: balance, sides, repetitions, seeds."""

from collections import Counter

import pytest

from spade_xai.study.assignment import GAP, LEAST_LISTS, assign

CASES = [(8, 8, 2), (100, 32, 2), (100, 32, 4), (7, 4, 2), (9, 6, 4), (2, 2, 2)]


def cells_of(images, turns):
    return [[k * turns + c for c in range(turns)] for k in range(images)]


@pytest.mark.parametrize(("images", "tasks", "turns"), CASES)
def test_every_task_comes_equally_often_and_half_with_spade(images, tasks, turns):
    lists = assign(cells_of(images, turns), tasks=tasks, seed=3)
    assert len(lists) >= LEAST_LISTS
    counts = Counter(slot.task for slots in lists for slot in slots)
    assert len(counts) == images * turns and len(set(counts.values())) == 1
    for slots in lists:
        seen = [slot.task // turns for slot in slots]
        assert len(set(seen)) == len(seen) == tasks
        spade = [slot for slot in slots if slot.task % 2]
        assert len(spade) == tasks // 2
        for half in (spade, [slot for slot in slots if not slot.task % 2]):
            left = sum(slot.target_left for slot in half)
            assert abs(2 * left - len(half)) <= 1


def test_two_raters_in_a_row_see_an_image_under_both_conditions():
    lists = assign(cells_of(10, 2), tasks=10)
    assert sorted(slot.task for slots in lists[:2] for slot in slots) == list(range(20))


def test_repetitions_come_later_with_the_sides_the_other_way_round():
    for slots in assign(cells_of(10, 2), tasks=10, repeats=3):
        again = [k for k, slot in enumerate(slots) if slot.repeat]
        assert again == [10, 11, 12]
        for k in again:
            (first,) = [j for j in range(10) if slots[j].task == slots[k].task]
            assert k - first > GAP - 1 and slots[first].target_left != slots[k].target_left


def test_orders_differ_and_are_reproducible():
    first, again, other = (assign(cells_of(6, 2), tasks=6, seed=s) for s in (1, 1, 2))
    assert first == again != other
    assert len({tuple(slot.task for slot in slots) for slots in first}) > len(first) // 2


@pytest.mark.parametrize(
    ("cells", "options", "message"),
    [
        ([[0, 1], [2]], {"tasks": 2}, "cells must hold the same even number"),
        ([], {"tasks": 2}, "cells must hold"),
        (cells_of(4, 2), {"tasks": 3}, r"tasks must be even and in \[2, 4\]"),
        (cells_of(4, 2), {"tasks": 6}, r"tasks must be even and in \[2, 4\]"),
        (cells_of(4, 2), {"tasks": 4, "repeats": 2}, r"repeats must be in \[0, 1\]"),
    ],
)
def test_refusals(cells, options, message):
    with pytest.raises(ValueError, match=message):
        assign(cells, **options)
