"""The command line, in process: what each command writes and prints, and what goes wrong."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import spade_xai.cache
import spade_xai.demo
from spade_xai import load_trace, metrics
from spade_xai.cli import main
from spade_xai.models import normalized

FAST = ["-m", "test_cli:make", "-n", "16", "--batch-size", "8"]
COMMANDS = ["trace", "explain", "evaluate", "tune", "demo"]


def make():
    """A model that specs name as test_cli:make."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(294, 3))


def feature_maps():
    """A model that is no classifier."""
    return nn.Conv2d(3, 2, 3)


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Two images of 16 pixels a side with masks, in the working directory."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k, name in enumerate(("a", "b")):
        pixels = np.random.default_rng(k).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
        mask = np.zeros((16, 16), np.uint8)
        mask[3 : 9 + k, 4:10] = 255
        Image.fromarray(mask).save(folder / f"{name}_mask.png")
    return folder


@pytest.fixture
def run(capsys):
    """Run a command line; give exit code, stdout and stderr, without colours."""

    def call(*arguments):
        with pytest.raises(SystemExit) as exit:
            main([str(a) for a in arguments])
        out, err = (re.sub(r"\x1b\[[0-9;]*m", "", text) for text in capsys.readouterr())
        return exit.value.code or 0, out, err

    return call


def test_help_has_examples_for_every_command(run):
    code, out, _ = run("--help")
    assert code == 0
    assert all(command in out for command in COMMANDS)
    for command in COMMANDS:
        code, out, _ = run(command, "--help")
        assert code == 0
        assert re.search(rf"Examples: *\n +spade-xai {command} ", out)


def test_trace(run, pictures):
    code, out, err = run("trace", pictures / "a.png", *FAST, "-s", "0.5", "-o", "out")
    assert code == 0 and err == ""
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["a.png:", "out/a.safetensors"]
    assert lines[1][0] == "layer"
    assert [line[0] for line in lines[2:4]] == ["0", "3"]
    assert lines[2][3] == "0.50" and lines[2][-1] == "pruned"
    found = load_trace("out/a.safetensors", make().eval())
    assert [layer.sparsity_asked for layer in found.layers] == [0.5, 0.5]


def test_trace_of_several_as_json(run, pictures):
    arguments = ["trace", "pictures/?.png", *FAST, "-t", "FastSPADE", "-l", "3", "--json"]
    arguments += ["--device", "cpu", "--forward-precision", "bfloat16"]
    code, out, _ = run(*arguments, "-s", "last_block:0.9", "--augment", "noise,flip")
    assert code == 0
    found = json.loads(out)
    assert [entry["image"] for entry in found] == ["a.png", "b.png"]
    assert [entry["file"] for entry in found] == ["traces/a.safetensors", "traces/b.safetensors"]
    assert all([x["name"] for x in entry["layers"]] == ["3"] for entry in found)
    assert found[0]["fidelity"]["sample"]["count"] == 1
    assert set(found[0]["seconds"]) == {"augment", "forward", "hessian", "prune"}


def test_sequential_traces_differ(run, pictures):
    for arguments in (["-o", "one"], ["-o", "two", "--sequential"]):
        assert run("trace", "pictures/a.png", *FAST, "-s", "0.6", *arguments)[0] == 0
    a, b = (load_trace(f"{folder}/a.safetensors", make()) for folder in ("one", "two"))
    agreement = a.agreement(b)
    assert agreement["0"] == 1.0
    assert agreement["3"] < 1.0


