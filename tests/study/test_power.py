"""Power by simulation, and the rule that ends a study by the width of an interval."""

import numpy as np
import pytest
from simulated_raters import simulate
from small_study import some_study

from spade_xai.study.power import Expected, power, raters_needed
from spade_xai.study.stopping import WidthRule
from spade_xai.study.store import Store
from spade_xai.study.table import difference

SMALL = {"images": 40, "tasks": 20}


def test_power_without_a_difference_is_the_level():
    found = power(Expected(0.6, 0.6), 20, studies=200, draws=100, **SMALL)
    assert found.power < 0.07  # one side of a 95 % interval: .025
    assert found.answers == 400


def test_power_grows_with_raters_and_the_width_falls():
    few, many = (power(Expected(), n, studies=60, draws=100, **SMALL) for n in (6, 48))
    assert few.power < many.power > 0.9
    assert few.width > 2.4 * many.width  # sqrt(8), and Student's t


def test_widths_are_those_of_the_reports_intervals():
    expected = Expected(0.5, 0.65, 0.08, 0.1)
    found = power(expected, 24, studies=60, draws=100, **SMALL)
    widths = [
        difference(
            simulate((0.5, 0.65), (0.1, 0.1), raters=24, spread=(0.08, 0.1), seed=k, **SMALL), draws=100
        ).width
        for k in range(30)
    ]  # fmt: skip
    assert found.width == pytest.approx(np.mean(widths), rel=0.08)


def test_raters_needed():
    tried, enough = raters_needed(Expected(0.5, 0.8), studies=40, least=0.8, **SMALL)
    assert enough is not None and enough.power >= 0.8 and enough in tried
    assert all(p.power < 0.8 for p in tried if p.raters < enough.raters)
    _, none = raters_needed(Expected(0.5, 0.501), studies=20, most=8, **SMALL)
    assert none is None
    _, narrow = raters_needed(Expected(0.5, 0.8), studies=20, width=0.2, **SMALL)
    assert narrow is not None and narrow.width <= 0.2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Expected(1.1, 0.5), r"dense must be in \[0, 1\]"),
        (lambda: Expected(rater_spread=0.9), "rater_spread must be in"),
        (lambda: power(Expected(), 1, images=4, tasks=4), "raters must be at least 2"),
        (lambda: WidthRule(0.0), r"width must be in \(0, 1\]"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_studies_that_stop_by_width_hold_the_truth():
    """The interval at which a study stops holds the difference in 95 of 100, within what 40 draws allow."""
    rule = WidthRule(0.22, least=12, draws=100)
    held, sizes = 0, []
    for seed in range(40):
        answers = simulate(
            (0.5, 0.65), (0.1, 0.1), raters=60, spread=(0.08, 0.1), seed=seed, **SMALL
        )
        for raters in range(12, 61, 4):
            so_far = answers[: 20 * raters]
            if rule.is_met(so_far, 20):
                break
        sizes.append(raters)
        found = rule.interval(so_far)
        held += found.low <= 0.15 <= found.high
    assert 12 < np.mean(sizes) < 60 and len(set(sizes)) > 1
    assert held >= 33, held


def test_the_rule_on_a_store(tmp_path):
    study = some_study(tmp_path / "s", images=10, repeats=0)
    store = Store(tmp_path / "answers.sqlite", study)
    rule = WidthRule(0.4, least=3, draws=100)
    rng = np.random.default_rng(0)
    stopped = []
    for _ in range(12):
        session, token = store.start()
        for position, slot in enumerate(study.lists[session.list]):
            choice = ("left", "right")[int(rng.integers(2))]
            store.answer(token, position, study.tasks[slot.task].id, choice, 100)
        stopped.append(rule(store, study))
        assert rule(store, study) == stopped[-1]
    assert stopped[:2] == [False, False] and stopped[-1]
    store.close()
