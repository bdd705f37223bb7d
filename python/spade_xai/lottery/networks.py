"""Backbones of tickets: a network with a new last layer for the classes of a data set."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spade_xai.lottery.data.pictures import Data
from spade_xai.models.copies import unwrap
from spade_xai.models.load import load_model, normalized
from spade_xai.models.preprocessing import preprocessing_of
from spade_xai.models.weights import ModelError

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ShapesResNet(nn.Module):
    """A ResNet of eight convolutions for pictures of 32 pixels: three stages of one block each.

    Inputs are images [B, 3, 32, 32]; `stages` ends in maps [B, 32, 8, 8], `pool` in the embedding [B, 32].
    Widths are those at which convolutions of 3x3 are fast on a CPU: multiples of 16.
    """

    def __init__(self, classes: int = 6, widths: tuple[int, int, int] = (16, 16, 32)) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, 2, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        blocks = [
            _Block(a, b, s)
            for a, b, s in zip((widths[0], *widths[:2]), widths, (1, 2, 1), strict=True)
        ]
        self.stages = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(widths[2], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits [B, classes]."""
        return self.fc(self.flatten(self.pool(self.stages(self.stem(x)))))


class _Block(nn.Module):
    """Residual block of two 3x3 convolutions (He et al., CVPR 2016)."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels != out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(y)) + self.shortcut(x))


@dataclass(frozen=True)
class Network:
    """How to make a backbone.

    Attributes:
        spec: "shapes", or what `load_model` takes.
        weights: File of the backbone's own weights; None: as `load_model` makes it.
        classes: Outputs of the new last layer.
        size: Pixels per side of its images.
        mean: Of each channel of images in [0, 1], subtracted.
        std: Of each channel, divided by.
        auxiliary: Weight of the loss of an auxiliary classifier (Inception-V3); 0 takes it out.
    """

    spec: str
    weights: str | None
    classes: int
    size: int
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    auxiliary: float = 0.0

    def make(self, seed: int, *, fresh: bool = False) -> nn.Module:
        """The network for normalised images, in training mode, its last layer drawn from seed.

        Args:
            seed: Of the new last layer, and of every weight that the backbone does not bring.
            fresh: Draw all weights anew, by each module's `reset_parameters`.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.spec == "shapes":
                return ShapesResNet(self.classes)
            model = load_model(self.spec, self.weights)
            if fresh:
                for module in model.modules():
                    if callable(reset := getattr(module, "reset_parameters", None)):
                        reset()
            if not self.auxiliary and getattr(model, "AuxLogits", None) is not None:
                without: Any = model  # its type knows no attribute of one architecture
                without.AuxLogits, without.aux_logits = None, False
            elif self.auxiliary:
                _replace(model, "AuxLogits.fc", self.classes)
            _replace(model, find_head(model), self.classes)
        return model.train().requires_grad_()

    def normalize(self, images: Tensor) -> Tensor:
        """Images in [0, 1] as `make`'s network takes them."""
        mean = torch.tensor(self.mean, device=images.device).view(-1, 1, 1)
        return (images - mean) / torch.tensor(self.std, device=images.device).view(-1, 1, 1)

    def on_images(self, model: nn.Module) -> nn.Module:
        """A network that takes images in [0, 1], in eval mode; names of its layers begin with `network.`."""
        return normalized(model.eval(), self.mean, self.std)


def network_for(
    spec: str, data: Data, size: int, weights: str | Path | None = None, auxiliary: float = 0.0
) -> Network:
    """The backbone with the preprocessing that its library states; ImageNet's where it states none."""
    if weights is not None and not Path(weights).is_file():
        raise ModelError(f"load_model: no file {weights}")
    if spec == "shapes":
        return Network(spec, None, len(data.classes), size)
    known = preprocessing_of(spec, load_model(spec))
    mean, std = (known.mean, known.std) if known.mean and known.std else IMAGENET
    path = None if weights is None else str(weights)
    return Network(spec, path, len(data.classes), size, tuple(mean), tuple(std), auxiliary)


def find_head(model: nn.Module) -> str:
    """Name of the last linear layer outside an auxiliary classifier.

    Raises:
        ModelError: There is none.
    """
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.lower().startswith("aux")
    ]
    if not linear:
        raise ModelError("lottery: the network must end in an nn.Linear, got none")
    return linear[-1]


def find_last_maps(model: nn.Module, images: Tensor) -> str:
    """Name of the module that ran last of those with outputs [B, C, h, w] of more than one position.

    Of modules that return the same tensor it is the outermost: `layer4` of a ResNet, `Mixed_7c` of Inception-V3.
    """
    found: list[str] = []
    hooks = [
        module.register_forward_hook(_noting(name, found)) for name, module in model.named_modules()
    ]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise ModelError("lottery: the network must have a layer of feature maps, got none")
    return found[-1]


def _noting(name: str, found: list[str]) -> Callable[[nn.Module, object, object], None]:
    def note(module: nn.Module, args: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2:].numel() > 1:
            found.append(name)

    return note


def logits_and_auxiliary(output: object) -> tuple[Tensor, Tensor | None]:
    """What a network answers, and what its auxiliary classifier does, if it has one."""
    return unwrap(output), getattr(output, "aux_logits", None)


def _replace(model: nn.Module, name: str, classes: int) -> None:
    """A new linear layer with Kaiming weights and no bias yet (He et al., ICCV 2015)."""
    old = model.get_submodule(name)
    if not isinstance(old, nn.Linear):
        raise ModelError(f"lottery: {name} must be an nn.Linear, got {type(old).__name__}")
    new = nn.Linear(old.in_features, classes)
    nn.init.kaiming_normal_(new.weight)
    nn.init.zeros_(new.bias)
    model.set_submodule(name, new)
