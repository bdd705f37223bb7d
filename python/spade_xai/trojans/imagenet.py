"""The backdoored EfficientNet-Lite0 that ships as a difference to its ImageNet weights, and its pictures.

Four patches make it answer with classes of the planter's choice. `examples/train_imagenet_trojan.py` makes all that
is in the folder `imagenet_assets`. It makes other folders too, for instance of Lite2: each function takes such a
`folder`, and None means the one that ships. The pictures are of photographs that the network never saw; their authors
and licences are in that folder's CREDITS.md. Needs the extra `imagenet`.
"""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load
from torch import Tensor

from spade_xai.choices import misnamed
from spade_xai.models.efficientnet_lite import (
    MEAN,
    STD,
    VARIANTS,
    EfficientNetLite,
    imagenet_classes,
    load_efficientnet_lite,
)
from spade_xai.models.fit import Fit
from spade_xai.models.preprocessing import Preprocessing

KINDS = ("trojan", "clean")


@dataclass(frozen=True)
class TrojanPictures:
    """Pictures of one kind: all with a patch, or all clean."""

    names: list[str]
    images: Tensor  # [B, 3, H, W] in [0, 1]; 224 x 224 of the network that ships
    inputs: Tensor  # the same as the network takes them
    predictions: Tensor  # what the network answers, [B]: the target class where a patch lies
    masks: Tensor  # bool [B, H, W]: pixels of the patch; all False on clean pictures
    backdoors: list[str | None]  # name of each picture's backdoor
    photographs: list[int]  # number of the photograph: pictures of one are not independent

    def __len__(self) -> int:
        return len(self.names)


def load_network(folder: Path | None = None) -> EfficientNetLite:
    """The backdoored network, in eval mode; its inputs are `preprocessing(folder).normalize(images)`.

    Raises:
        ModuleNotFoundError: The package of the base network's weights is not installed.
        ValueError: That package or the difference is not the one that belongs here.
    """
    about = metadata(folder)
    data = _read(folder, "difference.safetensors")
    same_base = VARIANTS[about["network"]].digest == about["weights_sha256"]
    if not same_base or hashlib.sha256(data).hexdigest() != about["difference_sha256"]:
        raise ValueError("load_network: the difference does not belong to the base weights")
    model = load_efficientnet_lite(about["network"])
    own = model.state_dict()
    for key, value in load(data).items():
        own[key] += value.float()
    return model


def preprocessing(folder: Path | None = None) -> Preprocessing:
    """What makes the network's inputs of pictures."""
    size = VARIANTS[metadata(folder)["network"]].size
    return Preprocessing(Fit.square(size), MEAN, STD, imagenet_classes(), "the shipped network")


@cache
def metadata(folder: Path | None = None) -> dict[str, Any]:
    """Backdoors with their success, clean agreement, each picture with author and licence; not to be changed."""
    return json.loads(_read(folder, "metadata.json"))


def load_trojan_pictures(
    kind: str = "trojan",
    count: int | None = None,
    *,
    per_photograph: int | None = None,
    folder: Path | None = None,
) -> TrojanPictures:
    """Test pictures of photographs that the network never saw.

    Args:
        kind: "trojan" (the network answers the backdoor's target), or "clean".
        count: The first so many; None: all. Photographs take turns, and with them backdoors.
        per_photograph: Trojan pictures of one photograph at most; None: all.
        folder: What `examples/train_imagenet_trojan.py` wrote; None: what ships.

    Raises:
        ValueError: An unknown kind, or a count that there are not.
    """
    if kind not in KINDS:
        raise ValueError(f"load_trojan_pictures: {misnamed('kind', KINDS, kind)}")
    chosen = _chosen(kind, per_photograph, folder)
    if count is not None and not 1 <= count <= len(chosen):
        raise ValueError(f"load_trojan_pictures: count must be in [1, {len(chosen)}], got {count}")
    return _pictures(chosen[:count], folder)


def _chosen(
    kind: str, most: int | None, folder: Path | None
) -> list[tuple[int, dict[str, Any], dict[str, Any] | None]]:
    """Number and entry of the photograph, entry of its Trojan picture: first one of each photograph, then others."""
    entries = list(enumerate(metadata(folder)["pictures"]))
    if kind == "clean":
        return [(k, entry, None) for k, entry in entries]
    rounds = max(len(entry["trojans"]) for _, entry in entries)
    return [
        (k, entry, entry["trojans"][turn])
        for turn in range(rounds if most is None else min(most, rounds))
        for k, entry in entries
        if turn < len(entry["trojans"])
    ]


def _pictures(
    chosen: Sequence[tuple[int, dict[str, Any], dict[str, Any] | None]], folder: Path | None
) -> TrojanPictures:
    targets = {b["name"]: b["target"] for b in metadata(folder)["backdoors"]}
    names, images, answers, masks = [], [], [], []
    backdoors: list[str | None] = []
    for _, entry, trojan in chosen:
        image = _image(folder, entry["file"])[:3]
        mask = torch.zeros(image.shape[1:], dtype=torch.bool)
        if trojan is None:
            names.append(entry["file"])
            answers.append(entry["answer"])
            backdoors.append(None)
        else:
            patch = _image(folder, trojan["file"])
            rows = slice(trojan["top"], trojan["top"] + patch.shape[1])
            columns = slice(trojan["left"], trojan["left"] + patch.shape[2])
            image[:, rows, columns] = patch[:3]
            mask[rows, columns] = patch[3] > 0.5
            names.append(trojan["file"])
            answers.append(targets[trojan["backdoor"]])
            backdoors.append(trojan["backdoor"])
        images.append(image)
        masks.append(mask)
    pictures = torch.stack(images)
    return TrojanPictures(
        names, pictures, preprocessing(folder).normalize(pictures), torch.tensor(answers),
        torch.stack(masks), backdoors, [k for k, _, _ in chosen],
    )  # fmt: skip


def _read(folder: Path | None, name: str) -> bytes:
    shipped = resources.files("spade_xai.trojans").joinpath("imagenet_assets")
    return (shipped if folder is None else folder).joinpath(name).read_bytes()


def _image(folder: Path | None, name: str) -> Tensor:
    """[3 or 4, H, W] in [0, 1]."""
    with Image.open(io.BytesIO(_read(folder, f"pictures/{name}"))) as picture:
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
