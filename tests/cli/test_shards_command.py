"""spade-xai evaluate --shard: the figures of an evaluation at once, from files that a rerun keeps."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from command_line import FAST
from PIL import Image

import spade_xai.reports.scores
from spade_xai.shards.file import FORMAT

ARGUMENTS = [
    "evaluate",
    "pictures",
    "--masks",
    "pictures",
    *FAST,
    "-s",
    "0.5",
    "-a",
    "saliency",
    "-t",
    "FastSPADE",
]


@pytest.fixture
def more_pictures(pictures):
    """Five images and their masks."""
    mask = (pictures / "a_mask.png").read_bytes()
    for k, name in enumerate("cde", 2):
        pixels = np.random.default_rng(k).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pictures / f"{name}.png")
        (pictures / f"{name}_mask.png").write_bytes(mask)
    return pictures


@pytest.fixture
def traced(monkeypatch):
    """Samples that were traced."""
    samples = []
    original = spade_xai.reports.scores.trace_many

    def counting(model, given, **options):
        return original(model, (samples.append(x) or x for x in given), **options)

    monkeypatch.setattr(spade_xai.reports.scores, "trace_many", counting)
    return samples


def figures(folder):
    """The scores of a folder by metric, method and map, and the control's."""
    found = json.loads((Path(folder) / "scores.json").read_text())
    return {
        kind: {(r["metric"], r["method"], r["map"]): (r["n"], r["mean"]) for r in found[kind]}
        for kind in ("scores", "own_minus_other_image", "scores_of_faithful")
    }


def test_one_shard_has_the_figures_of_all_images_at_once(run, more_pictures):
    assert run(*ARGUMENTS, "-o", "whole")[0] == 0
    assert run(*ARGUMENTS, "-o", "one", "--shard", "9")[0] == 0
    expected, got = figures("whole"), figures("one")
    for kind, rows in expected.items():
        assert got[kind] == {key: pytest.approx(row) for key, row in rows.items()} and rows
    assert sorted(p.name for p in Path("one").iterdir()) == [
        "groups.parquet", "report.html", "scores.json", "shards"
    ]  # fmt: skip


def test_a_rerun_makes_the_shards_that_are_missing_damaged_or_changed(run, more_pictures, traced):
    arguments = [*ARGUMENTS, "-o", "out", "--shard", "2"]
    assert run(*arguments)[0] == 0
    files = sorted(Path("out/shards").iterdir())
    assert len(traced) == 5 and len(files) == 3  # of one, two and two images
    first = figures("out")
    assert first["scores"]["auroc", "saliency", "FastSPADE"][0] == 5
    traced.clear()
    assert run(*arguments)[0] == 0 and not traced
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:-3] + b"abc")
    assert run(*arguments)[0] == 0 and len(traced) == 3
    assert figures("out") == first
    traced.clear()
    pixels = np.random.default_rng(9).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(more_pictures / "e.png")
    assert run(*arguments)[0] == 0 and len(traced) == 2  # of the last shard
    assert figures("out") != first


def test_broken_images_are_skipped_and_told_once(run, more_pictures):
    (more_pictures / "b.png").write_bytes(b"no image")
    code, out, err = run(*ARGUMENTS, "-o", "out", "--shard", "2", "--json")
    assert code == 3 and err.count("skipped: ") == 1 and "b.png" in err
    assert json.loads(out)["traces"] == 4
    code, _, err = run(*ARGUMENTS, "-o", "strict", "--shard", "2", "--strict")
    assert code == 1 and "b.png" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shard", "2"], "--shard needs --out, the folder of the shards' files"),
        (["--engine", "ray", "-o", "out"], "--engine ray needs --shard"),
        (["--threads", "2", "-o", "out"], "--threads needs --shard"),
        (["--shard", "2", "-o", "out", "--address", "auto"], "--address needs --engine ray"),
    ],
)
def test_options_that_lack_another(run, pictures, options, message):
    code, _, err = run(*ARGUMENTS, *options)
    assert code == 1 and message in err


def test_without_pyarrow_the_extra_is_named(run, pictures, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, _, err = run(*ARGUMENTS, "-o", "out", "--shard", "2")
    assert code == 1 and "pip install 'spade-ext[shards]'" in err


def test_no_file_of_somebody_else_is_written_over(run, more_pictures):
    folder = Path("out/shards")
    folder.mkdir(parents=True)
    (folder / "00000.parquet").write_bytes(b"PAR1 somebody's PAR1")
    code, _, err = run(*ARGUMENTS, "-o", "out", "--shard", "2")
    assert code == 1 and "was not written by spade-xai" in err
    (folder / "00000.parquet").unlink()
    assert run(*ARGUMENTS, "-o", "out", "--shard", "2")[0] == 0
    assert FORMAT.encode() in (folder / "00000.parquet").read_bytes()