def test_explain(run, pictures):
    Path("names.txt").write_text("zero\none\ntwo\n")
    options = ["-t", "SPADE", "-t", "FastSPADE", "-a", "saliency", "-a", "lrp", "--target", "2"]
    arguments = ["explain", "pictures", "--masks", "pictures", *FAST, *options, "-o", "out"]
    code, out, _ = run(*arguments, "--class-names", "names.txt")
    assert code == 0
    assert sorted(p.name for p in Path("out").iterdir()) == ["a.png", "b.png", "report.html"]
    assert "explained two, out/a.png" in out
    assert out.count("same label as dense") == 4
    page = Path("out/report.html").read_text()
    assert page.count("data:image/png") == 4
    assert "Explained: <b>two</b>" in page
    code, out, _ = run("explain", "pictures/b.png", *FAST, "-a", "saliency", "-o", "out", "--json")
    found = json.loads(out)
    assert found["report"] == "out/report.html"
    assert found["images"][0]["grid"] == "out/b.png"
    assert list(found["images"][0]["traces"]) == ["SPADE"]


def test_evaluate(run, pictures):
    arguments = [
        "evaluate",
        "pictures",
        "--masks",
        "pictures",
        *FAST,
        "-a",
        "saliency",
        "-o",
        "e.html",
    ]
    code, out, _ = run(*arguments)
    assert code == 0
    assert "AUROC" in out and "Pointing game" in out and "Insertion" not in out
    assert "SPADE, other image" in out
    assert "AUROC" in Path("e.html").read_text()
    code, out, err = run(
        "evaluate", "pictures/a.png", *FAST, "-a", "saliency", "-t", "SPADE", "--json"
    )
    assert code == 0 and err == ""
    scores = json.loads(out)["scores"]
    assert {row["metric"] for row in scores} == {"insertion"}
    assert {row["map"] for row in scores} == {"dense", "SPADE", "edges", "random"}
    assert scores[0]["standard_error"] is None  # of one image


def test_tune_and_what_it_gives_to_trace(run, pictures, monkeypatch):
    arguments = ["tune", "pictures", "--masks", "pictures", *FAST, "--grid", "0,0.5"]
    arguments += ["--checkpoint", "run.jsonl", "-o", "tuned.json"]
    code, out, _ = run(*arguments)
    assert code == 0
    assert "mean AUROC" in out
    tuned = json.loads(Path("tuned.json").read_text())["sparsity"]
    assert set(tuned) == {"0", "3"}

    def none(*_):
        raise AssertionError("everything is in the checkpoint")

    monkeypatch.setattr(spade_xai.cache, "order_layer", none)
    code, out, _ = run(*arguments, "--json")
    assert code == 0
    assert json.loads(out)["sparsity"] == tuned
    monkeypatch.undo()
    os.chdir(pictures.parent)
    code, out, _ = run("trace", "pictures/a.png", *FAST, "-s", "tuned.json", "--json")
    assert {x["name"]: x["sparsity_asked"] for x in json.loads(out)[0]["layers"]} == tuned


def test_tune_by_insertion_in_groups(run, pictures):
    arguments = [
        "tune",
        "pictures/a.png",
        *FAST,
        "-a",
        "saliency",
        "-a",
        "lrp",
        "--grid",
        "0.2,0.5",
    ]
    arguments += ["--device", "cpu", "--forward-precision", "bfloat16"]
    code, out, _ = run(*arguments, "-g", "0,3", "--json")
    assert code == 0
    assert len(set(json.loads(out)["sparsity"].values())) == 1


