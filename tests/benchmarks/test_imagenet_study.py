"""The study on the ImageNet network: its figures from made-up measurements, and its page."""

import math
import statistics
from itertools import pairwise

import pytest
from scipy.stats import ttest_rel

from benchmarks.imagenet_page import measured, table, traces_table
from benchmarks.imagenet_summary import AVERAGE, summary

METHODS = ["saliency", "lrp"]
DENSE = [0.80, 0.82, 0.85, 0.79, 0.90, 0.88]
GAINS = {"SPADE": [0.05, 0.06, 0.04, 0.05, 0.07, 0.05], "random": [-0.3, 0.1, -0.2, 0.0, 0.2, -0.1]}


def record(k):
    def scores(of):
        return {
            name: dict.fromkeys(("auroc", "pointing_game"), value) for name, value in of.items()
        }

    maps = {"dense": DENSE[k], **{name: DENSE[k] + gain[k] for name, gain in GAINS.items()}}
    made = {
        "kept": k > 0, "probability": 0.5, "dense_probability": 0.75, "sparsity": 0.8, "seconds": 10.0,
    }  # fmt: skip
    clean = {
        method: {name: {"insertion": 0.5, "deletion": 0.1} for name in ("dense", "SPADE")}
        for method in METHODS
    }
    return {
        "planted": {"saliency": scores(maps), "lrp": scores(dict.fromkeys(maps, 0.9))},
        "smooth_grad": {"auroc": 0.97, "pointing_game": 1.0},
        "traces": {"SPADE": made},
        "clean": {"traces": {"SPADE": made}, "scores": clean},
        "cpu_seconds": 40.0,
    }


@pytest.fixture(scope="module")
def found():
    return summary([record(k) for k in range(6)], METHODS)


def row(found, metric, method, name):
    rows = [
        r for r in found["scores"] if (r["metric"], r["method"], r["map"]) == (metric, method, name)
    ]
    (only,) = rows
    return only


def test_means_and_paired_differences(found):
    gain = row(found, "auroc", "saliency", "SPADE")["difference"]
    assert gain["n"] == 6
    assert gain["mean"] == pytest.approx(statistics.mean(GAINS["SPADE"]))
    error = statistics.stdev(GAINS["SPADE"]) / math.sqrt(6)
    assert gain["standard_error"] == pytest.approx(error)
    half = row(found, "auroc", AVERAGE, "SPADE")["difference"]["mean"]
    assert half == pytest.approx(gain["mean"] / 2)  # the other method gains nothing


def test_correction_for_looks(found):
    """Holm: the smallest p-value times the number of looks, the next times one less, never falling."""
    other = [d + g for d, g in zip(DENSE, GAINS["SPADE"], strict=True)]
    p = ttest_rel(other, DENSE).pvalue
    best = row(found, "auroc", "saliency", "SPADE")
    assert best["p"] == pytest.approx(p)
    assert best["holm"] == pytest.approx(6 * p)
    looks = [r for r in found["scores"] if r["metric"] == "auroc" and r["p"] is not None]
    assert len(looks) == 6
    ordered = sorted(looks, key=lambda r: r["p"])
    assert all(a["holm"] <= b["holm"] <= 1 for a, b in pairwise(ordered))
    assert row(found, "auroc", "saliency", "random")["holm"] > 0.05
    assert row(found, "auroc", "lrp", "SPADE")["p"] == 1  # no difference at all


def test_tables(found):
    text = table({**found}, "auroc")
    line = next(part for part in text.splitlines() if part.startswith("| SPADE"))
    assert line == "| SPADE | +2.7 ± 0.2 * | +5.3 ± 0.4 * | +0.0 ± 0.0 |"
    assert "n = 6" in text and "SmoothGrad on the dense network: 97.0 ± 0.0." in text
    assert "83 ± 17 %" in traces_table(found)


def test_what_was_measured_is_said(found):
    settings = {"methods": METHODS, "augmentations": 64, "sparsity": None}
    about = {"command": "python -m ...", "settings": settings, "cpu_seconds": 240.0}
    text = measured({**found, **about, "of_photographs": 50})
    assert "the first 6 of 50 photographs, 2 of the paper's ten methods, 64 augmentations" in text
    assert "all photographs" in measured({**found, **about, "of_photographs": 6})
