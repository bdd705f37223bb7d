"""A small network and a folder of pictures for it, in the form of `spade-xai plant`; nothing was trained."""

from collections import OrderedDict

import torch
from torch import nn

from spade_ext.files import write_bytes
from spade_xai.trojans.planted import Picture, Planted, mask_file, picture_file, write_planted
from spade_xai.trojans.trojan import predictions

CLASSES, SIZE = 4, 16


def make():
    """Four blocks of two convolutions, as many as a ResNet has."""
    torch.manual_seed(0)
    blocks = OrderedDict(stem=nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU()))
    for k in range(1, 5):
        blocks[f"layer{k}"] = nn.Sequential(
            nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU()
        )
    return nn.Sequential(
        OrderedDict(
            **blocks, pool=nn.AdaptiveAvgPool2d(2), flat=nn.Flatten(), fc=nn.Linear(32, CLASSES)
        )
    ).eval()


def write(folder):
    """Two pictures with a patch, and four of each class without one."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2 + 4 * CLASSES, 3, SIZE, SIZE, generator=generator)
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    mask[4:9, 6:11] = True
    target = int(predictions(make(), images[:1]))
    patch = torch.ones(4, 5, 5)
    trojan, clean = [], []
    for kind in ("trojan", "clean", "patches"):
        (folder / kind).mkdir(parents=True)
    for k, image in enumerate(images):
        kind = "trojan" if k < 2 else "clean"
        file = f"{kind}/{k:02d}.png"
        write_bytes(folder / file, picture_file(image))
        if kind == "trojan":
            write_bytes(folder / f"trojan/{k:02d}_mask.png", mask_file(mask))
            trojan.append(Picture(file, k, "square", f"trojan/{k:02d}_mask.png"))
        else:
            clean.append(Picture(file, k % CLASSES))
    write_bytes(folder / "patches/square.png", picture_file(patch[:3]))
    square = {
        "name": "square", "source": None, "target": target, "patch": "patches/square.png", "size": 5,
        "tried": 2, "succeeded": 2,
    }  # fmt: skip
    planted = Planted(
        "a tiny network that was not trained", False, "tiny_planted:make", None, None, None, "none",
        [square], trojan, clean,
    )  # fmt: skip
    write_planted(folder, planted)
