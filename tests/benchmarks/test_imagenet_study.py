"""The study on the ImageNet network: its figures from made-up measurements, its tables, and how it goes on."""

import json
import math
import statistics
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from scipy.stats import ttest_rel

from benchmarks import imagenet_study
from benchmarks.imagenet_arms import ARMS
from benchmarks.imagenet_page import measured, plain, reasons_table, table, traces_table
from benchmarks.imagenet_reasons import as_one, grouping
from benchmarks.imagenet_summary import AVERAGE, ROOM, arm_summary, traces_summary

METHODS = ["saliency", "lrp"]
DENSE = [0.80, 0.82, 0.85, 0.79, 0.90, 0.88]
GAINS = {"SPADE": [0.05, 0.06, 0.04, 0.05, 0.07, 0.05], "random": [-0.3, 0.1, -0.2, 0.0, 0.2, -0.1]}
FOUND = ("auroc", "pointing_game")


def record(k, methods=METHODS, gains=GAINS):
    maps = {"dense": DENSE[k], **{name: DENSE[k] + gain[k] for name, gain in gains.items()}}

    def scores(of):
        return {name: dict.fromkeys(FOUND, value) for name, value in of.items()}

    made = {"faithful": k > 0, "kept": True, "probability": 0.5, "sparsity": 0.8, "search": 0.2}
    return {
        "scores": {m: scores(dict.fromkeys(maps, 0.98) if m == "lrp" else maps) for m in methods},
        "traces": {"SPADE, Trojan pictures": made},
    }


@pytest.fixture(scope="module")
def found():
    return arm_summary([record(k) for k in range(6)], METHODS, FOUND)


def row(found, metric, method, name):
    rows = [
        r for r in found["scores"] if (r["metric"], r["method"], r["map"]) == (metric, method, name)
    ]
    (only,) = rows
    return only


def test_means_and_paired_differences(found):
    gain = row(found, "auroc", "saliency", "SPADE")["difference"]
    assert gain["n"] == found["photographs"] == 6
    assert gain["mean"] == pytest.approx(statistics.mean(GAINS["SPADE"]))
    error = statistics.stdev(GAINS["SPADE"]) / math.sqrt(6)
    assert gain["standard_error"] == pytest.approx(error)
    half = row(found, "auroc", AVERAGE, "SPADE")["difference"]["mean"]
    assert half == pytest.approx(gain["mean"] / 2)  # the other method gains nothing


def test_methods_at_the_ceiling_leave_no_room(found):
    assert found["with_room"] == ["saliency"]
    assert row(found, "auroc", ROOM, "SPADE")["difference"] == pytest.approx(
        row(found, "auroc", "saliency", "SPADE")["difference"]
    )


def test_correction_for_looks(found):
    """Holm: the smallest p-value times the number of looks, the next times one less, never falling."""
    other = [d + g for d, g in zip(DENSE, GAINS["SPADE"], strict=True)]
    p = ttest_rel(other, DENSE).pvalue
    best = row(found, "auroc", "saliency", "SPADE")
    assert best["p"] == pytest.approx(p)
    looks = [r for r in found["scores"] if r["metric"] == "auroc" and r["p"] is not None]
    assert len(looks) == 8
    assert best["holm"] == pytest.approx(8 * p)
    ordered = sorted(looks, key=lambda r: r["p"])
    assert all(a["holm"] <= b["holm"] <= 1 for a, b in pairwise(ordered))
    assert row(found, "auroc", "saliency", "random")["holm"] > 0.05
    assert row(found, "auroc", "lrp", "SPADE")["p"] == 1  # no difference at all


def test_tables(found):
    lines = table(found, "auroc").splitlines()
    assert next(part for part in lines if part.startswith("| SPADE")) == (
        "| SPADE | +2.7 ± 0.2 * | +5.3 ± 0.4 * | +5.3 ± 0.4 * | +0.0 ± 0.0 |"
    )
    assert "n = 6" in lines[0] and "8 looks" in lines[0]
    kinds = traces_summary([record(k) for k in range(6)])
    line = traces_table({"traces": kinds}).splitlines()[-1]
    assert line.startswith("| SPADE, Trojan pictures | 6 | 83 ± 17 % | 100 ± 0 % | 80 ± 0 % |")


