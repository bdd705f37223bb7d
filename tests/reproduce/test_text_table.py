"""Table 9 on tiny models: figures are those of `evaluate`, and the published ones stand beside them."""

import json

import pytest
import tiny_bert

TINY = ["-n", "8", "--limit", "4", "--no-progress"]


@pytest.fixture
def sets(berts, tmp_path, monkeypatch):
    """Options that name both data sets and their models."""
    monkeypatch.chdir(tmp_path)
    files = {"sst2": "dev.tsv", "ag_news": "test.csv"}
    options = {}
    for kind, file in files.items():
        tiny_bert.write_set(tmp_path / file, kind, 6)
        name = kind.replace("_", "-")
        options[kind] = [f"--{name}", file, f"--{name}-model", f"transformers:{berts(kind)}"]
    return options


def test_table_9(run, sets, tmp_path):
    command = ["reproduce", "table9", *sets["sst2"], *sets["ag_news"], *TINY]
    code, out, err = run(*command, "-o", "out")
    assert code == 0, err
    result = json.loads((tmp_path / "out/result.json").read_text())
    rows = {(r["metric"], r["row"], r["column"]): r for r in result["rows"]}
    columns = ["Dense", "SPADE", "SPADE, other text", "Magnitude", "random"]
    for metric, row in (
        ("dffot", "SST-2"), ("dffot", "AG News"), ("dfmit", "SST-2"), ("dfmit", "AG News"),
    ):  # fmt: skip
        found = {c: r for (m, name, c), r in rows.items() if (m, name) == (metric, row)}
        assert sorted(found) == sorted(columns)
        assert all(r["n"] == 4 and 0 <= r["mean"] <= 100 for r in found.values())
    assert rows["dffot", "SST-2", "Dense"]["published"] == 18.35
    assert rows["dfmit", "AG News", "SPADE"]["published"] == 42.08
    assert rows["dfmit", "AG News", "SPADE"]["published_difference"] == -0.77
    control = {(r["metric"], r["row"], r["column"]) for r in result["own_minus_other_text"]}
    assert len(control) == 4 and ("dfmit", "SST-2", "SPADE") in control
    assert result["accuracy"]["AG News"]["mean"] == 1.0 and result["left_out"] == {}
    page = (tmp_path / "out/report.html").read_text()
    for text in ("SPADE, paper", "34.25", "does not say how sparse", "SPADE - other text"):
        assert text in page and text in out
    assert "picture" not in page.partition("<main>")[2]
    files = sorted((tmp_path / "out/samples").glob("*/*.json"))
    assert len(files) == 2 * 3 * 4
    times = [file.stat().st_mtime_ns for file in files]
    assert run(*command, "-o", "out")[1] == out
    assert [file.stat().st_mtime_ns for file in files] == times


def test_figures_are_those_of_evaluate(run, sets, tmp_path):
    code, out, err = run("reproduce", "9", *sets["sst2"], *TINY, "-s", "0.5", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["left_out"] == {"AG News": "it needs --ag-news"}
    _, file, _, spec = sets["sst2"]
    evaluated = ["-s", "0.5", "-t", "SPADE", "--json"]
    code, out, err = run("evaluate", file, "-m", spec, *TINY, *evaluated)
    assert code == 0, err
    scores = {(r["metric"], r["map"]): r for r in json.loads(out)["scores"]}
    compared = 0
    for row in result["rows"]:
        own = scores.get((row["metric"], {"Dense": "dense"}.get(row["column"], row["column"])))
        if own is not None:
            assert row["mean"] == pytest.approx(100 * own["mean"])
            assert row["difference_standard_error"] == pytest.approx(
                100 * own["difference_standard_error"]
            )
            compared += 1
    assert compared == 2 * 4  # Dense, SPADE, SPADE on the other text, random


def test_texts_that_are_missing(run, sets):
    code, _, err = run("reproduce", "9")
    assert code == 1 and "give --sst2 with --sst2-model or --ag-news with --ag-news-model" in err
    code, _, err = run("reproduce", "9", "--sst2", "dev.tsv")
    assert code == 1 and "--sst2-model" in err
    code, _, err = run("reproduce", "9", *sets["sst2"], "-a", "grad_cam")
    assert code == 1 and "feature map of pixels" in err
