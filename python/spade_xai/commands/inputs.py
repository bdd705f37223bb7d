"""The model and the images that a command line names, checked against each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from spade_xai.commands import options as o
from spade_xai.models.copies import unwrap
from spade_xai.models.images import ImageError, find_images, read_image, read_images
from spade_xai.models.load import load_model, normalized
from spade_xai.models.preprocessing import Preprocessing, preprocessing_of
from spade_xai.models.weights import ModelError

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass
class Inputs:
    """What a command works on.

    Attributes:
        model: Classifier of images in [0, 1], in eval mode.
        images: [B, 3, H, W] in [0, 1].
        names: Of each image, all different.
        stems: Of the files that are written for each image, all different.
        masks: bool [B, H, W]; None where none were asked for.
        classes: Names of the model's classes, if known.
    """

    model: nn.Module
    images: Tensor
    names: list[str]
    stems: list[str]
    masks: Tensor | None
    classes: list[str] | None


@dataclass(frozen=True)
class InputOptions:
    """Which model and which images."""

    images: o.Images
    model: o.Model
    weights: o.Weights = None
    pretrained: o.Pretrained = False
    classes: o.Classes = None
    size: o.Size = None
    normalize: o.Normalize = "auto"


def load_inputs(
    given: InputOptions,
    class_names: Path | None = None,
    masks: Path | None = None,
    target: int | None = None,
) -> Inputs:
    """Load model and images, and run the model on the first image, which must give a class `target` too.

    Raises:
        ImageError, ModelError, ValueError: A file is missing or cannot be read; model, weights and images do not fit.
    """
    paths = find_images(given.images)
    if masks is not None:
        paths = [path for path in paths if not path.stem.endswith("_mask")]
        if not paths:
            raise ImageError("find_images: there must be an image beside the masks, got none")
    model = load_model(
        given.model, given.weights, classes=given.classes, pretrained=given.pretrained
    )
    known = preprocessing_of(given.model, model)
    size, resize = (known.size, known.resize) if given.size is None else (given.size, None)
    images = read_images(paths, size, resize)
    mean_std = _normalization(given.normalize, known)
    if mean_std is not None:
        model = normalized(model, *mean_std)
    count = _count_classes(model, images[:1], given.model)
    if target is not None and target >= count:
        raise ValueError(f"--target must be in [0, {count - 1}], got {target}")
    return Inputs(
        model,
        images,
        _names(paths),
        _stems(paths),
        None if masks is None else _read_masks(paths, masks, (size, resize), images),
        _class_names(class_names, known.classes, count),
    )


def _normalization(
    text: str, known: Preprocessing
) -> tuple[Sequence[float], Sequence[float]] | None:
    if text == "none":
        return None
    if text == "imagenet":
        return IMAGENET
    if text == "auto":
        return None if known.mean is None or known.std is None else (known.mean, known.std)
    mean, separator, std = text.partition("/")
    if not separator:
        raise ValueError(
            f"--normalize must be auto, none, imagenet or MEAN,MEAN,MEAN/STD,STD,STD, got {text!r}"
        )
    return o.parse_numbers("--normalize", mean), o.parse_numbers("--normalize", std)


def _count_classes(model: nn.Module, image: Tensor, spec: str) -> int:
    """The number of the model's outputs for the image."""
    shape = tuple(image.shape[1:])
    try:
        with torch.no_grad():
            logits = unwrap(model(image))
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        raise ModelError(
            f"{spec} cannot be run on an image of shape {shape} (--size changes it): {error}"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(f"{spec} must return logits [B, classes], got {got}")
    return logits.shape[1]


def _names(paths: Sequence[Path]) -> list[str]:
    """File names, or whole paths where a file name repeats."""
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else [path.as_posix() for path in paths]


def _stems(paths: Sequence[Path]) -> list[str]:
    """File names without their ending, or whole paths in one word where that repeats."""
    stems = [path.stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    return ["_".join(part for part in path.parts if part != path.anchor) for path in paths]


def _read_masks(
    paths: Sequence[Path], folder: Path, sizes: tuple[int | None, int | None], images: Tensor
) -> Tensor:
    masks = []
    for path, image in zip(paths, images, strict=True):
        candidates = [folder / f"{path.stem}_mask.png", folder / f"{path.stem}.png"]
        found = [c for c in candidates if c.is_file() and not c.samefile(path)]
        if not found:
            raise ImageError(
                f"no mask of {path}: neither {candidates[0]} nor another {candidates[1]}"
            )
        mask = read_image(found[0], *sizes).mean(0) > 0.5
        if mask.shape != image.shape[1:]:
            raise ImageError(
                f"mask {found[0]} must have the size of its image {tuple(image.shape[1:])}, got {tuple(mask.shape)}"
            )
        if not 0 < int(mask.sum()) < mask.numel():
            raise ImageError(f"mask {found[0]} must be neither all black nor all white")
        masks.append(mask)
    return torch.stack(masks)


def _class_names(file: Path | None, known: Sequence[str] | None, count: int) -> list[str] | None:
    if file is None:
        return list(known) if known is not None and len(known) == count else None
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"--class-names {file} must be text in UTF-8: {error}") from None
    names = [name for name in names if name]
    if len(names) != count:
        raise ValueError(f"--class-names {file} must hold {count} names, got {len(names)}")
    return names
