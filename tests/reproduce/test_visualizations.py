"""Figure J.11: three networks per backdoor, what the page says of them, and what is left out."""

import json
from dataclasses import replace

import pytest
import tiny_planted

from spade_xai.commands import reproduce
from spade_xai.reproduce.table import load_table
from spade_xai.reproduce.visualizations import CLEAN, TROJAN
from spade_xai.trojans.planted import read_planted, write_planted


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce, "load_table", lambda name: replace(load_table(name), steps=3))
    folder = tmp_path / "planted"
    tiny_planted.write(folder)
    return folder


ARGUMENTS = ["-n", "4", "-s", "0.5", "--no-progress", "-o", "out"]


def test_three_networks_of_each_backdoor(tiny, run, tmp_path):
    code, _, err = run("reproduce", "j11", "--planted", tiny, *ARGUMENTS)
    assert code == 0, err
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert [row["network"] for row in result["rows"]] == ["dense", TROJAN, CLEAN]
    assert all(0 <= row["confidence"] <= 1 for row in result["rows"])
    assert result["sparsity"] == {"SPADE": {"visualisations": "0.5"}}
    page = (tmp_path / "out/report.html").read_text()
    assert page.count('src="data:image/png;base64,') == 1 and "Figure J.11" in page


def test_without_a_clean_picture_of_the_class(tiny, run):
    planted = read_planted(tiny)
    (target,) = {backdoor["target"] for backdoor in planted.backdoors}
    others = [picture for picture in planted.clean if picture.label != target]
    write_planted(tiny, replace(planted, clean=others))
    code, _, err = run("reproduce", "j11", "--planted", tiny, *ARGUMENTS)
    assert code == 1 and f"needs a clean picture of class {target}" in err
