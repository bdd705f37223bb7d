"""Every table runs with few pictures on a small network, and says what stands where and what is left out."""

import json
import math
from functools import partial

import pytest
import tiny_planted

from spade_xai import trace
from spade_xai.measures import sparse_fc
from spade_xai.measures.stability import gradient_noise_similarity
from spade_xai.models.images import read_image
from spade_xai.reproduce.table import load_table, names
from spade_xai.trojans.trojan import predictions

TINY = ["-n", "4", "-a", "saliency", "--limit", "2", "--no-progress"]
LEFT_OUT = {  # what cannot be made without something that the user has to give
    "3": {"FastSPADE*"},
    "6": {"98% sparse network"},
    "b2": {"SPADE+Search"},
    "b3": {"FastSPADE (30 ex.)", "FastSPADE (100 ex.)"},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "planted"
    tiny_planted.write(folder)
    return folder


@pytest.fixture
def short_path(monkeypatch):
    """Two penalties of Sparse FC instead of twenty."""
    short = partial(sparse_fc.elastic_net_path, steps=2, iterations=5)
    monkeypatch.setattr(sparse_fc, "elastic_net_path", short)


def checked(name, out, folder):
    """The result of a table, and that each row has what it must."""
    table = load_table(name)
    result = json.loads((folder / "result.json").read_text())
    assert result["source"] == table.source and table.title in (folder / "report.html").read_text()
    assert set(result["left_out"]) == LEFT_OUT.get(name, set())
    rows = {(r["metric"], r["row"], r["column"]): r for r in result["rows"]}
    made = [c for c in table.columns if c.name not in result["left_out"]]
    columns = {"Dense", "edges", "random", *(c.name for c in made)}
    if any(c.tracer and not c.selection for c in made):
        columns.add("Magnitude")
    for metric in table.metrics:
        for column in columns:
            row = rows[metric, "saliency", column]
            assert row["n"] == 2 and math.isfinite(row["standard_error"])
            figures = table.published.get(metric)
            expected = None if figures is None else figures.figure("saliency", column)
            assert row["published"] == expected
            assert expected is None or f"{expected:.2f}" in out
    assert {r["column"] for r in result["own_minus_other_image"]} == {
        c.name for c in made if c.controlled
    }
    return result


def of_classes(name):
    table = load_table(name)
    return table.kind == "scores" and table.data != "celeba"


@pytest.mark.parametrize("name", filter(of_classes, names()))
def test_every_table_runs(name, tiny, short_path, run, tmp_path):
    method = ["-a", "lrp"] if name == "10" else []
    code, out, err = run("reproduce", name, "--planted", tiny, *TINY, *method, "-o", "out")
    assert code == 0, err
    assert "another network than the paper's" in out
    checked(name, out, tmp_path / "out")


def test_a_table_on_the_bundled_network(short_path, run, tmp_path):
    layers = ["-l", "stages.*.conv1", "-l", "fc"]  # what exact OBC prunes in no time
    code, out, err = run("reproduce", "2", *TINY, *layers, "-o", "out")
    assert code == 0, err
    assert "NOT the paper's network" in out
    result = checked("2", out, tmp_path / "out")
    assert result["answered_as_planted"] == {"yes": 2, "of": 2}
    assert not result["paper_architecture"]


def test_accuracies(run, tmp_path):
    code, out, err = run("reproduce", "table16", "-o", "out")
    assert code == 0, err
    assert "94.7 ± 0.7 (n = 960)" in out and "73.2" in out
    rows = json.loads((tmp_path / "out/result.json").read_text())["rows"]
    assert [row["row"] for row in rows] == ["clean", "trojan"]


def test_similarity_of_gradients(tiny, run, tmp_path):
    sizes = ["--limit", "2", "-n", "4", "--no-progress"]
    arguments = ["reproduce", "i7", "--planted", tiny, *sizes, "-s", "0.5", "-o", "out"]
    code, out, err = run(*arguments)
    assert code == 0, err
    rows = json.loads((tmp_path / "out/result.json").read_text())["rows"]
    found = {(r["row"], r["column"]): r for r in rows}
    assert found["average", "Dense"]["published"] == 73.55 and "77.21" in out
    files = sorted((tiny / "clean").iterdir())[:2]
    expected = []
    for file in files:
        x, model = read_image(file)[None], tiny_planted.make()
        label, layers = int(predictions(model, x)), ["layer4.0", "fc"]
        sparse = trace(model, x, sparsity=0.5, augmentations=4, progress=False).model
        of = {"Dense": model, "SPADE": sparse}
        expected.append(
            {c: gradient_noise_similarity(m, x, label, layers=layers) for c, m in of.items()}
        )
    for column in ("Dense", "SPADE"):
        for layer in ("input", "layer4.0", "fc"):
            mean = sum(e[column][layer] for e in expected) / 2
            assert found[layer, column]["mean"] == pytest.approx(100 * mean, abs=1e-4)
    before = sorted(p.stat().st_mtime_ns for p in (tmp_path / "out/samples").iterdir())
    assert run(*arguments)[0] == 0
    assert sorted(p.stat().st_mtime_ns for p in (tmp_path / "out/samples").iterdir()) == before


def test_agreement_of_masks(tiny, run, tmp_path):
    sizes = ["--limit", "2", "-n", "4", "--no-progress"]
    code, out, err = run("reproduce", "k11", "--planted", tiny, *sizes, "-o", "out")
    assert code == 0, err
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert set(result["left_out"]) == {"same patch", "same patch and class"}  # one pair alone
    found = {(r["row"], r["column"]): r for r in result["rows"]}
    row = found["fc", "random pictures"]
    assert row["n"] == 2 and 0 <= row["mean"] <= 100 and row["published"] is None
    assert "two pairs" in out
