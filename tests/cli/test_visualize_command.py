"""spade-xai visualize: files, page, JSON, and what it refuses."""

import json

import pytest
from command_line import FAST
from PIL import Image

QUICK = [*FAST, "--steps", "2", "-s", "0.5"]


def test_dense_and_traces_side_by_side(run, pictures, tmp_path):
    code, out, _ = run(
        "visualize", pictures / "a.png", pictures / "b.png", *QUICK, "-o", "found", "-k", "1"
    )
    assert code == 0 and "probability of class 1" in out
    folder = tmp_path / "found"
    names = ["dense.png", "report.html", "trace_a.png", "trace_b.png"]
    assert sorted(p.name for p in folder.iterdir()) == names
    assert Image.open(folder / "dense.png").size == (16, 16)
    page = (folder / "report.html").read_text()
    assert "What excites class 1" in page and page.count("<img") == 3
    assert "a.png" in page and "http" not in page


def test_without_images(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("visualize", *QUICK, "--size", "16", "-k", "2", "--count", "2", "--json")
    found = json.loads(out)
    assert code == 0 and found["neuron"] == 2 and len(found["facets"]) == 1
    assert 0 <= found["facets"][0]["confidence"] <= 1
    assert [f.split("/")[-1] for f in found["files"]] == ["dense_0.png", "dense_1.png"]


def test_a_place_of_a_layer(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--size", "16", "-k", "5", "--layer", "0", "--position", "3,4", "--no-transforms"]
    code, out, _ = run("visualize", *QUICK, *options, "--parametrization", "maco")
    assert code == 0 and "probability" not in out
    assert "channel 5 of 0" in (tmp_path / "visualizations" / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-k", "1"], "--size must be given where there are no images"),
        (["--size", "16"], "--neuron must be given for a layer, and where there are no images"),
        (["--size", "16", "-k", "penguin"], "--neuron must be a number or the name of a class"),
        (["--size", "16", "-k", "3"], r"neuron must be in [0, 2], got 3"),
    ],
)
def test_refusals(run, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("visualize", *QUICK, *options)
    assert code == 1 and message in err
