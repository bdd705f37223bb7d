"""Tables of an evaluation: figures against their definition, and the page that shows the committed ones."""

import json
import math
import runpy
from pathlib import Path

import pytest
import torch

from spade_xai.reports import tables
from spade_xai.reports.evaluate import Evaluation
from spade_xai.tracing.fidelity import Agreement, Fidelity

ROOT = Path(__file__).parents[2]


@pytest.fixture
def record():
    scores = {
        "auroc": {
            "saliency": {
                "dense": torch.tensor([0.5, 0.7, 0.9]),
                "SPADE": torch.tensor([0.6, 0.8, 1.0]),
                "SPADE, other image": torch.tensor([0.5, 0.8, 0.8]),
            },
            "lrp": {
                "dense": torch.tensor([0.9, 0.9, 0.9]),
                "SPADE": torch.tensor([0.6, 0.9, 0.9]),
                "SPADE, other image": torch.tensor([0.6, 0.9, 0.9]),
            },
        }
    }
    same = Agreement(1.0, 0.9, 0.1, 1)
    fidelity = {"SPADE": [Fidelity(same, same), Fidelity(Agreement(0.0, 0.7, 0.3, 1), same)]}
    return tables.record(Evaluation(scores, fidelity, {"maps": 6.0}, 3))


def test_figures(record):
    json.dumps(record, allow_nan=False)
    rows = {(r["method"], r["map"]): r for r in record["scores"]}
    row = rows["average", "SPADE"]  # of each sample: .6, .85, .95 and dense .7, .8, .9
    assert row["mean"] == pytest.approx(0.8) and row["n"] == 3
    assert row["difference_to_dense"] == pytest.approx(0.0, abs=1e-7)
    assert row["difference_standard_error"] == pytest.approx(math.sqrt(0.0075 / 3))
    own = {r["method"]: r for r in record["own_minus_other_image"]}
    assert own["saliency"]["mean"] == pytest.approx(0.1) and own["lrp"]["mean"] == 0
    assert own["saliency"]["map"] == "SPADE"
    assert record["fidelity"]["SPADE"]["label, sample"]["mean"] == 0.5
    assert record["fidelity"]["SPADE"]["cosine, sample"]["mean"] == pytest.approx(0.8)


def test_text_and_markdown(record):
    means, differences, fidelity, times = tables.tables(record)
    assert means["head"] == ["method", "dense", "SPADE", "SPADE, other image"]
    assert [row[0] for row in means["rows"]] == ["average", "saliency", "lrp"]
    assert differences["head"] == ["method", "SPADE", "SPADE, other image", "SPADE - other image"]
    assert "to dense" in differences["title"]
    assert differences["rows"][1][1] == "+0.100 ± 0.000"
    assert fidelity["rows"][0][:2] == ["SPADE", "0.500 ± 0.500"]
    assert times["rows"] == [["maps", "6.0", "2.00"]]
    lines = tables.text(means).splitlines()
    assert lines[0] == means["title"] and "n = 3" in lines[0]
    assert len({len(line) for line in lines[1:-1]}) == 1
    assert "Higher is better, and 0.5 is chance" in lines[-1]
    assert "Above 0 is better" in tables.text(differences).splitlines()[-1]
    assert tables.markdown(times).splitlines()[2:] == [
        "| stage | seconds | seconds per image |",
        "| --- | ---: | ---: |",
        "| maps | 6.0 | 2.00 |",
    ]


def test_a_method_whose_scores_equal_those_of_another_is_left_out_with_a_note(record):
    twins = [{**row, "method": "twin"} for row in record["scores"] if row["method"] == "saliency"]
    record["scores"] += twins
    means = tables.tables(record)[0]
    assert [row[0] for row in means["rows"]] == ["average", "saliency", "lrp"]
    assert "twin is left out: its scores equal those of saliency." in means["note"]


@pytest.mark.parametrize(
    "gain, error, words",
    [
        (0.05, 0.01, "above 0 by more than two standard errors"),
        (-0.05, 0.01, "below 0 by more than two standard errors"),
        (0.05, 0.04, "not different from 0"),
        (0.0, 0.0, "not different from 0"),
    ],
)
def test_verdicts_say_what_the_standard_errors_allow(record, gain, error, words):
    for row in record["scores"]:
        if (row["method"], row["map"]) == ("average", "SPADE"):
            row.update(difference_to_dense=gain, difference_standard_error=error)
    dense, control = tables.verdicts(record, "auroc")
    assert f"SPADE - dense = {gain:+.3f} ± {error:.3f} (n = 3), " in dense and words in dense
    # .6, .85, .95 and, after pruning for another image, .55, .85, .85
    assert "SPADE - SPADE, other image = +0.050 ± 0.029 (n = 3), not different from 0" in control


def test_page_shows_the_committed_figures():
    study = runpy.run_path(str(ROOT / "benchmarks" / "trojan_study.py"))
    page = study["PAGE"].read_text()
    result = json.loads(study["RESULT"].read_text())
    assert study["filled"](page, study["blocks"](result)) == page
    assert result["command"] in page and len(result["commit"]) >= 40
    with pytest.raises(ValueError, match="filled: page must hold"):
        study["filled"]("", study["blocks"](result))
