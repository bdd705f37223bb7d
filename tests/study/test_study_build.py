"""Building a study: which images, regions and visualisations, and what is used again."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from spade_xai.study.build import build_study
from spade_xai.study.folder import read_study
from spade_xai.study.labels import read_labels
from spade_xai.study.options import StudyOptions
from spade_xai.study.part import Candidate
from spade_xai.study.regions import best_window, last_feature_maps, revealed, score_cam, strongest

pytest.importorskip("torchcam", reason="torchcam needs Python 3.11")


class Corners(nn.Module):
    """Class 0 looks for red in the upper left, class 1 for green in the lower right; class 2 is always a little on."""

    def __init__(self):
        super().__init__()
        self.maps = nn.Conv2d(3, 2, 1, bias=False)
        self.block = nn.Sequential(nn.Linear(2 * 64, 6), nn.ReLU(), nn.Linear(6, 3))
        with torch.no_grad():
            self.maps.weight.copy_(torch.tensor([[1.0, -1, -1], [-1.0, 1, -1]])[..., None, None])
            self.block[0].weight.zero_()
            self.block[0].bias.zero_()
            self.block[0].weight[0, :64] = 0.2
            self.block[0].weight[1, 64:] = 0.2
            self.block[2].weight.zero_()
            self.block[2].weight[0, 0] = self.block[2].weight[1, 1] = 1.0
            self.block[2].bias.copy_(torch.tensor([0.0, 0.0, 0.1]))

    def forward(self, x):
        return self.block(torch.relu(self.maps(x)).flatten(1))


def picture(red, green, seed=0):
    """8 x 8: red in the upper left quarter, green in the lower right one, a little noise."""
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 0.02
    image[0, :4, :4] += red
    image[1, 4:, 4:] += green
    return image


QUICK = {"augment": None, "sparsity": 0.5, "progress": False}
OPTIONS = {"count": 10, "steps": 2, "region": 0.25, "cam_layer": "maps", "repeats": 0}


def candidates(labels=None):
    found = []
    for k in range(6):
        image = picture(0.9, 0.5, seed=k)  # the network answers 0
        label = None if labels is None else labels[k]
        found.append(Candidate(f"i{k}.png", image, image[None], label))
    return found


def built(folder, given, options=OPTIONS, **more):
    model = Corners()
    return build_study(
        folder, model, len(given), lambda k: given[k], StudyOptions(**options), library="cdn", **{**QUICK, **more}
    )  # fmt: skip


def test_score_cam_finds_what_each_class_looks_at():
    x = picture(0.9, 0.5)[None]
    maps = score_cam(Corners(), x, [0, 1], layer="maps")
    regions = strongest(maps, 0.25)
    assert regions.sum((1, 2)).tolist() == [16, 16]
    assert bool(regions[0, :4, :4].all()) and bool(regions[1, 4:, 4:].all())
    shown = revealed(x[0], regions[0])
    assert torch.equal(shown[:, :4, :4], x[0][:, :4, :4]) and bool((shown[:, 4:, 4:] == 0.5).all())


def test_score_cam_equals_torchcams_class_by_class():
    from torchcam.methods import ScoreCAM

    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(180, 4)).eval()
    x = torch.rand(1, 3, 8, 8)
    ours = score_cam(model, x, [3, 1], layer="1", batch_size=2)
    for k, number in enumerate((3, 1)):
        with torch.no_grad(), ScoreCAM(model, "1") as cam:
            model(x)
            (expected,) = cam(number)
        resized = nn.functional.interpolate(expected.reshape(1, 1, 6, 6), (8, 8), mode="bicubic")
        assert torch.allclose(ours[k], resized[0, 0].clamp(0, 1), atol=1e-6)


def test_the_best_square():
    maps = torch.zeros(2, 6, 9)
    maps[0, 2:4, 5:8] = 1.0  # 2 x 3: a square of 2 x 2 fits in, the first of two
    maps[1, 5, 0] = 2.0
    found = best_window(maps, 4 / 54)
    expected = torch.zeros(2, 6, 9, dtype=torch.bool)
    expected[0, 2:4, 5:7] = True
    expected[1, 4:6, 0:2] = True
    assert torch.equal(found, expected)
    assert bool(best_window(maps, 1.0).any())


def test_layers_of_score_cam():
    model, x = Corners(), torch.rand(1, 3, 8, 8)
    assert last_feature_maps(model, x) == "maps"
    with pytest.raises(ValueError, match="layer must name a module"):
        score_cam(model, x, [0], layer="none")
    with pytest.raises(ValueError, match="layer must give maps"):
        score_cam(model, x, [0], layer="block.0")
    with pytest.raises(ValueError, match="model must have a layer with feature maps"):
        last_feature_maps(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), x)


def test_without_labels_the_two_most_probable_classes(tmp_path):
    study = built(tmp_path / "s", candidates(), classes=["red", "green", "blue"])
    assert len(study.images) == 6 and len(study.tasks) == 12
    for image in study.images:
        assert image.classes == [0, 1] and image.class_names == ["red", "green"]
        assert image.roles == ["first", "second"] and image.region_share == pytest.approx(16 / 64)
    neurons = [study.tasks[2 * k].neuron for k in range(6)]
    assert sorted(neurons) == [0, 0, 0, 1, 1, 1]
    for k in range(6):
        dense, spade = study.tasks[2 * k : 2 * k + 2]
        assert (dense.image, dense.neuron, dense.condition) == (k, neurons[k], "dense")
        assert (spade.image, spade.neuron, spade.condition) == (k, neurons[k], "SPADE")
    assert len({task.id for task in study.tasks}) == 12
    assert read_study(tmp_path / "s") == study


def test_regions_in_the_files_are_those_of_the_classes(tmp_path):
    study = built(tmp_path / "s", candidates(), {**OPTIONS, "region": 0.25})
    for image in study.images:
        shown = [np.array(Image.open(tmp_path / "s" / "site" / name)) for name in image.regions]
        assert (shown[0][:4, :4, 0] > 200).all() and (shown[0][4:, 4:] == 128).all()
        assert (shown[1][4:, 4:, 1] > 100).all() and (shown[1][:4, :4] == 128).all()


def test_with_labels_only_misclassified_images(tmp_path):
    study = built(tmp_path / "s", candidates([0, 1, 1, 2, 0, 1]))
    assert study.left_out["right answer"] == 2
    # of class 2 no map speaks: its region is no smaller, and may overlap
    assert len(study.images) + study.left_out["regions overlap"] == 4
    for image in study.images:
        assert image.roles == ["right", "predicted"] and image.classes[1] == 0


def test_both_neurons(tmp_path):
    study = built(tmp_path / "s", candidates(), {**OPTIONS, "neurons": "both"})
    assert len(study.tasks) == 24
    assert {(t.neuron, t.condition) for t in study.tasks} == {
        (n, c) for n in (0, 1) for c in ("dense", "SPADE")
    }


def test_overlapping_regions_are_left_out(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"a study needs two images, got 0 of 6 .*6 regions overlap.*smaller --region",
    ):
        built(tmp_path / "s", candidates(), {**OPTIONS, "region": 0.5})


def test_an_interrupted_build_goes_on(tmp_path, monkeypatch):
    from spade_xai.study import part as module

    calls = []
    real = module.trace

    def counted(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(module, "trace", counted)
    with pytest.raises(KeyboardInterrupt):
        built(tmp_path / "s", candidates())
    study = built(tmp_path / "s", candidates())
    assert len(calls) == 3 + 4  # two images were made before
    assert study == built(tmp_path / "t", candidates())
    before = len(calls)
    assert built(tmp_path / "s", candidates()) == study and len(calls) == before
    built(tmp_path / "s", candidates(), {**OPTIONS, "steps": 3})  # other pictures: all anew
    assert len(calls) == before + 6
    next((tmp_path / "s" / "site").glob(study.images[0].picture)).unlink()
    assert read_again(tmp_path / "s", built(tmp_path / "s", candidates()))


def read_again(folder, study):
    return read_study(folder) == study


def test_a_changed_manifest_is_refused(tmp_path):
    built(tmp_path / "s", candidates())
    path = tmp_path / "s" / "study.json"
    value = json.loads(path.read_text())
    value["title"] = "another"
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError, match="damaged"):
        read_study(tmp_path / "s")


def noisy(x):
    return x + 0.01 * torch.randn_like(x)


def test_what_cannot_be_told_must_be_put_into_words(tmp_path):
    with pytest.raises(ValueError, match="about must tell augment in words"):
        built(tmp_path / "s", candidates(), augment=noisy)
    study = built(tmp_path / "s", candidates(), augment=noisy, about={"augment": "noise"})
    assert study.settings["augment"] == "noise" and "augment" not in study.settings["trace"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 1}, "count must be"), ({"region": 0.7}, "region must be"), ({"steps": 0}, "steps must be"),
        ({"shape": "round"}, "shape must be one of square, pixels"),
        ({"neurons": "all"}, "neurons must be one of one, both"),
    ],
)  # fmt: skip
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        StudyOptions(**options)


def test_labels(tmp_path):
    path = tmp_path / "labels.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["file", "class"], ["x/a.png", "Fox", "note"], ["b.png", " 1"], ["c.png", "2"]]
        )
    assert read_labels(path, ["b.png", "a.png"], ["goose", "bear", "fox"]) == [1, 2]
    with pytest.raises(ValueError, match=r"must have a line for every image, got none for d\.png"):
        read_labels(path, ["d.png"], None)
    with pytest.raises(ValueError, match="unknown class 'Fox'"):
        read_labels(path, ["a.png"], None)
    with pytest.raises(ValueError, match="unknown class '2'"):
        read_labels(path, ["c.png"], ["goose", "bear"])
    path.write_bytes(b"\xff\xfea.png,1")
    with pytest.raises(ValueError, match="CSV file in UTF-8"):
        read_labels(path, ["a.png"], None)
