"""The command line: what goes wrong."""

import json
from pathlib import Path

import pytest
import torch
from command_line import FAST, make, notices
from PIL import Image
from safetensors.torch import save_file

from spade_xai import metrics


def files():
    """Contents of all files below the working directory."""
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


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
            "other.safetensors does not fit the model: 0 of 4 names fit, 3 missing in the file",
        ),
        (["trace", "pictures/a.png", "-m", "torchvision:resnet5000"], "no model 'resnet5000'"),
        (["trace", "pictures/a.png", "-m", "no.such:model"], "cannot import no.such:model"),
        (["trace", "pictures/a.png", "-m", "os:system"], "called without arguments, must return"),
        (["trace", "pictures/a.png", "-m", "command_line:feature_maps"], "must return logits"),
        (
            ["trace", "pictures/a.png", "--size", "8"],
            "cannot be run on an image of shape (3, 8, 8)",
        ),
        (["trace", "pictures/a.png", "-s", "most"], "--sparsity must be faithful, a ratio"),
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
        (["trace", "pictures/a.png", "--normalize", "nan,0,0/1,1,1"], "three finite numbers each"),
        (["trace", "pictures/a.png", "--seed", str(2**70)], "seed must be at most"),
        (["trace", "pictures/a.png", "-o", "text.png"], "--out must be in a folder that can be ma"),
        (["explain", "pictures/a.png", "-o", "text.png/x"], "--out must be in a folder that can b"),
        (
            ["evaluate", "pictures/a.png", "-o", "text.png"],
            "--out must be in a folder that can be m",
        ),
        (
            ["explain", "pictures/a.png", "-o", "pictures"],
            "pictures/a.png would be written over, whi",
        ),
        (
            ["trace", "black/a.png", "-o", "taken"],
            "taken/a.safetensors is there and was not written",
        ),
        (
            ["tune", "pictures/a.png", "-o", "text.png"],
            "text.png is there and was not written by spa",
        ),
        (
            ["tune", "pictures/a.png", "-o", "x", "--checkpoint", "text.png"],
            "text.png is no checkpo",
        ),
        (["trace", "pictures/a.png", "--max-memory", "inf"], "max_memory"),
        (["trace", "pictures/a.png", "--max-memory", "1e999"], "max_memory"),
        (["trace", "pictures/a.png", "-s", "deep.json"], "JSON is nested too deeply"),
        (["trace", "pictures/a.png", "-s", "deep.toml"], "deep.toml is nested too deeply"),
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
    Path("taken").mkdir()
    Path("taken/a.safetensors").write_bytes(b"not ours")
    Path("deep.json").write_text("[" * 100_000)
    Path("deep.toml").write_text("a = " + "[" * 100_000)
    model = [] if "-m" in arguments or arguments[0] == "demo" else FAST
    before = files()
    code, out, err = run(*arguments, *model)
    assert code == 1
    assert out == ""
    assert files() == before
    err = notices(err)
    assert err.startswith("spade-xai: ") and err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prune"], "No such command 'prune'"),
        (["trace", "pictures/a.png"], "Missing option '--model'"),
        (["trace", "pictures/a.png", *FAST, "-n", "0"], "Invalid value for '--augmentations'"),
        (["trace", "pictures/a.png", *FAST, "-t", "pruner"], "Invalid value for '--tracer'"),
        (["explain", "pictures/a.png", *FAST, "-a", "grad"], "Invalid value for '--method'"),
        (["trace", "pictures/a.png", *FAST, "--device", "abacus"], "Invalid value for '--device'"),
        (
            ["trace", "pictures/a.png", *FAST, "--forward-precision", "int8"],
            "Invalid value for '--forward-precision'",
        ),
        (["trace", "pictures/a.png", *FAST, "--size", "100000"], "Invalid value for '--size'"),
    ],
)
def test_wrong_usage_ends_with_code_2(run, pictures, arguments, message):
    before = files()
    code, out, err = run(*arguments)
    assert code == 2
    assert out == "" and message in err
    assert files() == before


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


@pytest.mark.parametrize("command", ["trace", "explain", "evaluate", "tune"])
def test_an_image_that_cannot_be_read_is_skipped_unless_strict(run, pictures, command):
    (pictures / "0.png").write_bytes(b"no picture")
    Path("out").mkdir()
    arguments = [command, "pictures/0.png", "pictures/a.png", "pictures/b.png", *FAST]
    arguments += ["-o", "out/file" if command in ("evaluate", "tune") else "out"]
    arguments += [] if command == "trace" else ["-a", "saliency"]
    arguments += ["--grid", "0.5"] if command == "tune" else ["-t", "FastSPADE", "-s", "0.5"]
    code, out, err = run(*arguments, "--json")
    assert code == 3
    json.loads(out)
    assert "skipped" in err and "cannot read pictures/0.png as an image" in err
    assert "a.png" in out or command in ("evaluate", "tune")
    code, out, err = run(*arguments, "--strict")
    err = notices(err)
    assert code == 1 and err.startswith("spade-xai: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    "names", [("a/b", "a_b", "c/b"), ("a-2/b", "a/b", "c/b"), ("x", "X", "a/x")]
)
def test_no_two_images_write_to_one_file(run, pictures, names):
    for name in names:
        Path(f"{name}.png").parent.mkdir(exist_ok=True)
        Path(f"{name}.png").write_bytes((pictures / "a.png").read_bytes())
    arguments = ["-t", "FastSPADE", "-s", "0.5", "-o", "out"]
    assert run("trace", *(f"{name}.png" for name in names), *FAST, *arguments)[0] == 0
    written = [path.name for path in Path("out").iterdir()]
    assert len({name.lower() for name in written}) == 3
    assert not [name for name in written if ".png" in name]


@pytest.mark.parametrize("command", ["trace", "explain"])
def test_weights_and_masks_are_not_written_over(run, pictures, command):
    Path("out").mkdir()
    save_file(make().state_dict(), "out/a.safetensors")
    options = [*FAST, "-s", "0.5", "-o", "out", "-w", "out/a.safetensors"]
    before = files()
    code, _, err = run(command, "pictures/a.png", *options)
    assert code == 1 and "out/a.safetensors would be written over, which the command reads" in err
    if command == "explain":
        for name in ("a", "a_mask"):
            Path(f"{name}.png").write_bytes(Path(f"pictures/{name}.png").read_bytes())
        before = files()
        code, _, err = run("explain", "pictures/a.png", *FAST, "--masks", ".", "-o", ".")
        assert code == 1 and "a.png is there and was not written by spade-xai" in err
    assert files() == before
