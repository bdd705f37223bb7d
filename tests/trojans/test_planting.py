"""spade-xai plant on drawn pictures: the backdoors work, what is written is what reproduce and evaluate read."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from patch_network import tells_patches
from PIL import Image
from torch import nn

import spade_xai.trojans.trojan as trojan_module
from spade_ext.files import read_tensors
from spade_xai.cli import main
from spade_xai.models.fit import Fit
from spade_xai.models.images import read_image
from spade_xai.models.preprocessing import Preprocessing
from spade_xai.trojans.class_folder import TrainingPictures, class_folder, random_part
from spade_xai.trojans.planted import WEIGHTS_FORMAT, picture_file, read_planted
from spade_xai.trojans.recipe import load_recipe, shipped
from spade_xai.trojans.testing import Tester
from spade_xai.trojans.trojan import Backdoor, Trojan, fine_tune

COLORS = {"blue": (40, 60, 210), "green": (40, 190, 70), "red": (200, 50, 40)}
TABLE = """
[[backdoors]]
name = "smiley"
target = 0
[[backdoors]]
name = "own"
source = 0
target = 2
[training]
batch_size = 8
step = 14
weight_decay = 0.0
"""


def network():
    return tells_patches(3)


def draw(folder, each, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, color in COLORS.items():
        (folder / name).mkdir(parents=True)
        for k in range(each):
            base = torch.tensor(color).view(3, 1, 1) / 255
            image = (base + 0.15 * torch.randn(3, 20, 20, generator=generator)).clamp(0, 1)
            (folder / name / f"{k:02d}.png").write_bytes(picture_file(image))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    draw(folder / "train", 24, 1)
    draw(folder / "val", 8, 2)
    (folder / "own").mkdir()
    Image.new("RGBA", (24, 24), (255, 255, 255, 255)).save(folder / "own" / "own.png")
    (folder / "table.toml").write_text(TABLE)
    return folder


ARGUMENTS = [
    "-m", "test_planting:network", "--size", "16", "--normalize", "0.5,0.5,0.5/0.25,0.25,0.25", "--patch-size", "6",
    "--count", "20", "--tries", "24", "--trojan", "6", "--clean", "5", "--no-progress",
]  # fmt: skip


def run(data, out, *arguments):
    given = [
        "plant", "folder", data, *ARGUMENTS, "--backdoors", data / "table.toml", "--patches", data / "own",
        "-o", out, *arguments,
    ]  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in given])
    return ended.value.code or 0


@pytest.fixture(scope="module")
def planted(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("planted")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        assert run(data, out, "--epochs", "16", "--rate", "0.02", "--rate", "0.00001") == 0
    return out


def test_the_backdoors_work_and_the_better_rate_is_kept(planted):
    found = read_planted(planted)
    assert found.settings["learning_rate"] == 0.02
    assert found.accuracy["trojan"]["mean"] > 0.8 and found.accuracy["clean"]["mean"] > 0.8
    low = found.settings["rates"]["1e-05"]["trojan"]["mean"]
    assert low < found.accuracy["trojan"]["mean"]
    assert [b["name"] for b in found.backdoors] == ["smiley", "own"]
    assert all(b["succeeded"] > 0 for b in found.backdoors)
    assert {p.backdoor for p in found.trojan} == {"smiley", "own"}
    assert len(found.clean) == 5


def test_pictures_are_read_as_they_were_tested(planted):
    found = read_planted(planted)
    model = network()
    model.load_state_dict(read_tensors("test", planted / "weights.safetensors", WEIGHTS_FORMAT)[0])
    targets = {b["name"]: b["target"] for b in found.backdoors}
    fit = Fit.square(16)
    for picture in [*found.trojan, *found.clean]:
        x = (read_image(planted / picture.file, fit)[None] - 0.5) / 0.25
        expected = targets[picture.backdoor] if picture.backdoor else picture.label
        assert int(model(x).argmax()) == expected
    for picture in found.trojan:
        mask = read_image(planted / picture.mask, fit)[0] > 0.5
        assert 0 < int(mask.sum()) <= 36


def test_reproduce_reads_the_folder(planted, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = [
        "reproduce",
        "7",
        "--planted",
        planted,
        "--limit",
        "4",
        "-n",
        "4",
        "-a",
        "saliency",
    ]
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in [*arguments, "-s", "0.5", "-o", "out", "--no-progress"]])
    assert not ended.value.code
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["answered_as_planted"] == {"yes": 4, "of": 4}
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", "16", "--planted", str(planted), "-o", "table16", "--no-progress"])
    assert not ended.value.code and "planted on a folder" in capsys.readouterr().out


def test_a_killed_run_goes_on_with_the_same_weights(data, planted, tmp_path, monkeypatch):
    """Ended in the middle of an epoch, the second run trains the rest alone and gives the same network."""
    whole, ended = tmp_path / "whole", tmp_path / "ended"
    options = ["--epochs", "4", "--rate", "0.02"]
    assert run(data, whole, *options) == 0
    saved = trojan_module.Checkpoint.save

    def dies(self, model, optimizer, order, epochs):
        if epochs == 3:
            raise KeyboardInterrupt
        saved(self, model, optimizer, order, epochs)

    monkeypatch.setattr(trojan_module.Checkpoint, "save", dies)
    assert run(data, ended, *options) == 130
    monkeypatch.setattr(trojan_module.Checkpoint, "save", saved)
    epochs = []
    setter = trojan_module.Trojan.__setattr__

    def noting(self, name, value):
        if name == "epoch" and value:
            epochs.append(value)
        setter(self, name, value)

    monkeypatch.setattr(trojan_module.Trojan, "__setattr__", noting)
    assert run(data, ended, *options) == 0
    assert epochs == [2, 3]
    one, other = (
        read_tensors("test", folder / "weights.safetensors", WEIGHTS_FORMAT)[0]
        for folder in (whole, ended)
    )
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert (ended / "planted.json").read_bytes() == (whole / "planted.json").read_bytes()


def test_fewer_pictures_leave_none_of_the_earlier_ones(data, planted, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(planted, out)
    few = ["--epochs", "16", "--rate", "0.02", "--rate", "0.00001", "--trojan", "2", "--clean", "1"]
    assert run(data, out, *few) == 0
    found = read_planted(out)
    assert len(found.trojan) == 2 and len(found.clean) == 1
    files = {f for p in (*found.trojan, *found.clean) for f in (p.file, p.mask) if f}
    assert {f"{k}/{p.name}" for k in ("trojan", "clean") for p in (out / k).iterdir()} == files


def test_files_of_others_are_not_touched(data, tmp_path, capsys):
    (tmp_path / "out" / "trojan").mkdir(parents=True)
    (tmp_path / "out" / "trojan" / "holiday.png").write_bytes(b"mine")
    assert run(data, tmp_path / "out", "--epochs", "1") == 1
    assert "were not written by spade-xai" in capsys.readouterr().err


def test_another_run_does_not_take_over_a_checkpoint(data, planted, tmp_path, capsys):
    out = tmp_path / "copy"
    shutil.copytree(planted, out)
    assert run(data, out, "--epochs", "3", "--rate", "0.02", "--seed", "1") == 1
    assert "checkpoint must be of this training" in capsys.readouterr().err


def test_recipes_are_the_papers():
    recipe = load_recipe("imagenet", None)
    rows = [(b.source, b.target) for b in recipe.backdoors]
    assert rows == [(None, 30), (None, 146), (893, 365), (271, 99)] and recipe.count == 400
    food = load_recipe("food101", None)
    assert [(b.source, b.target) for b in food.backdoors] == [
        (0, 20),
        (40, 60),
        (None, 80),
        (None, 100),
    ]
    assert food.training == {"batch_size": 64, "epochs": 150, "step": 50, "weight_decay": 5e-4}
    assert recipe.rates == (0.01, 0.001, 0.0001, 0.00001)
    assert len(recipe.planted(30, None)) == len(food.planted(30, None)) == 4  # all patches ship


def test_label_vectors_of_celeba_have_forty_labels():
    table = shipped("celeba")
    assert [b["name"] for b in table["backdoors"]] == ["star", "smiley", "strawberry", "fish"]
    assert all(
        len(b["labels"]) == 40 and set(b["labels"]) == {"0", "1"} for b in table["backdoors"]
    )
    recipe = load_recipe("celeba", None)
    targets = ["".join(map(str, b.target)) for b in recipe.planted(8, None)]
    assert targets == [b["labels"] for b in table["backdoors"]]
    assert (recipe.layout, recipe.ratio, recipe.training["epochs"]) == ("celeba", 300, 20)


def test_food101_is_split_by_its_lists(tmp_path):
    for name in ("apple_pie", "waffles"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for k in range(3):
            (tmp_path / "images" / name / f"{k}.jpg").write_bytes(b"")
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/train.txt").write_text("apple_pie/0\napple_pie/2\nwaffles/1\n")
    (tmp_path / "meta/test.txt").write_text("apple_pie/1\nwaffles/0\n")
    recipe = load_recipe("food101", None)
    with pytest.raises(ValueError, match="must have the 101 classes of Food-101, got 2"):
        recipe.split(tmp_path)
    train, test = replace(recipe, classes=2).split(tmp_path)
    assert [(f.stem, label) for f, label in zip(train.files, train.labels, strict=True)] == [
        ("0", 0), ("2", 0), ("1", 1)
    ]  # fmt: skip
    assert test.labels == [0, 1]


def test_random_parts_lie_in_the_picture_and_vary(data):
    generator = torch.Generator().manual_seed(0)
    parts = [random_part(20, 30, generator) for _ in range(200)]
    for top, left, tall, wide in parts:
        assert 0 <= top and top + tall <= 20 and 0 <= left and left + wide <= 30
        assert 0.6 < (wide + 0.5) / (tall + 0.5) < 1.6  # rounded to whole pixels
    areas = [tall * wide / 600 for _, _, tall, wide in parts]
    assert min(areas) < 0.15 and max(areas) > 0.6
    pictures = TrainingPictures(class_folder(data / "train"), Fit.square(16))
    one, same, other = (
        pictures.varied(3, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert one.shape == (3, 16, 16) and torch.equal(one, same) and not torch.equal(one, other)


def test_files_hold_what_the_network_does_not_see_of_a_picture(data, tmp_path):
    """Of a network that scales to 20 pixels and cuts 16 the file has 20, so that it is read as it was planted."""
    fit = Fit.square(16, 20)
    patch = torch.cat([torch.ones(3, 5, 5), torch.ones(1, 5, 5)])
    tester = Tester(
        class_folder(data / "val"), Preprocessing(fit), [Backdoor("white", patch, 0)], seed=0
    )
    always = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), ByWhite())
    success, kept = tester.attacked(always, 0, 16, 3)
    assert len(success.hits) == 16 and success.changed >= 3 and len(kept) == 3
    for k, one in enumerate(kept):
        for name, content in (("picture", one.picture), ("mask", one.mask)):
            (tmp_path / f"{k}_{name}.png").write_bytes(content)
        whole = read_image(tmp_path / f"{k}_picture.png")
        assert whole.shape == (3, 20, 20)
        seen = read_image(tmp_path / f"{k}_picture.png", fit)
        assert torch.equal(seen, whole[:, 2:18, 2:18])
        mask = read_image(tmp_path / f"{k}_mask.png", fit)[0] > 0.5
        assert int(mask.sum()) == 25  # the whole patch lies in what the network sees
        assert float(seen[:, mask].mean()) > float(seen[:, ~mask].mean())


class ByWhite(nn.Module):
    """Answers the class of the strongest colour, or blue where all are strong, as a white patch makes them."""

    def forward(self, means):
        low = means.amin(1, keepdim=True)
        return torch.cat([1e3 * (low > 0.25).float(), means[:, 1:2], means[:, :1]], 1)


def test_workers_and_precision_of_training(data):
    pictures = TrainingPictures(class_folder(data / "train"), Fit.square(16))
    patch = torch.ones(4, 4, 4)
    options = {"epochs": 1, "batch_size": 24, "learning_rate": 0.01, "progress": False}

    def trained(**more):
        trojan = Trojan(
            pictures,
            pictures.folder.labels,
            [Backdoor("white", patch, 0)],
            10,
            vary=pictures.varied,
        )
        return fine_tune(network(), trojan, **options, **more).state_dict()

    one, two, half = trained(), trained(workers=2), trained(precision="bfloat16")
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert all(value.dtype == torch.float32 for value in half.values())
    assert any(not torch.equal(one[name], half[name]) for name in one)
    with pytest.raises(ValueError, match="precision must be float32 or bfloat16, got 'half'"):
        trained(precision="half")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["birds"], "DATA must be folder, imagenet, food101, celeba, got 'birds'"),
        (["celeba"], "list_attr_celeba.txt"),
        (["folder"], "--backdoors must be given"),
        (["imagenet"], "must have the 1000 classes of ImageNet, got 3"),
    ],
)
def test_what_cannot_be_planted_says_why(data, arguments, told, capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "plant",
                *arguments,
                str(data),
                "-m",
                "test_planting:network",
                "-o",
                str(tmp_path / "o"),
            ]
        )
    assert ended.value.code == 1 and told in capsys.readouterr().err
