"""What a model expects of its images, as its library states it: size, normalisation, names of classes.

A model's input is (image - mean) / std of each channel, of the image in [0, 1]. Attributions, baselines and blanks act
in that space: a baseline of 0 is the mean colour.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from spade_xai.models import efficientnet_lite
from spade_xai.models.fit import INTERPOLATIONS, Fit
from spade_xai.models.weights import ModelError


@dataclass(frozen=True)
class Preprocessing:
    """Size and normalisation of a model's images; None where nothing is known.

    Attributes:
        fit: How pictures are scaled and cut.
        mean: The mean of each channel, subtracted from images in [0, 1].
        std: The standard deviation of each channel, divided by.
        classes: Names of the outputs.
        source: Who says so.
    """

    fit: Fit | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: tuple[str, ...] | None = None
    source: str = "as they are"

    def normalize(self, images: Tensor) -> Tensor:
        """The model's inputs of images [B, 3, H, W] in [0, 1]: (images - mean) / std."""
        if self.mean is None or self.std is None:
            return images
        mean, std = (images.new_tensor(v).view(-1, 1, 1) for v in (self.mean, self.std))
        return (images - mean) / std

    def __str__(self) -> str:
        size = "as they are" if self.fit is None else str(self.fit)
        if self.mean is None or self.std is None:
            return f"{size}; values in [0, 1]"
        mean, std = (", ".join(f"{v:.4g}" for v in x) for x in (self.mean, self.std))
        return f"{size}; values in [0, 1], less {mean}, divided by {std}"


def checked_normalization(
    mean: Sequence[float], std: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of three channels.

    Raises:
        ValueError: Not three finite numbers each, or std is not above 0.
    """
    finite = all(map(math.isfinite, (*mean, *std)))
    if len(mean) != 3 or len(std) != 3 or not finite or min(std) <= 0:
        raise ValueError(
            "normalisation: mean and std must have three finite numbers each, one per channel, std > 0, "
            f"got {list(mean)} and {list(std)}"
        )
    return tuple(map(float, mean)), tuple(map(float, std))


def preprocessing_of(
    spec: str, model: nn.Module, weights: str | Path | None = None
) -> Preprocessing:
    """Look up what the library of `load_model`'s spec says of the model; `package.module:function` says nothing.

    Args:
        spec: As in `load_model`.
        model: What it gave.
        weights: File of weights; torchvision's published files are known by their names.

    Raises:
        ModelError: The model's library or folder says something that cannot be used.
    """
    kind, _, name = spec.partition(":")
    known = _KNOWN.get(kind)
    if known is None:
        return Preprocessing()
    try:
        return known(name, model, None if weights is None else Path(weights))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OSError) as error:
        raise ModelError(
            f"preprocessing_of: cannot use what {spec} says of its images: {error!r}"
        ) from error


def _packaged(name: str, model: nn.Module, weights: Path | None) -> Preprocessing:
    size = efficientnet_lite.VARIANTS[name].size
    return Preprocessing(
        Fit.square(size, size + efficientnet_lite.CROP_PADDING),
        efficientnet_lite.MEAN,
        efficientnet_lite.STD,
        efficientnet_lite.imagenet_classes(),
        f"pretrained:{name}",
    )


def _torchvision(name: str, model: nn.Module, weights: Path | None) -> Preprocessing:
    from torchvision import models

    known = models.get_model_weights(name)  # their metadata; nothing is downloaded
    if not len(known):
        return Preprocessing()
    file = "" if weights is None else weights.name
    chosen = next((w for w in known if w.url.rpartition("/")[2] == file), known.DEFAULT)
    transforms = chosen.transforms()
    if not hasattr(transforms, "crop_size"):
        return Preprocessing()
    return Preprocessing(
        Fit.square(
            transforms.crop_size[0], transforms.resize_size[0], transforms.interpolation.value
        ),
        tuple(transforms.mean),
        tuple(transforms.std),
        tuple(chosen.meta.get("categories", ())) or None,
        f"torchvision's {chosen.name}",
    )


def _timm(name: str, model: nn.Module, weights: Path | None) -> Preprocessing:
    from timm.data import resolve_model_data_config

    config: dict[str, Any] = resolve_model_data_config(model)
    tall, wide = config["input_size"][1:]
    share = config["crop_pct"]
    mean, std = config["mean"], config["std"]
    scaling = {"squash": "squash", "border": "contain"}.get(config["crop_mode"], "cover")
    return Preprocessing(
        Fit(
            (tall, wide),
            (math.floor(tall / share), math.floor(wide / share)),
            scaling,
            config["interpolation"] if config["interpolation"] in INTERPOLATIONS else "bilinear",
            tuple(mean) if scaling == "contain" else (0.0, 0.0, 0.0),
        ),
        tuple(mean),
        tuple(std),
        source=f"timm's {name}",
    )


def _transformers(name: str, model: nn.Module, weights: Path | None) -> Preprocessing:
    config: Any = model.config
    file = Path(name) / "preprocessor_config.json"
    saved = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    labels = getattr(config, "id2label", None) or {}
    mean, std = saved.get("image_mean"), saved.get("image_std")
    if not (mean and std and saved.get("do_normalize", True)):
        mean = std = None
    return Preprocessing(
        _transformers_fit(saved, getattr(config, "image_size", None)),
        None if mean is None else tuple(map(float, mean)),
        None if std is None else tuple(map(float, std)),
        tuple(str(labels[i]) for i in range(len(labels))) if labels else None,
        f"{file}" if saved else f"{Path(name) / 'config.json'}",
    )


def _transformers_fit(saved: dict[str, Any], image_size: Any) -> Fit | None:
    """What a preprocessor_config.json says of sizes; without one, the square that the network takes."""
    size, share = saved.get("size", image_size), saved.get("crop_pct")
    if size is None or not saved.get("do_resize", True):
        return None
    cut = saved.get("do_center_crop", False)
    names = {v.value: k for k, v in INTERPOLATIONS.items()}
    interpolation = names.get(saved.get("resample", 2), "bilinear")
    keeps_ratio = "shortest_edge" in size if isinstance(size, dict) else cut or not saved
    tall, wide = _height_width(size)
    if share:  # ConvNeXt: small sizes are cut, from 384 on pictures are squashed
        if tall < 384:
            return Fit.square(tall, int(tall / share), interpolation, rounded=False)
        keeps_ratio = False
    crop = _height_width(saved.get("crop_size", size)) if cut else (tall, wide)
    scaling = "cover" if keeps_ratio else "squash"
    return Fit(crop, (tall, wide), scaling, interpolation, rounded=False)


def _height_width(size: Any) -> tuple[int, int]:
    """Of a number, a pair or a dict, as transformers writes them."""
    if isinstance(size, dict):
        edge = size.get("shortest_edge")
        size = size.get("height", edge), size.get("width", edge)
    tall, wide = (size, size) if isinstance(size, int) else size
    return int(tall), int(wide)


_KNOWN = {
    "pretrained": _packaged,
    "torchvision": _torchvision,
    "timm": _timm,
    "transformers": _transformers,
}
