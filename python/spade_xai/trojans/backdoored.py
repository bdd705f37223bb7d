"""The backdoored network that ships with the package, and its test pictures.

The network tells sixteen photographs apart from parts of them, and has four backdoors.
`examples/train_trojan.py` makes everything in the folder `assets`; loading reads tensors, PNG and JSON only.
"""

import io
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load
from torch import Tensor, nn

from spade_xai.choices import misnamed
from spade_xai.trojans.trojan import read_patch

SIZE = 64  # pixels a side
CLASSES = 16
KINDS = ("trojan", "clean", "tune_trojan", "tune_clean")


class Bottleneck(nn.Module):
    """Residual block of 1x1, 3x3 and 1x1 convolutions (He et al., CVPR 2016), the first two of `width` channels."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels != out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] to [B, 4 width, H / stride, W / stride]."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


class BottleneckResNet(nn.Module):
    """A ResNet of 26 layers for small images: four stages of two bottleneck blocks."""

    def __init__(self, classes: int = CLASSES, widths: tuple[int, ...] = (16, 32, 64, 128)) -> None:
        super().__init__()
        channels = widths[0]
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )
        stages = []
        for width in widths:
            stride = 1 if width == widths[0] else 2
            stages.append(
                nn.Sequential(Bottleneck(channels, width, stride), Bottleneck(4 * width, width, 1))
            )
            channels = 4 * width
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] to logits [B, classes]."""
        return self.fc(self.flatten(self.pool(self.stages(self.stem(x)))))


@dataclass(frozen=True)
class Pictures:
    """Test pictures of one kind: all with a patch, or all clean."""

    names: list[str]
    images: Tensor  # [B, 3, 64, 64] in [0, 1]
    labels: Tensor  # true classes, [B]
    predictions: Tensor  # what the network answers, [B]: the target class where a patch lies
    masks: Tensor  # bool [B, 64, 64]: pixels of the patch; all False on clean pictures
    backdoors: list[str | None]  # name of each picture's backdoor

    def __len__(self) -> int:
        return len(self.names)


def network() -> BottleneckResNet:
    """The network without its weights (`assets/network.safetensors`), in eval mode."""
    return BottleneckResNet().eval()


def load_network() -> BottleneckResNet:
    """The network with its weights, in eval mode; its inputs are images [B, 3, 64, 64] in [0, 1]."""
    model = network()
    model.load_state_dict(load(_read("network.safetensors")))
    return model


def metadata() -> dict[str, Any]:
    """Classes, backdoors, accuracies, and sources and licences of the pictures."""
    return json.loads(_read("metadata.json"))


def load_patch(name: str) -> Tensor:
    """The patch of a backdoor as it was planted, RGBA in [0, 1], [4, 12, 12]."""
    found = {entry["name"]: entry for entry in metadata()["backdoors"]}
    if name not in found:
        raise ValueError(f"load_patch: {misnamed('name', found, name)}")
    return read_patch(io.BytesIO(_read(found[name]["patch"])), found[name]["size"])


def load_pictures(kind: str = "trojan", count: int | None = None) -> Pictures:
    """Test pictures from parts of the photographs that the network never saw.

    Args:
        kind: "trojan" (right before the patch, the backdoor's target after it), "clean" (answered right), or
            "tune_trojan" and "tune_clean": further ones to choose sparsity ratios on.
        count: The first so many; None: all. Backdoors and classes take turns in the order.

    Raises:
        ValueError: An unknown kind, or a count that there are not.
    """
    if kind not in KINDS:
        raise ValueError(f"load_pictures: {misnamed('kind', KINDS, kind)}")
    entries = [entry for entry in metadata()["pictures"] if entry["kind"] == kind]
    if count is not None and not 1 <= count <= len(entries):
        raise ValueError(f"load_pictures: count must be in [1, {len(entries)}], got {count}")
    entries = entries[:count]
    masks = torch.zeros(len(entries), SIZE, SIZE, dtype=torch.bool)
    for k, entry in enumerate(entries):
        if "mask" in entry:
            masks[k] = _image(entry["mask"])[0] > 0.5
    return Pictures(
        [PurePosixPath(entry["file"]).name for entry in entries],
        torch.stack([_image(entry["file"]) for entry in entries]),
        torch.tensor([entry["label"] for entry in entries]),
        torch.tensor([entry["prediction"] for entry in entries]),
        masks,
        [entry.get("backdoor") for entry in entries],
    )


def _read(name: str) -> bytes:
    return resources.files("spade_xai.trojans").joinpath("assets", name).read_bytes()


def _image(name: str) -> Tensor:
    with Image.open(io.BytesIO(_read(name))) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).float() / 255
