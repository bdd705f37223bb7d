"""Table 4 of raters with known accuracies, its intervals, agreement, consistency."""

import math

import numpy as np
import pytest
from simulated_raters import simulate

from spade_xai.study.agreement import agreement, krippendorff_alpha, raters
from spade_xai.study.table import PAPER, difference, table

SUCCESS, UNDECIDED = (0.567, 0.698), (0.229, 0.126)  # of the paper


def test_200_raters_of_the_papers_accuracies_give_the_papers_table():
    answers = simulate(SUCCESS, UNDECIDED, raters=200, images=100, tasks=32, repeats=2, seed=1)
    found = {row.name: row for row in table(answers, draws=400)}
    assert list(found) == list(PAPER)
    for name, row in found.items():
        for interval, published in zip((row.dense, row.spade), row.published, strict=True):
            assert abs(100 * interval.estimate - published) < 3
            assert interval.low <= interval.estimate <= interval.high
        gap = (row.published[1] - row.published[0]) / 100
        assert row.difference.low < gap < row.difference.high, name
    assert found["success"].dense.n + found["success"].spade.n == 200 * 32
    assert found["agree"].difference.low > 0 > found["undecided"].difference.high


def test_shares_by_hand():
    answers = simulate(SUCCESS, UNDECIDED, raters=3, images=6, tasks=6, repeats=1, seed=2)
    found = {row.name: row for row in table(answers, draws=100)}
    for k, condition in enumerate(("dense", "SPADE")):
        own = [a.outcome for a in answers if a.condition == condition and not a.repeat]
        counts = {name: own.count(name) for name in ("agree", "disagree", "undecided")}
        decided = counts["agree"] + counts["disagree"]
        expected = {
            "undecided": counts["undecided"] / len(own), "agree": counts["agree"] / len(own),
            "disagree": counts["disagree"] / len(own), "agree when decided": counts["agree"] / decided,
            "disagree when decided": counts["disagree"] / decided, "success": counts["agree"] / len(own),
        }  # fmt: skip
        for name, value in expected.items():
            interval = (found[name].dense, found[name].spade)[k]
            assert interval.estimate == pytest.approx(value)
            assert interval.n == (decided if "when" in name else len(own))


@pytest.mark.parametrize("spread", [(0.0, 0.0), (0.08, 0.1)])
def test_intervals_hold_the_truth_as_often_as_they_say(spread):
    """95 of 100 studies, within what 100 draws allow (P < .001 beyond)."""
    held = np.zeros(2)
    for seed in range(100):
        answers = simulate(
            (0.5, 0.65), (0.1, 0.1), raters=24, images=40, tasks=20, spread=spread, seed=seed
        )
        first = [a for a in answers if not a.repeat]
        row = next(r for r in table(first, draws=100, only=("success",)))
        held += [
            row.dense.low <= 0.5 <= row.dense.high,
            row.difference.low <= 0.15 <= row.difference.high,
        ]
    assert (held >= 88).all(), held


def test_intervals_of_raters_who_differ_are_wider():
    options = {"raters": 30, "images": 40, "tasks": 20, "seed": 5}
    same = table(simulate((0.5, 0.5), (0.0, 0.0), **options), draws=300)[-1]
    differ = table(simulate((0.5, 0.5), (0.0, 0.0), spread=(0.3, 0.0), **options), draws=300)[-1]
    assert differ.dense.width > 1.5 * same.dense.width
    # a rater's level is the same under both conditions and leaves the difference alone
    assert differ.difference.width < 1.5 * same.difference.width


def test_too_few_answers_have_no_interval():
    assert math.isnan(difference([]).estimate)
    one = [a for a in simulate((0.5, 0.5), (0, 0), raters=1, images=6, tasks=6)]
    assert math.isfinite(difference(one).estimate) and math.isnan(difference(one).low)


def test_alpha_of_the_published_example():
    """Krippendorff (2011), example C: four observers, twelve units, nominal alpha .743."""
    rows = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    units = [[v for v in column if v is not None] for column in zip(*rows, strict=True)]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)


def test_alpha_at_its_ends():
    assert krippendorff_alpha([["a", "a"], ["b", "b", "b"]]) == 1
    rng = np.random.default_rng(0)
    assert abs(krippendorff_alpha(rng.integers(0, 3, (2000, 4)).tolist())) < 0.03
    assert math.isnan(krippendorff_alpha([["a"], ["b"]])) and math.isnan(
        krippendorff_alpha([["a", "a"]])
    )


def test_agreement_is_higher_where_images_decide():
    options = {"raters": 60, "images": 10, "tasks": 10, "seed": 3}
    by_image = simulate((0.5, 0.5), (0, 0), spread=(0.0, 0.5), **options)
    by_chance = simulate((0.5, 0.5), (0, 0), **options)
    assert agreement(by_image) > 0.2 > abs(agreement(by_chance)) + 0.1


def test_summaries_of_raters():
    answers = simulate((0.9, 0.9), (0, 0), raters=40, images=20, tasks=20, repeats=5, seed=4)
    found = raters(answers)
    assert len(found) == 40 and all(r.tasks == 20 and r.repeats == 5 for r in found)
    share = sum(r.consistent for r in found) / 200
    assert 0.72 < share < 0.92  # .9^2 + .1^2 = .82
    presses_left = [a for a in answers if a.choice == "left"]
    assert all(r.left == 1 for r in raters(presses_left))
    assert 0.4 < np.mean([r.left for r in found]) < 0.6
