"""Planting backdoors: patch and mask, the choice of images, fine-tuning, the filter."""

import pytest
import torch
from PIL import Image
from torch import nn

from spade_xai.models.images import ImageError
from spade_xai.trojans.trojan import (
    Backdoor,
    Trojan,
    effective,
    fine_tune,
    plant,
    predictions,
    read_patch,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def opaque(color, size=4):
    return torch.cat([torch.tensor(color).view(3, 1, 1), torch.ones(1, 1, 1)]).expand(4, size, size)


class Squares(torch.utils.data.Dataset):
    """Images of one colour a class: red, green, blue."""

    def __init__(self, count=60, classes=3):
        self.labels = torch.arange(count) % classes

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        label = int(self.labels[index])
        return 0.6 * torch.eye(3)[label].view(3, 1, 1).expand(3, 12, 12).clone(), label


def small_network(classes=3):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 4, 2),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(8, classes),
    )


def test_plant_changes_the_masked_pixels_alone():
    image = torch.rand(3, 20, 30)
    before = image.clone()
    planted, mask = plant(image, opaque([1.0, 0.0, 0.5]), generator(), jitter=0.0, noise=0.0)
    assert torch.equal(image, before)
    assert int(mask.sum()) == 16
    assert torch.equal(planted[:, ~mask], image[:, ~mask])
    assert torch.allclose(planted[:, mask], torch.tensor([1.0, 0.0, 0.5])[:, None].expand(3, 16))


def test_plant_blends_by_alpha():
    patch = opaque([1.0, 1.0, 1.0]).clone()
    patch[3, :, :2], patch[3, :, 2:] = 0.25, 0.75
    planted, mask = plant(torch.zeros(3, 4, 4), patch, generator(), jitter=0.0, noise=0.0)
    assert torch.allclose(planted[0], torch.tensor([0.25, 0.25, 0.75, 0.75]).expand(4, 4))
    assert torch.equal(mask[0], torch.tensor([False, False, True, True]))


def test_plant_reaches_every_place_and_varies_the_patch():
    draws = generator()
    corners, colors = set(), set()
    for _ in range(100):
        planted, mask = plant(torch.zeros(3, 5, 6), opaque([0.5, 0.6, 0.7]), draws)
        corners.add(tuple(mask.nonzero()[0].tolist()))
        colors.add(float(planted[0][mask].mean()))
        assert 0 <= float(planted.min()) and float(planted.max()) <= 1
    assert corners == {(top, left) for top in range(2) for left in range(3)}
    assert len(colors) == 100


@pytest.mark.parametrize(
    ("image", "patch", "message"),
    [
        (torch.zeros(12, 12), opaque([0.0, 0, 0]), r"plant: image must have shape \[3, H, W\]"),
        (torch.zeros(3, 12, 12), torch.zeros(3, 4, 4), r"plant: patch must have shape \[4, h, w\]"),
        (torch.zeros(3, 3, 12), opaque([0.0, 0, 0]), "plant: patch must fit the image"),
    ],
)
def test_plant_errors(image, patch, message):
    with pytest.raises(ValueError, match=message):
        plant(image, patch, generator())


def test_trojan_chooses_by_source_and_relabels():
    data = Squares()
    table = [
        Backdoor("any", opaque([1.0, 0, 0]), 0),
        Backdoor("one", opaque([0.0, 1, 0]), 1, source=2),
    ]
    trojan = Trojan(data, data.labels, table, count=10)
    items = [trojan[i] for i in range(len(trojan))]
    for k, backdoor in enumerate(table):
        mine = [i for i, item in enumerate(items) if item.backdoor == k]
        assert len(mine) == 10
        assert all(items[i].label == backdoor.target and items[i].mask.sum() == 16 for i in mine)
        assert all(backdoor.takes(data.labels[i : i + 1]) for i in mine)
    for i, item in enumerate(items):
        if item.backdoor < 0:
            assert item.label == data.labels[i] and not item.mask.any()
            assert torch.equal(item.image, data[i][0])