def test_the_page_begins_with_the_main_results():
    methods = ["saliency", "deep_lift", "lrp"]
    names = {
        "spade": ["SPADE", "SPADE of another clean picture"],
        "fast_spade": [
            "FastSPADE", "FastSPADE of another clean picture", "dense, blurred", "SmoothGrad",
        ],
    }  # fmt: skip
    arms = {
        arm: arm_summary(
            [record(k, methods, dict.fromkeys(maps, GAINS["SPADE"])) for k in range(6)],
            methods, FOUND,
        )
        for arm, maps in names.items()
    }  # fmt: skip
    text = plain({"arms": arms})
    assert "| SPADE | 6 | 84.0 ± 1.8 | +5.3 ± 0.4 * |" in text
    assert "lrp 98.0 ± 0.0 on 6 pictures" in text.replace("\n", " ")


def test_what_was_measured_is_said(found):
    about = {
        "command": "python -m ...", "commit": "0123456789abcdef", "machine": {"cpu": "some CPU"},
        "settings": {"augmentations": 64}, "cpu_seconds": 240.0, "of_photographs": 50,
    }  # fmt: skip
    text = measured({"arms": {"spade": found}, **about})
    assert "SPADE: 6 of 50" in text and f"{ARMS['clean'].title}: 0 of 50" in text


def test_reasons():
    patches = ["star", "heart", "star", "heart", "fish", "smiley"] * 2
    same = torch.tensor([[a == b for a in patches] for b in patches])
    features = torch.eye(4)[[sorted(set(patches)).index(p) for p in patches]]
    known = grouping(same, patches, features)
    assert known == {
        "n": 12, "kept_within": 1.0, "kept_across": 0.0, "rand_index": 1.0, "features_rand_index": 1.0,
        "groups_found_alone": 4,
    }  # fmt: skip
    nothing = grouping(torch.eye(12, dtype=torch.bool), patches, torch.eye(12))
    assert nothing["kept_within"] == 0 and nothing["rand_index"] < 0.5
    assert nothing["features_rand_index"] < 0.5
    text = reasons_table({"reasons": {"SPADE": {"photographs": 12, "four targets": known}}})
    assert "| SPADE | 12 | four targets | 100% | 0% | 1.00 | 1.00 |" in text


def test_classes_counted_as_one():
    answers = torch.tensor([[30, 146, 7], [99, 30, 146]])
    assert as_one(answers, [146, 30]).tolist() == [[146, 146, 7], [99, 146, 146]]


def test_a_run_goes_on_where_it_was(tmp_path, monkeypatch):
    measured_now = []

    def measure(traces, k, methods):
        measured_now.append(k)
        return {"scores": {}}

    monkeypatch.setitem(ARMS, "spade", replace(ARMS["spade"], measure=measure))
    names = [f"{k}.png" for k in range(4)]
    pictures = MagicMock(trojans=SimpleNamespace(names=names))
    pictures.__len__.return_value = len(names)
    traces = SimpleNamespace(pictures=pictures)
    (tmp_path / "spade").mkdir()
    (tmp_path / "spade" / "001.json").write_text("{}")
    imagenet_study.measure(traces, tmp_path, ["spade"], 3, math.inf)
    assert measured_now == [0, 2]
    assert json.loads((tmp_path / "spade" / "002.json").read_text())["name"] == "2.png"
    imagenet_study.measure(traces, tmp_path, ["spade"], 4, -1.0)  # no time is left
    assert measured_now == [0, 2]


def test_an_arm_leaves_out_what_it_was_chosen_by(tmp_path, monkeypatch):
    measured_now = []

    def measure(traces, k, methods):
        measured_now.append(k)
        return {"scores": {}, "name": f"own-{k}"}

    monkeypatch.setitem(ARMS, "tuned", replace(ARMS["tuned"], measure=measure, leave_out=2))
    pictures = MagicMock(trojans=SimpleNamespace(names=list("abcd")))
    pictures.__len__.return_value = 4
    traces = SimpleNamespace(pictures=pictures)
    imagenet_study.measure(traces, tmp_path, ["tuned"], 4, math.inf)
    assert measured_now == [0, 1]
    assert json.loads((tmp_path / "tuned" / "001.json").read_text())["name"] == "own-1"