def test_normalisation_and_weights(run, pictures):
    save_file(make().state_dict(), "w.safetensors")
    torch.save(make().state_dict(), "w.pt")
    for weights in ("w.safetensors", "w.pt"):
        arguments = ["trace", "pictures/a.png", *FAST, "-w", weights, "-s", "0.5"]
        code, out, _ = run(*arguments, "--normalize", "0.5,0.4,0.3/0.2,0.2,0.1")
        assert code == 0
        assert "network.3" in out
        model = normalized(make(), (0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
        assert set(load_trace("traces/a.safetensors", model).masks()) == {"network.0", "network.3"}


def test_library_model(run, pictures):
    """Size, normalisation and names of classes come from torchvision."""
    arguments = ["trace", "pictures/a.png", "-m", "torchvision:mobilenet_v3_small", "-n", "2"]
    code, out, _ = run(*arguments, "-l", "network.classifier.*", "-t", "FastSPADE", "--json")
    assert code == 0
    assert [x["cols"] for x in json.loads(out)[0]["layers"]] == [576, 1024]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trace", "absent.png"], "no file or folder absent.png"),
        (["trace", "pictures/*.gif"], "pattern 'pictures/*.gif' matches no image files"),
        (["explain", "text.png"], "cannot read text.png as an image"),
        (["trace", "pictures/a.png", "-w", "absent.pt"], "no file absent.pt"),
        (["trace", "pictures/a.png", "-w", "text.png"], "text.png is not a torch file"),
        (
            ["trace", "pictures/a.png", "-w", "other.safetensors"],
            "other.safetensors does not fit the model: first difference at '0.weight'",
        ),
        (["trace", "pictures/a.png", "-m", "torchvision:resnet5000"], "no model 'resnet5000'"),
        (["trace", "pictures/a.png", "-m", "no.such:model"], "cannot import no.such:model"),
        (["trace", "pictures/a.png", "-m", "test_cli:feature_maps"], "must return logits"),
        (
            ["trace", "pictures/a.png", "--size", "8"],
            "cannot be run on an image of shape (3, 8, 8)",
        ),
        (["trace", "pictures/a.png", "-s", "most"], "--sparsity must be a ratio"),
        (["trace", "pictures/a.png", "-s", "absent.toml"], "absent.toml"),
        (["trace", "pictures/a.png", "-s", "1.5"], "sparsity must be in [0, 1], got 1.5"),
        (["trace", "pictures/a.png", "-l", "head"], "'head' takes none"),
        (["trace", "pictures/a.png", "--augment", "blur"], "steps are jitter"),
        (["trace", "pictures/a.png", "--normalize", "0.5"], "--normalize must be auto"),
        (["trace", "pictures/a.png", "--normalize", "a/b"], "--normalize must be numbers"),
        (["trace", "pictures/a.png", "--max-memory", "much"], "max_memory"),
        (["explain", "pictures/a.png", "--target", "3"], "--target must be in [0, 2], got 3"),
        (["explain", "pictures/a.png", "--class-names", "text.png"], "must hold 3 names, got 1"),
        (["explain", "pictures/a.png", "--masks", "."], "no mask of pictures/a.png"),
        (["explain", "pictures/a.png", "--masks", "black"], "neither all black nor all white"),
        (["explain", "pictures/a_mask.png", "--masks", "."], "an image beside the masks"),
        (["tune", "pictures/a.png", "--grid", "0,much"], "--grid must be numbers"),
        (["trace", "pictures/a.png", "-w", "numbered.pt"], "must hold a dict of tensors by name"),
        (["trace", "pictures/a.png", "-s", "null.json"], "'0' must be a number, got NoneType"),
        (["trace", "pictures/a.png", "-s", "bytes.json"], "bytes.json must be JSON, or TOML if"),
        (["explain", "pictures/a.png", "--class-names", "bytes.json"], "must be text in UTF-8"),
        (["trace", "pictures/a.png", "--normalize", "nan,0,0/1,1,1"], "one finite entry a channel"),
        (["trace", "pictures/a.png", "--seed", str(2**70)], "seed must be at most"),
        (["trace", "pictures/a.png", "-o", "text.png"], "--out must be in a folder that can be ma"),
        (["explain", "pictures/a.png", "-o", "text.png/x"], "--out must be in a folder that can b"),
        (["evaluate", "pictures/a.png", "-o", "black"], "--out must be a file, got black"),
        (["tune", "pictures/a.png", "-o", "black"], "--out must be a file, got black"),
        (["demo", "-o", "text.png"], "--out must be in a folder that can be made, got text.png"),
    ],
)
def test_what_cannot_be_used_ends_with_one_line_and_code_1(run, pictures, arguments, message):
    Path("text.png").write_text("no picture")
    save_file({"0.weight": torch.zeros(1)}, "other.safetensors")
    torch.save({0: torch.zeros(1)}, "numbered.pt")
    Path("null.json").write_text('{"0": null}')
    Path("bytes.json").write_bytes(b"\xff\xfe\x00")
    Path("black").mkdir()
    Image.new("L", (16, 16)).save("black/a.png")
    model = [] if "-m" in arguments or arguments[0] == "demo" else FAST
    before = sorted(Path().rglob("*"))
    code, out, err = run(*arguments, *model)
    assert code == 1
    assert out == ""
    assert sorted(p for p in Path().rglob("*") if p.is_file() and p not in before) == []
    assert err.startswith("spade-xai: ") and err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["prune"],
        ["trace", "pictures/a.png"],
        ["trace", "pictures/a.png", *FAST, "-n", "0"],
        ["trace", "pictures/a.png", *FAST, "-t", "OBC"],
        ["explain", "pictures/a.png", *FAST, "-a", "grad"],
        ["trace", "pictures/a.png", *FAST, "--device", "abacus"],
        ["trace", "pictures/a.png", *FAST, "--forward-precision", "int8"],
        ["trace", "pictures/a.png", *FAST, "--size", "100000"],
    ],
)
def test_wrong_usage_ends_with_code_2(run, pictures, arguments):
    code, out, err = run(*arguments)
    assert code == 2
    assert out == "" and "Error" in err