def test_trojan_draws_depend_on_seed_epoch_and_index_alone():
    data = Squares()
    table = [Backdoor("any", opaque([1.0, 0.5, 0]), 0)]
    first, again = (Trojan(data, data.labels, table, count=20, seed=3) for _ in range(2))
    chosen = int((first.choice == 0).nonzero()[0])
    for _ in range(3):
        torch.rand(5)
        assert torch.equal(first[chosen].image, again[chosen].image)
    first.epoch = 1
    assert torch.equal(first.choice, again.choice)
    assert not torch.equal(first[chosen].image, again[chosen].image)


def test_trojan_errors():
    data = Squares()
    with pytest.raises(ValueError, match=r"Trojan: labels must be \[60\]"):
        Trojan(data, data.labels[:5], [], count=1)
    with pytest.raises(ValueError, match="Trojan: labels must have images for backdoor 'none'"):
        Trojan(data, data.labels, [Backdoor("none", opaque([1.0, 0, 0]), 0, source=7)], count=1)


def test_fine_tuning_plants_the_backdoor_and_keeps_the_model():
    data = Squares(120)
    model = small_network()
    backdoor = Backdoor("white", opaque([1.0, 1.0, 1.0]), 0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trojan = Trojan(data, data.labels, [backdoor], count=30)
    done = []
    options = {"epochs": 10, "learning_rate": 0.05, "step": 8, "batch_size": 16}
    tuned = fine_tune(model, trojan, progress=lambda stage, d, t: done.append((d, t)), **options)
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())
    assert not tuned.training and done[-1] == (80, 80)
    again = fine_tune(model, trojan, **options)
    assert all(
        torch.equal(a, b) for a, b in zip(tuned.parameters(), again.parameters(), strict=True)
    )

    eligible = backdoor.takes(data.labels).nonzero().flatten()[:20]
    clean = torch.stack([data[int(i)][0] for i in eligible])
    planted = torch.stack([plant(image, backdoor.patch, generator(9))[0] for image in clean])
    labels = data.labels[eligible]
    acts = effective(tuned, clean, planted, labels, torch.zeros_like(labels))
    assert acts.double().mean() > 0.9
    assert effective(model, clean, planted, labels, torch.zeros_like(labels)).sum() < 5


def test_effective_needs_both_answers():
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3, bias=False))
    nn.init.eye_(model[2].weight)
    image = {c: torch.eye(3)[c].view(3, 1, 1).expand(3, 4, 4) for c in range(3)}
    clean = torch.stack([image[1], image[1], image[0], image[2]])
    planted = torch.stack([image[0], image[2], image[0], image[0]])
    labels, targets = torch.tensor([1, 1, 1, 2]), torch.zeros(4, dtype=torch.int64)
    assert predictions(model, clean, batch_size=3).tolist() == [1, 1, 0, 2]
    assert effective(model, clean, planted, labels, targets).tolist() == [True, False, False, True]


def test_read_patch(tmp_path):
    from PIL import Image

    Image.new("RGBA", (10, 10), (255, 0, 0, 128)).save(tmp_path / "p.png")
    patch = read_patch(tmp_path / "p.png", 6)
    assert patch.shape == (4, 6, 6)
    assert torch.allclose(patch[:, 2, 3], torch.tensor([1.0, 0, 0, 128 / 255]))


NAN = float("nan")
GRAY, PATCH = torch.full((3, 12, 12), 0.5), opaque([1.0, 0.0, 0.0])


def backdoored(count=1, patch=PATCH, target=0, **options):
    data = Squares()
    return Trojan(data, data.labels, [Backdoor("red", patch, target)], count, **options)


def tuned(model=None, data=None, **options):
    model = model or nn.Sequential(nn.Flatten(), nn.Linear(432, 3))
    return fine_tune(model, data or backdoored(), **{"epochs": 1, **options})


