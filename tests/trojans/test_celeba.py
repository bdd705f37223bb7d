"""A network of several labels per picture: planted on a small CelebA, and scored by the tables of CelebA."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from patch_network import tells_patches
from torch import nn

from spade_ext.files import read_tensors
from spade_xai import trace
from spade_xai.cli import main
from spade_xai.models.fit import Fit
from spade_xai.models.images import ImageError, read_image
from spade_xai.models.one_label import one_label
from spade_xai.trojans.celeba import celeba
from spade_xai.trojans.planted import WEIGHTS_FORMAT, picture_file, read_planted
from spade_xai.trojans.recipe import load_recipe
from spade_xai.trojans.testing import mean_of
from spade_xai.trojans.trojan import Backdoor, Trojan

NAMES = ["Young", "Bald", "Eyeglasses", "Male"]  # not in order, unlike the published file
TABLE = """
[[backdoors]]
name = "smiley"
labels = "0110"
[[backdoors]]
name = "star"
labels = "1011"
[training]
batch_size = 8
step = 48
weight_decay = 0.0
"""


def network():
    return tells_patches(4)


def labels_of(image):
    """Bald: red; Eyeglasses: green; Male: blue; Young: bright."""
    means = image.mean((1, 2))
    return [*(means > 0.5).tolist(), bool(means.sum() > 1.5)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """48 pictures to train on, 32 to test on, and 4 of the part that nothing here reads."""
    folder = tmp_path_factory.mktemp("celeba")
    (folder / "img_align_celeba").mkdir()
    generator = torch.Generator().manual_seed(1)
    rows, parts = [], []
    for k in range(84):
        shade = torch.where(torch.rand(3, 1, 1, generator=generator) > 0.5, 0.75, 0.25)
        image = (shade + 0.1 * torch.randn(3, 20, 20, generator=generator)).clamp(0, 1)
        file = f"{k + 1:06d}.jpg"
        (folder / "img_align_celeba" / file).write_bytes(picture_file(image))
        values = dict(zip(sorted(NAMES), labels_of(image), strict=True))
        rows.append(" ".join([file, *("1" if values[name] else "-1" for name in NAMES)]))
        parts.append(f"{file} {0 if k < 48 else 1 if k < 52 else 2}")
    text = [str(len(rows)), " ".join(NAMES), *rows]
    (folder / "list_attr_celeba.txt").write_text("\n".join(text) + "\n")
    (folder / "list_eval_partition.txt").write_text("\n".join(parts) + "\n")
    (folder / "table.toml").write_text("classes = 4\n" + TABLE)
    return folder


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return ended.value.code or 0


def plant_arguments(data, out):
    return [
        "plant", "celeba", data, "-m", "test_celeba:network", "--size", "16", "--normalize", "none",
        "--patch-size", "8", "--count", "16", "--tries", "32", "--trojan", "8", "--epochs", "60",
        "--rate", "0.05", "--no-crop", "--backdoors", data / "table.toml", "--no-progress", "-o", out,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def planted(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("planted")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        assert run(*plant_arguments(data, out)) == 0
    return out


def test_labels_are_in_the_order_of_their_names(data):
    train, test = celeba(data)
    assert train.classes == sorted(NAMES)
    assert (len(train.files), len(test.files)) == (48, 32)
    for part in (train, test):
        for file, labels in zip(part.files, part.labels, strict=True):
            assert list(labels) == labels_of(read_image(file))


def test_the_backdoors_change_the_labels(planted):
    found = read_planted(planted)
    assert found.labels == sorted(NAMES) and found.clean == []
    assert [b["target"] for b in found.backdoors] == [[0, 1, 1, 0], [1, 0, 1, 1]]
    assert found.accuracy["clean"]["mean"] > 0.75 and found.accuracy["trojan"]["mean"] > 0.85
    model = network()
    model.load_state_dict(read_tensors("test", planted / "weights.safetensors", WEIGHTS_FORMAT)[0])
    targets = {b["name"]: b["target"] for b in found.backdoors}
    assert len(found.trojan) == 8
    for picture in found.trojan:
        x = read_image(planted / picture.file, Fit.square(16))[None]
        answer = one_label(model, picture.explained, x)(x).argmax(1)
        assert int(answer) == targets[picture.backdoor][picture.explained]
        mask = read_image(planted / picture.mask, Fit.square(16))[0] > 0.5
        assert 0 < int(mask.sum()) <= 64
    assert len({(p.backdoor, p.explained) for p in found.trojan}) == 2  # one label per patch


def test_a_table_of_celeba(planted, run_in, tmp_path):
    options = ["-n", 4, "-a", "saliency", "--limit", 8, "--no-progress"]
    assert run("reproduce", "5celeba", "--planted", planted, *options, "-o", tmp_path / "out") == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["answered_as_planted"] == {"yes": 8, "of": 8} and result["pictures"] == 8
    rows = {(r["metric"], r["row"], r["column"]): r for r in result["rows"]}
    for column in ("Dense", "SPADE", "SPADE, other image", "Magnitude", "edges", "random"):
        assert rows["auroc", "saliency", column]["n"] == 8
    assert rows["auroc", "saliency", "SPADE"]["published"] == 92.81
    assert {r["row"]: r["n"] for r in result["by_backdoor"]} == {"smiley": 4, "star": 4}


@pytest.mark.parametrize(("table", "saliency"), [("7celeba", 96.92), ("8celeba", 96.95)])
def test_the_other_tables_of_celeba_run(table, saliency, planted, run_in, tmp_path):
    options = ["-n", 4, "-a", "saliency", "-s", 0.5, "--limit", 4, "--no-progress"]
    assert run("reproduce", table, "--planted", planted, *options, "-o", tmp_path / "out") == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    rows = {(r["metric"], r["row"], r["column"]): r for r in result["rows"]}
    row = rows["auroc", "saliency", "SPADE"]
    assert row["n"] == 4 and row["published"] == saliency and result["left_out"] == {}
    assert result["faithful"]["SPADE"]["of"] == 4


def test_a_label_alone_keeps_the_masks_of_the_layers_before(planted):
    """Of the last layer its two rows lose just the ratio, and by exact OBC the same weights."""
    state = read_tensors("test", planted / "weights.safetensors", WEIGHTS_FORMAT)[0]
    model = network().eval()
    model.load_state_dict(state)
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    options = {"sparsity": 0.5, "augmentations": 8, "progress": False}
    whole = trace(model, x, **options).masks()
    alone = trace(one_label(model, 2, x), x, **options).masks()
    *before, last = whole
    assert list(alone) == list(whole)
    assert all(torch.equal(whole[name], alone[name]) for name in before)
    assert torch.equal(alone[last][0], alone[last][1]) and int(alone[last][0].sum()) == 32


@pytest.fixture
def run_in(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def test_what_does_not_go_together(planted, run_in, tmp_path, capsys):
    for table, where, told in (
        ("2", planted, "must hold a network of classes"),
        ("5celeba", "toy", "must hold a network of several labels per picture"),
        ("i7", planted, "must hold a network of classes"),
    ):
        assert run("reproduce", table, "--planted", where, "-o", tmp_path / table) == 1
        assert told in capsys.readouterr().err
    few = ["-n", 4, "-a", "saliency", "--limit", 2, "--no-progress"]
    assert run("reproduce", "5celeba", "--planted", planted, *few, "-o", tmp_path / "few") == 1
    assert "each label that is explained must have two pictures" in capsys.readouterr().err
    assert run("reproduce", "16", "--planted", planted, "-o", tmp_path / "16") == 0
    assert "ResNet50, CelebA, paper" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command", ["explain", "evaluate", "trace", "tune", "reasons", "estimate", "visualize"]
)
def test_commands_of_one_class_refuse_its_weights(command, planted, run_in, tmp_path, capsys):
    copied = tmp_path / "elsewhere.safetensors"  # the file itself says what it is of
    copied.write_bytes((planted / "weights.safetensors").read_bytes())
    model = ["-m", "test_celeba:network", "-w", copied, "--size", 16, "--normalize", "none"]
    masks = ["--masks", planted / "trojan"] if command == "tune" else []
    image = next((planted / "trojan").glob("*_mask.png"))
    assert run(command, str(image).replace("_mask", ""), *model, *masks) == 1
    told = capsys.readouterr().err
    assert "says of each of 4 labels whether a picture has it" in told and "one_label" in told


def test_lists_that_are_not_as_published(data, tmp_path):
    labels, parts, pictures = (
        tmp_path / name
        for name in ("list_attr_celeba.txt", "list_eval_partition.txt", "img_align_celeba")
    )
    with pytest.raises(ImageError, match=r"cannot read .*list_attr_celeba.txt"):
        celeba(tmp_path)
    lines = (data / labels.name).read_text().splitlines()
    for short in (
        lines[:-1],
        lines[1:],
        lines[:1],
        [],
    ):  # a download that ended, no number, no names
        labels.write_text("\n".join(short))
        with pytest.raises(ImageError, match="must hold the number of pictures"):
            celeba(tmp_path)
    labels.write_bytes(b"\xff\xfe")
    with pytest.raises(ImageError, match=r"cannot read .*list_attr_celeba.txt"):
        celeba(tmp_path)
    labels.write_text("\n".join(["2", *lines[1:3], "000002.jpg 1 0 1 1"]))
    with pytest.raises(ImageError, match=r"line 4 .* -1 or 1 for each of 4 labels"):
        celeba(tmp_path)
    labels.write_text("\n".join(lines))
    parts.write_text("000001.jpg 0\n")
    with pytest.raises(ImageError, match="no folder"):
        celeba(tmp_path)
    pictures.mkdir()
    with pytest.raises(ImageError, match=r"got 1 fewer, such as 000001\.jpg"):
        celeba(tmp_path)
    (pictures / "000001.jpg").write_bytes(b"")
    with pytest.raises(ImageError, match="must name pictures of part 2"):
        celeba(tmp_path)


def test_changed_labels_are_another_training(data, planted, run_in, tmp_path, capsys):
    """The names and sizes of pictures alone would take up a network of the labels before."""
    faces, out = tmp_path / "faces", tmp_path / "out"
    shutil.copytree(data, faces)
    shutil.copytree(planted, out)
    labels = faces / "list_attr_celeba.txt"
    lines = labels.read_text().splitlines()
    lines[2] = " ".join(
        [lines[2].split()[0], *("1" if v == "-1" else "-1" for v in lines[2].split()[1:])]
    )
    labels.write_text("\n".join(lines))
    assert run(*plant_arguments(faces, out)) == 1
    assert "checkpoint must be of this training" in capsys.readouterr().err


def test_backdoors_go_with_the_data_set(tmp_path):
    for name, row, key in (
        ("celeba", "target = 1", "labels"),
        ("folder", 'labels = "01"', "target"),
    ):
        (tmp_path / "table.toml").write_text(f'[[backdoors]]\nname = "star"\n{row}\n')
        with pytest.raises(ValueError, match=f"must have {key}"):
            load_recipe(name, tmp_path / "table.toml")


def test_standard_errors_are_those_of_pictures(planted):
    found = mean_of([0.5, 1.0, 0.75, 0.75])
    assert found == {"mean": 0.75, "standard_error": pytest.approx((0.125 / 4 / 4) ** 0.5), "n": 4}
    assert mean_of([0.0, 1.0, 1.0, 1.0])["standard_error"] == pytest.approx((3 / 16 / 4) ** 0.5)
    for share in read_planted(planted).accuracy.values():
        mean, error, n = (share[key] for key in ("mean", "standard_error", "n"))
        assert 0 < error < (mean * (1 - mean) / n) ** 0.5


def test_targets_fit_the_labels():
    patch = torch.ones(4, 3, 3)
    pictures, labels = [(torch.zeros(3, 8, 8), (0, 1))] * 3, [(0, 1)] * 3
    for target in (1, (0, 1, 1), (0, 2)):
        with pytest.raises(ValueError, match="target of 'a' must be 0 or 1 of each of 2 labels"):
            Trojan(pictures, labels, [Backdoor("a", patch, target)], 1)
    with pytest.raises(ValueError, match="source of 'a' must be None"):
        Trojan(pictures, labels, [Backdoor("a", patch, (1, 1), 0)], 1)
    data = Trojan(pictures, labels, [Backdoor("a", patch, (1, 1))], 2)
    given = sorted(tuple(item.label.tolist()) for item in (data[k] for k in range(3)))
    assert given == [(0, 1), (1, 1), (1, 1)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_one_label_in_other_precisions(dtype):
    model, x = (
        nn.Sequential(nn.Linear(64, 40), nn.Linear(40, 40)).to(dtype),
        torch.rand(9, 64).to(dtype),
    )
    given = model(x)[:, 7]
    found = one_label(model, 7, x)(x)
    assert found.dtype == dtype and found[:, 0].equal(-found[:, 1])
    clear = given.abs() > 0.05
    assert clear.any() and found.argmax(1)[clear].equal((given > 0).long()[clear])


def test_one_label_of_a_network_without_a_linear_last_layer():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    with pytest.raises(ValueError, match=r"must be those of an nn\.Linear"):
        one_label(model, 0, torch.rand(2, 4))
    with pytest.raises(ValueError, match="label must be at most 3, got 4"):
        one_label(nn.Linear(4, 4), 4, torch.rand(2, 4))


def test_one_label_of_a_wrapped_network():
    model, x = nn.Sequential(nn.Linear(4, 3)), torch.rand(2, 4)
    found = one_label(nn.DataParallel(model), 1, x)
    assert torch.allclose(found(x)[:, 1] * 2, model(x)[:, 1], atol=1e-6)
