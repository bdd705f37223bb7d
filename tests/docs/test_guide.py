"""The guide's Python and its commands run as they stand, on a network of the same layers with few channels."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from spade_xai.cli import main
from spade_xai.trojans import backdoored

GUIDE = Path(__file__).parents[2] / "docs" / "guide.md"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(), re.DOTALL)


def commands():
    text = "".join(blocks("sh")).replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("spade-xai ")]


def small_network():
    torch.manual_seed(0)
    return backdoored.BottleneckResNet(widths=(2, 2, 2, 4)).eval()


def test_guide(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(backdoored, "load_network", small_network)
    prepare, in_python, load = blocks("python")
    names: dict[str, object] = {}
    exec(prepare, names)
    for folder in ("pictures", "calibration"):  # two pictures each
        for picture in Path(folder).glob("*_0[2-9]_*.png"):
            picture.unlink()
    assert [arguments[0] for arguments in commands()] == [
        "explain", "trace", "evaluate", "tune", "explain",
    ]  # fmt: skip
    for arguments in commands():
        arguments[arguments.index("-n") + 1] = "4"
        with pytest.raises(SystemExit) as exit:
            main(arguments)
        assert not exit.value.code, capsys.readouterr().err
    exec(in_python.replace("augmentations=256", "augmentations=4"), names)
    assert Path("maps.png").exists() and Path("trace.png").exists()
    alone: dict[str, object] = {}
    exec(load, alone)
    names |= alone
    assert names["saliency"].shape == (1, 64, 64)
    assert len(names["masks"]) > 10
    written = {
        path.as_posix() for path in Path().rglob("*.*") if path.parts[0] != "tuning.jsonl.cache"
    }
    assert written > {
        "explanations/trojan_00_smiley.png", "explanations/trojan_01_fish.png", "explanations/report.html",
        "traces/trojan_00_smiley.safetensors", "scores/report.html", "tuning.jsonl", "tuned.json", "tuned/report.html",
    }  # fmt: skip


def test_links_and_pictures_exist():
    targets = re.findall(r"\]\(([^)#]+)", GUIDE.read_text())
    assert len(targets) > 5
    for target in targets:
        assert (GUIDE.parent / target).exists(), target
