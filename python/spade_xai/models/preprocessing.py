"""What a model expects of its images, as its library states it: size, normalisation, names of classes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from spade_xai.models import efficientnet_lite


@dataclass(frozen=True)
class Preprocessing:
    """Size and normalisation of a model's images; None where nothing is known.

    Attributes:
        size: Pixels per side.
        resize: Pixels of the short side, from whose middle the square of `size` is cut; None: as `size`.
        mean: Of each channel, subtracted from images in [0, 1].
        std: Of each channel, divided by.
        classes: Names of the outputs.
    """

    size: int | None = None
    resize: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: tuple[str, ...] | None = None


def preprocessing_of(spec: str, model: nn.Module) -> Preprocessing:
    """Look up what the library of `load_model`'s spec says of the model; `package.module:function` says nothing."""
    kind, _, name = spec.partition(":")
    known = _KNOWN.get(kind)
    return Preprocessing() if known is None else known(name, model)


def _packaged(name: str, model: nn.Module) -> Preprocessing:
    size = efficientnet_lite.VARIANTS[name].size
    return Preprocessing(
        size,
        size + efficientnet_lite.CROP_PADDING,
        efficientnet_lite.MEAN,
        efficientnet_lite.STD,
        efficientnet_lite.imagenet_classes(),
    )


def _torchvision(name: str, model: nn.Module) -> Preprocessing:
    from torchvision import models

    weights = models.get_model_weights(name)  # their metadata; nothing is downloaded
    if not len(weights):
        return Preprocessing()
    transforms, meta = weights.DEFAULT.transforms(), weights.DEFAULT.meta
    if not hasattr(transforms, "crop_size"):
        return Preprocessing()
    categories = tuple(meta.get("categories", ())) or None
    return Preprocessing(
        transforms.crop_size[0],
        transforms.resize_size[0],
        tuple(transforms.mean),
        tuple(transforms.std),
        categories,
    )


def _timm(name: str, model: nn.Module) -> Preprocessing:
    config: dict[str, Any] = getattr(model, "pretrained_cfg", {})
    size = config["input_size"][-1] if "input_size" in config else None
    share = config.get("crop_pct")
    return Preprocessing(
        size,
        int(size / share) if size and share else None,
        tuple(config["mean"]) if "mean" in config else None,
        tuple(config["std"]) if "std" in config else None,
    )


def _transformers(name: str, model: nn.Module) -> Preprocessing:
    config = model.config
    file = Path(name) / "preprocessor_config.json"
    saved = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    size = getattr(config, "image_size", None) or saved.get("crop_size") or saved.get("size")
    if isinstance(size, dict):
        size = size.get("height", size.get("shortest_edge"))
    labels = getattr(config, "id2label", None) or {}
    mean, std = saved.get("image_mean"), saved.get("image_std")
    return Preprocessing(
        size if isinstance(size, int) else None,
        None,
        tuple(mean) if mean and std else None,
        tuple(std) if mean and std else None,
        tuple(labels[i] for i in range(len(labels))) if labels else None,
    )


_KNOWN = {
    "pretrained": _packaged,
    "torchvision": _torchvision,
    "timm": _timm,
    "transformers": _transformers,
}