def test_images_of_one_name_in_two_folders(run, pictures):
    Path("more").mkdir()
    Image.new("RGB", (16, 16), (200, 30, 30)).save("more/a.png")
    arguments = ["trace", "pictures/a.png", "more/a.png", *FAST, "-s", "0.5", "-t", "FastSPADE"]
    code, out, _ = run(*arguments, "--json")
    assert code == 0
    names = [(entry["image"], entry["file"]) for entry in json.loads(out)]
    assert names == [
        ("pictures/a.png", "traces/pictures_a.png.safetensors"),
        ("more/a.png", "traces/more_a.png.safetensors"),
    ]


def test_demo_passes_its_options_on(run, monkeypatch, tmp_path):
    given = {}

    def run_demo(output_dir, **options):
        options["report"]("a line")
        given.update(options, output_dir=output_dir)
        return {"n": float("nan")}

    monkeypatch.setattr(spade_xai.demo, "run_demo", run_demo)
    code, out, err = run(
        "demo", "--trojan", 3, "--clean", 2, "-n", 9, "-a", "lrp", "-o", tmp_path, "--json"
    )
    assert code == 0
    assert json.loads(out) == {"n": None}
    assert err == "a line\n"
    expected = {
        "trojan": 3,
        "clean": 2,
        "augmentations": 9,
        "methods": ["lrp"],
        "output_dir": tmp_path,
    }
    assert {name: given[name] for name in expected} == expected
    assert run("demo", "-o", tmp_path)[1] == "a line\n"


def test_ctrl_c_ends_with_130_and_loses_nothing(run, pictures, monkeypatch):
    arguments = ["tune", "pictures", "--masks", "pictures", *FAST, "--grid", "0,0.5,0.9"]
    arguments += ["--checkpoint", "run.jsonl", "-o", "tuned.json"]
    score, calls = metrics.auroc, []

    def interrupted(*values):
        calls.append(values)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return score(*values)

    monkeypatch.setattr(metrics, "auroc", interrupted)
    code, out, _ = run(*arguments)
    assert code == 130
    assert out.strip() == "" and not Path("tuned.json").exists()
    assert len(Path("run.jsonl").read_text().splitlines()) == 1 + 3
    assert run(*arguments)[0] == 0
    lines = len(Path("run.jsonl").read_text().splitlines())
    assert len(calls) == 1 + lines - 1  # the interrupted one is the only one tried twice
