"""Figures H.3 to H.5 from tuned sparsities: their rows against the files, their pages, and what is refused."""

import json
import re
import statistics

import pytest

from spade_xai.tuning.tune import Candidate, Tuned

GROUPS = {("conv",): 0.2, ("fc1", "fc2"): 0.9}
SCORES = {  # method -> group -> ratio -> score
    "saliency": {("fc1", "fc2"): {0.0: 0.5, 0.9: 0.8}, ("conv",): {0.0: 0.8, 0.2: 0.85}},
    "lrp": {("fc1", "fc2"): {0.0: 0.7, 0.9: 0.9}, ("conv",): {0.0: 0.9, 0.2: 0.9}},
}
RATIOS = {
    "saliency": {"conv": 0.2, "fc1": 0.9, "fc2": 0.9},
    "lrp": {"conv": 0.0, "fc1": 0.9, "fc2": 0.9},
}


@pytest.fixture
def tuned(tmp_path):
    folder = tmp_path / "tuned"
    (folder / "spade").mkdir(parents=True)
    for method, groups in SCORES.items():
        history = [
            Candidate(group, ratio, score, 0.01, ratio == RATIOS[method][group[0]])
            for group, scores in groups.items()
            for ratio, score in scores.items()
        ]
        Tuned(RATIOS[method], 0.85, history).save(folder / "spade" / f"{method}.json")
    return folder


def rows_of(folder):
    return json.loads((folder / "result.json").read_text())["rows"]


def test_mean_over_methods(tuned, run, tmp_path):
    code, out, err = run("reproduce", "h3", "--tuned", tuned, "-o", "out")
    assert code == 0, err
    assert (
        "conv" in out and "that of the sparsities in" in out and "drawn without figures" not in err
    )
    found = {row["row"]: row for row in rows_of(tmp_path / "out")}
    assert list(found) == ["conv", "fc1", "fc2"]
    assert found["conv"]["mean"] == pytest.approx(0.1) and found["conv"]["n"] == 2
    assert found["conv"]["deviation"] == pytest.approx(statistics.stdev([0.2, 0.0]))
    assert found["fc2"]["deviation"] == 0
    assert 'src="data:image/png;base64,' in (tmp_path / "out/report.html").read_text()


def test_each_method(tuned, run, tmp_path):
    code, out, err = run("reproduce", "figure H.4", "--tuned", tuned, "-o", "out")
    assert code == 0, err
    found = {(row["row"], row["method"]): row["sparsity"] for row in rows_of(tmp_path / "out")}
    assert found == {(layer, m): r for m, ratios in RATIOS.items() for layer, r in ratios.items()}
    assert "spade, saliency" in out


def test_scores_along_the_tuning(tuned, run, tmp_path):
    code, out, err = run("reproduce", "h5", "--tuned", tuned, "-o", "out")
    assert code == 0, err
    assert re.search(r"fc1 to fc2 +spade +0.6000 +0.8500", out)  # nothing at 0.2
    found = {(row["row"], row["ratio"]): row["mean"] for row in rows_of(tmp_path / "out")}
    assert found == pytest.approx(
        {
            ("conv", 0.0): 0.85,
            ("conv", 0.2): 0.875,
            ("fc1 to fc2", 0.0): 0.6,
            ("fc1 to fc2", 0.9): 0.85,
        }
    )


def test_what_is_refused(tuned, run, tmp_path):
    code, _, err = run("reproduce", "h3")
    assert code == 1 and "--tuned must be given" in err
    code, _, err = run("reproduce", "h3", "--tuned", tuned, "--limit", "8")
    assert code == 1 and "--limit has no effect on Figure H.3" in err
    (tmp_path / "empty").mkdir()
    code, _, err = run("reproduce", "h3", "--tuned", "empty")
    assert code == 1 and "got none in empty" in err
    Tuned({"conv": 0.2}, 0.8, []).save(tuned / "spade" / "lime.json")
    code, _, err = run("reproduce", "h4", "--tuned", tuned)
    assert code == 1 and "must be of the same layers" in err
    file = tuned / "spade" / "lime.json"
    file.write_text(file.read_text().replace("0.2", "0.3"))
    code, _, err = run("reproduce", "h4", "--tuned", tuned)
    assert code == 1 and "does not have its digest" in err
