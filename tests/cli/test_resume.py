"""Folders of results: what is finished is kept, what is not is made again, and with the same content."""

import json
from pathlib import Path

import pytest
import torch
from command_line import FAST, make
from PIL import Image
from results import contents

import spade_xai.reports.explain
import spade_xai.reports.scores
from spade_xai import attribute, pixel_map
from spade_xai.commands import trace as trace_command
from spade_xai.reports.maps_file import read_maps
from spade_xai.tracing.augment import ImageAugment
from spade_xai.tracing.trace import trace

COMMANDS = {
    "trace": ["-s", "0.5"],
    "explain": ["-s", "0.5", "-a", "saliency"],
    "evaluate": ["-s", "0.5", "-a", "saliency", "-t", "SPADE", "-t", "FastSPADE"],
}


@pytest.fixture
def counted(monkeypatch):
    """Samples that were traced."""
    samples = []

    def counting(name, module):
        original = getattr(module, name)

        def call(model, given, *arguments, **options):
            if name == "trace":
                samples.append(given)
                return original(model, given, *arguments, **options)
            watched = (samples.append(x) or x for x in given)
            return original(model, watched, *arguments, **options)

        monkeypatch.setattr(module, name, call)

    counting("trace_many", trace_command)
    counting("trace_many", spade_xai.reports.scores)
    counting("trace", spade_xai.reports.explain)
    return samples


@pytest.mark.parametrize("command", COMMANDS)
def test_a_rerun_does_the_rest(run, pictures, counted, command):
    arguments = [command, "pictures/a.png", "pictures/b.png", *FAST, *COMMANDS[command]]
    assert run(*arguments, "-o", "whole")[0] == 0
    every = len(counted)
    assert run(*arguments, "-o", "whole")[0] == 0
    assert len(counted) == every  # nothing was traced again
    whole = contents("whole")
    for path in [path for path in Path("whole").rglob("*") if path.is_file()]:
        for damage in (Path.unlink, lambda p: p.write_bytes(p.read_bytes()[:-9] + b"123456789")):
            if damage is not Path.unlink and path.suffix in (".html", ".png"):
                continue
            if damage is not Path.unlink and path.name == "scores.json":
                continue
            before = len(counted)
            damage(path)
            assert run(*arguments, "-o", "whole")[0] == 0
            assert contents("whole") == whole
            assert len(counted) - before <= 1  # what was damaged alone


@pytest.mark.parametrize("command", COMMANDS)
def test_other_settings_images_and_weights_are_another_run(run, pictures, counted, command):
    arguments = [command, "pictures/a.png", *FAST, *COMMANDS[command], "-o", "out"]
    assert run(*arguments)[0] == 0
    torch.save({k: 2 * v for k, v in make().state_dict().items()}, "w.pt")
    every = len(counted)
    further = (
        ["--seed", "1"],
        ["-s", "0.6"],
        ["-w", "w.pt"],
        ["--augment", "noise"],
        ["--normalize", "imagenet"],
    )
    for options in further:
        assert run(*arguments, *options)[0] == 0
        assert run(*arguments)[0] == 0  # the files in the folder are those of the last run
    assert len(counted) == every * (1 + 2 * len(further))
    Image.effect_noise((16, 16), 50).convert("RGB").save("pictures/a.png")
    assert run(*arguments)[0] == 0
    assert len(counted) == every * (2 + 2 * len(further))


def test_maps_of_the_command_line_are_those_of_the_library(run, pictures):
    """Attributions and baselines act on normalised inputs, as captum's and the paper's do."""
    methods = ["saliency", "input_x_gradient", "deep_lift", "integrated_gradients", "lrp"]
    options = [x for method in methods for x in ("-a", method)]
    arguments = ["explain", "pictures/a.png", *FAST, *options, "-s", "0.5", "--z-box"]
    code, out, _ = run(*arguments, "--normalize", "imagenet", "--json")
    assert code == 0
    found, mask, texts = read_maps(Path(json.loads(out)["images"][0]["maps"]))
    assert mask is None
    assert texts["space"].startswith("the model's inputs")
    assert "less 0.485, 0.456, 0.406, divided by 0.229" in texts["preprocessing"]
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    x = (found.image - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    model = make().eval()
    augment = ImageAugment(mean=mean, std=std)
    sparse = trace(
        model, x[None], sparsity=0.5, augment=augment, augmentations=16, batch_size=8, progress=False
    ).model  # fmt: skip
    target = int(model(x[None]).argmax())
    for method in methods:
        bounds = {"bounds": (float(x.min()), float(x.max()))} if method == "lrp" else {}
        for column, network in (("dense", model), ("SPADE", sparse)):
            expected = pixel_map(attribute(network, x[None], target, method, **bounds), method)[0]
            torch.testing.assert_close(found.maps[method][column], expected)


def test_two_pictures_and_their_files_next_to_each_other(run, pictures):
    """The folder of the images is fit for results of other names."""
    arguments = [*FAST, "-s", "0.5", "-o", "pictures"]
    assert run("trace", "pictures/a.png", *arguments)[0] == 0
    assert run("trace", "pictures/a.png", *arguments)[0] == 0
    assert sorted(p.name for p in pictures.iterdir()) == [
        "a.png", "a.safetensors", "a_mask.png", "b.png", "b_mask.png"
    ]  # fmt: skip
