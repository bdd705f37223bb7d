"""Means of shards: as those of all images at once, in whatever shards they come."""

import numpy as np
import pyarrow
import pytest
import torch

from spade_xai.reports import tables
from spade_xai.reports.evaluate import Evaluation
from spade_xai.shards.rows import rows_of
from spade_xai.shards.totals import Moments, Totals
from spade_xai.tracing.fidelity import Agreement, Fidelity
from spade_xai.tracing.verdict import Verdict

MAPS = ("dense", "SPADE", "SPADE, other image", "edges")


def some_evaluation(images, seed=0):
    """Random scores by two methods, and random fidelity."""
    draw = np.random.default_rng(seed)
    scores = {
        metric: {
            method: {name: torch.tensor(draw.random(images)) for name in MAPS}
            for method in ("saliency", "lrp")
        }
        for metric in ("auroc", "pointing_game")
    }
    faithful = [bool(x) for x in draw.random(images) < 0.6]
    fidelity = [
        Fidelity(
            Agreement(*draw.random(3), 1),
            Agreement(*draw.random(3), 16),
            Verdict(kept, () if kept else ("why",), 3, 0.9, 3, 0.8, 1.0, 1.0, 7),
        )
        for kept in faithful
    ]
    flags = {metric: {"SPADE": faithful} for metric in scores}
    return Evaluation(scores, {"SPADE": fidelity}, {"maps": 2.5}, images, flags)


def part(found, places):
    """The evaluation of some of the images."""
    scores = {
        metric: {m: {n: v[places] for n, v in maps.items()} for m, maps in by_method.items()}
        for metric, by_method in found.scores.items()
    }
    fidelity = {t: [f[k] for k in places] for t, f in found.fidelity.items()}
    flags = {
        m: {t: [f[k] for k in places] for t, f in x.items()} for m, x in found.faithful.items()
    }
    return Evaluation(
        scores, fidelity, {"maps": 2.5 * len(places) / found.traces}, len(places), flags
    )


@pytest.mark.parametrize("cuts", [[9], [4, 5], [2, 1, 6]])
def test_as_all_images_at_once(cuts):
    found = some_evaluation(9)
    totals, start = Totals(), 0
    for size in cuts:
        places = list(range(start, start + size))
        names = [f"{k}.png" for k in places]
        rows = rows_of(part(found, places), names, ["a"] * size, [k % 2 for k in places], {})
        totals.add(pyarrow.table(rows.columns()))
        start += size
    got, expected = totals.record(), tables.record(found)
    assert list(got) == list(expected)
    for name in ("scores", "scores_of_faithful", "own_minus_other_image"):
        by_name = [
            {(r["metric"], r["method"], r["map"]): r for r in record[name]}
            for record in (got, expected)
        ]
        assert by_name[0].keys() == by_name[1].keys() and by_name[0]
        for key, row in by_name[1].items():
            assert by_name[0][key] == pytest.approx(row, abs=1e-12, nan_ok=True)
    for name in ("faithful", "seconds"):
        for key, value in expected[name].items():
            assert got[name][key] == pytest.approx(value, abs=1e-12)
    for measure, value in expected["fidelity"]["SPADE"].items():
        assert got["fidelity"]["SPADE"][measure] == pytest.approx(value, abs=1e-12)
    assert got["traces"] == expected["traces"] == 9


def test_figures_by_folder_and_answer():
    found = some_evaluation(6)
    folders, answers = ["a", "a", "b", "b", "a", "b"], [1, 1, 2, 2, 2, 2]
    totals = Totals()
    totals.add(pyarrow.table(rows_of(found, list("uvwxyz"), folders, answers, {}).columns()))
    groups = totals.by_group().to_pylist()
    assert {(g["folder"], g["answer"]) for g in groups} == {("a", 1), ("b", 2), ("a", 2)}
    (one,) = [
        g for g in groups
        if (g["folder"], g["metric"], g["method"], g["map"]) == ("b", "auroc", "lrp", "SPADE")
    ]  # fmt: skip
    own, dense = (found.scores["auroc"]["lrp"][name][[2, 3, 5]] for name in ("SPADE", "dense"))
    assert one["n"] == 3
    assert one["mean"] == pytest.approx(float(own.mean()))
    assert one["difference_standard_error"] == pytest.approx(float((own - dense).std() / 3**0.5))


def test_skipped_images_are_told_and_not_counted():
    found = some_evaluation(2)
    totals = Totals()
    rows = rows_of(found, ["a", "b"], ["f", "f"], [0, 1], {"c": "cannot read c"})
    totals.add(pyarrow.table(rows.columns()))
    assert (totals.images, totals.skipped) == (2, ["cannot read c"])


def test_moments_of_values_that_are_large_and_close():
    values = 1e8 + np.random.default_rng(0).random(1000)
    moments = Moments()
    for some in np.array_split(values, 7):
        moments.add(len(some), float(some.mean()), float(((some - some.mean()) ** 2).sum()))
    estimate = moments.estimate()
    assert estimate.n == 1000
    assert estimate.mean == pytest.approx(values.mean(), rel=1e-15)
    assert estimate.standard_error == pytest.approx(values.std(ddof=1) / 1000**0.5, rel=1e-6)