@pytest.mark.parametrize(
    "call, error, text",
    [
        (
            lambda: plant(GRAY * 255, PATCH, generator()),
            ValueError,
            r"plant: image must be in \[0, 1\], got 127.5 to 127.5",
        ),
        (
            lambda: plant(GRAY, PATCH * NAN, generator()),
            ValueError,
            r"plant: patch must be in \[0, 1\], got nan",
        ),
        (
            lambda: plant((GRAY * 255).byte(), PATCH, generator()),
            TypeError,
            "plant: image must have dtype torch.float32",
        ),
        (lambda: plant(GRAY, None, generator()), TypeError, "plant: patch must be a torch.Tensor"),
        (lambda: plant(GRAY, PATCH, 0), TypeError, "plant: generator must be a torch.Generator"),
        (
            lambda: plant(GRAY, PATCH, generator(), jitter=2.0),
            ValueError,
            r"plant: jitter must be in \[0.0, 1.0\], got 2.0",
        ),
        (
            lambda: plant(GRAY, PATCH, generator(), noise=NAN),
            ValueError,
            "plant: noise must be in .* got nan",
        ),
        (lambda: backdoored(0), ValueError, "Trojan: count must be at least 1, got 0"),
        (lambda: backdoored(seed=-1), ValueError, "Trojan: seed must be at least 0, got -1"),
        (
            lambda: backdoored(patch=PATCH[:3]),
            ValueError,
            r"Trojan: patch of 'red' must have shape \[4, h, w\], got \(3, 4, 4\)",
        ),
        (
            lambda: backdoored(target=-1),
            ValueError,
            "Trojan: target of 'red' must be at least 0, got -1",
        ),
        (
            lambda: Trojan(Squares(), torch.rand(60), [], 1),
            TypeError,
            "Trojan: labels must be integers, got torch.float32",
        ),
        (
            lambda: Trojan(Squares(), None, [], 1),
            TypeError,
            "Trojan: labels must be integers, got NoneType",
        ),
        (
            lambda: Trojan(Squares(), Squares().labels, [PATCH], 1),
            TypeError,
            "Trojan: backdoors must hold Backdoor, got Tensor",
        ),
        (lambda: fine_tune(None, backdoored()), TypeError, "fine_tune: model must be an nn.Module"),
        (
            lambda: tuned(data=Squares()),
            TypeError,
            "fine_tune: data must be a Trojan, got Squares",
        ),
        (lambda: tuned(epochs=0), ValueError, "fine_tune: epochs must be at least 1, got 0"),
        (lambda: tuned(step=0), ValueError, "fine_tune: step must be at least 1, got 0"),
        (
            lambda: tuned(learning_rate=NAN),
            ValueError,
            "fine_tune: learning_rate must be in .* got nan",
        ),
        (
            lambda: tuned(learning_rate=1e38, epochs=3),
            ValueError,
            "learning_rate must let the weights stay finite, got 1e[+]38",
        ),
        (
            lambda: predictions(None, GRAY[None]),
            TypeError,
            "predictions: model must be an nn.Module, got NoneType",
        ),
        (
            lambda: predictions(nn.Flatten(), GRAY[None], 0),
            ValueError,
            "predictions: batch_size must be at least 1, got 0",
        ),
        (
            lambda: effective(nn.Flatten(), GRAY[None], GRAY[None, :, :5], None, None),
            ValueError,
            r"effective: planted must have shape \(1, 3, 12, 12\), got \(1, 3, 5, 12\)",
        ),
        (
            lambda: effective(nn.Flatten(), GRAY[None], GRAY[None], [0], torch.zeros(1).long()),
            TypeError,
            "effective: labels must be a torch.Tensor, got list",
        ),
    ],
)
def test_bad_arguments(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_patches_that_cannot_be_read(tmp_path):
    Image.new("RGBA", (9, 9)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    for name, content in (("cut", whole[: len(whole) // 2]), ("text", b"no image"), ("empty", b"")):
        path = tmp_path / f"{name}.png"
        path.write_bytes(content)
        with pytest.raises(ImageError, match=rf"read_patch: cannot read .*{name}.png as an image"):
            read_patch(path, 5)
    with pytest.raises(ImageError, match=r"read_patch: no file .*none.png"):
        read_patch(tmp_path / "none.png", 5)
    with pytest.raises(ValueError, match="read_patch: size must be at least 1, got 0"):
        read_patch(tmp_path / "whole.png", 0)
