"""The model and the images that a command line names, checked against each other."""

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from spade_xai.commands import options as o
from spade_xai.commands.class_names import class_of, count_classes, read_class_names
from spade_xai.commands.image_files import check_sizes, mask_of, names_of, read_mask, stems_of
from spade_xai.commands.volume import say
from spade_xai.models.fit import Fit
from spade_xai.models.images import ImageError, find_images, passed_over, read_image
from spade_xai.models.load import RandomWeightsWarning, load_model
from spade_xai.models.preprocessing import (
    Preprocessing,
    checked_normalization,
    preprocessing_of,
)
from spade_xai.models.texts import SUFFIXES
from spade_xai.tracing.augment import ImageAugment
from spade_xai.trojans.planted import LABELS

LARGE, IMAGENET_SIZE = 448, 224  # pixels a side

RANDOM = "RANDOM WEIGHTS: the network was never trained, so its answers mean nothing"

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Picture:
    """One image.

    Attributes:
        name: The name of the image, unlike all others.
        stem: The stem of the files that are written for it, unlike all others.
        image: [3, H, W] in [0, 1].
        x: [1, 3, H, W], as the model takes it: scaled, cut and normalised.
        mask: bool [H, W]; None where none were asked for.
    """

    name: str
    stem: str
    image: Tensor
    x: Tensor
    mask: Tensor | None


@dataclass
class Inputs:
    """What a command works on.

    Attributes:
        model: Classifier of normalised images, in eval mode.
        preprocessing: What makes its inputs of pictures.
        paths: The paths of the images.
        masks: The paths of each image's mask; empty where none were asked for.
        classes: Names of the model's classes, if known.
        strict: Whether an image that cannot be read ends the command.
        broken: What is wrong with each image that was skipped.
        target: The class to explain; None: what the model answers.
        label: The class that the images are; None: not said.
        beside: How many other files and folders lie beside the images in their folders.
        random: Whether the model's weights are random.
    """

    model: nn.Module
    preprocessing: Preprocessing
    paths: list[Path]
    masks: list[Path]
    classes: list[str] | None
    strict: bool = False
    broken: list[str] = field(default_factory=list)
    target: int | None = None
    label: int | None = None
    beside: tuple[int, int] = (0, 0)
    random: bool = False

    def __post_init__(self) -> None:
        self.names, self.stems = names_of(self.paths), stems_of(self.paths)

    def read(self, index: int) -> Picture:
        """Read one image.

        Raises:
            ImageError: It or its mask cannot be used.
        """
        image = read_image(self.paths[index], self.preprocessing.fit)
        mask = None
        if self.masks:
            mask = read_mask(self.masks[index], self.preprocessing, image)
        x = self.preprocessing.normalize(image[None])
        return Picture(self.names[index], self.stems[index], image, x, mask)

    def pictures(self) -> Iterator[Picture]:
        """Read images one by one as they are needed; those that cannot be read are noted and skipped.

        Raises:
            ImageError: None can be read; or one cannot, of a strict command.
        """
        found = False
        for index in range(len(self.paths)):
            try:
                picture = self.read(index)
            except ImageError as error:
                if self.strict or (not found and index + 1 == len(self.paths)):
                    raise
                if str(error) not in self.broken:
                    self.broken.append(str(error))
                continue
            found = True
            yield picture

    def to(self, device: str | None) -> None:
        """Move the model to the device; None: leave it."""
        if device is not None:
            self.model.to(device)

    def usable(self) -> list[int]:
        """Places of the images that can be read; the others are noted."""
        return [self.names.index(picture.name) for picture in self.pictures()]

    def example(self) -> Tensor:
        """The first picture as the model takes it, [1, 3, H, W]; without images a black one.

        Raises:
            ImageError: None can be read.
            ValueError: There are no images, and nothing says what size.
        """
        if self.paths:
            return next(self.pictures()).x
        if self.preprocessing.fit is None:
            raise ValueError(
                "--size must be given where there are no images and the model says none"
            )
        return self.preprocessing.normalize(torch.zeros(1, 3, *self.preprocessing.fit.crop))

    def trace_arguments(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Arguments of `trace` for this model: augmentations act on what its inputs were before normalisation."""
        result = dict(arguments)
        augment, known = result.get("augment"), self.preprocessing
        if known.mean is not None and isinstance(augment, str | ImageAugment):
            steps = augment if isinstance(augment, str) else augment.steps
            result["augment"] = ImageAugment(steps, mean=known.mean, std=known.std)
        return result

    def reads(self) -> list[Path]:
        """The files of images and masks."""
        return [*self.paths, *self.masks]

    def described(self) -> str:
        """What is done to the images, without who says so."""
        return str(self.preprocessing)

    def told(self) -> str:
        """What was done to the images."""
        return f"{self.preprocessing} ({self.preprocessing.source})"

    def notes(self) -> list[str]:
        """What the user should know of model and images, in lines."""
        height, width = self.example().shape[2:]
        lines = [f"images: {self.told()}; the network is given {width} x {height} pixels"]
        if self.preprocessing.fit is None and max(height, width) > LARGE:
            lines.append(
                f"these images are large, which takes long: --size {IMAGENET_SIZE} scales them"
            )
        files, folders = self.beside
        if files or folders:
            lines.append(
                f"{len(self.paths)} images; passed over in their folders: {files} other files, {folders} folders"
            )
        if self.random:
            lines.append(RANDOM)
        return lines


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
    strict: o.Strict = False


@dataclass(frozen=True, kw_only=True)
class MixedOptions(InputOptions):
    """Which model, and which images or texts."""

    images: o.ImagesOrTexts = None  # type: ignore[assignment]


def load_inputs(
    given: InputOptions,
    class_names: Path | None = None,
    masks: Path | None = None,
    target: str | None = None,
    label: str | None = None,
    several: bool = False,
) -> Inputs:
    """Load the model, find the images, and run the model on the first of them; it must have the target and the label.

    Where a command goes without images the model is run on a black one of the size that it or the user says.
    `several`: whether the command takes a network that says of each of several labels whether a picture has it.

    Raises:
        ImageError, ModelError, ValueError: A file is missing or cannot be read; model, weights and images do not fit.
    """
    if given.weights is not None and not several:
        _refuse_labels(Path(given.weights))
    for source in given.images or ():
        if Path(source).suffix.lower() in SUFFIXES:
            raise ImageError(
                f"{source} holds texts, and this command takes images: `explain` and `evaluate` take texts too"
            )
    paths = find_images(given.images) if given.images else []
    if masks is not None:
        paths = [path for path in paths if not path.stem.endswith("_mask")]
        if not paths:
            raise ImageError("there must be an image beside the masks, got none")
    model, random = load_network(given)
    preprocessing = _preprocessing(given, model)
    if preprocessing.fit is None:
        check_sizes(paths)
    inputs = Inputs(
        model,
        preprocessing,
        paths,
        [] if masks is None else [mask_of(path, masks) for path in paths],
        None,
        given.strict,
    )
    count = count_classes(model, inputs.example(), given.model)
    inputs.classes = read_class_names(class_names, preprocessing.classes, count)
    inputs.beside = passed_over(given.images or [])
    inputs.random = random
    inputs.target = class_of("--target", target, inputs.classes, count)
    inputs.label = class_of("--label", label, inputs.classes, count)
    return inputs


def _refuse_labels(weights: Path) -> None:
    """Refuse weights by `spade-xai plant` of a network of several labels, whose largest logit is no answer."""
    try:
        with safe_open(weights, framework="pt") as file:
            names = (file.metadata() or {}).get(LABELS)
    except (OSError, SafetensorError):  # another kind of file, or one that `load_model` will refuse
        return
    if names is not None:
        raise ValueError(
            f"--weights {weights} must be of a network that answers with one class, which is explained, got one that "
            f"says of each of {len(json.loads(names))} labels whether a picture has it: `spade-xai reproduce` takes "
            "it, and `spade_xai.models.one_label.one_label` makes a network of one label, for -m FILE.py:FUNCTION"
        )


def load_network(given: InputOptions) -> tuple[nn.Module, bool]:
    """Load the model; also whether its weights are random, about which it warns."""
    say(f"loading {given.model}")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        model = load_model(
            given.model, given.weights, classes=given.classes, pretrained=given.pretrained
        )
    for one in warned:
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    return model, any(issubclass(one.category, RandomWeightsWarning) for one in warned)


def _preprocessing(given: InputOptions, model: nn.Module) -> Preprocessing:
    known = preprocessing_of(given.model, model, given.weights)
    told = [known.source] if known.fit is not None or known.mean is not None else []
    if given.size is not None:
        fit = Fit.square(given.size) if known.fit is None else known.fit.at(given.size)
        known, told = replace(known, fit=fit), [*told, f"--size {given.size}"]
    text = given.normalize
    if text != "auto":
        mean_std = None if text == "none" else _mean_std(text)
        mean, std = (None, None) if mean_std is None else checked_normalization(*mean_std)
        known, told = replace(known, mean=mean, std=std), [*told, f"--normalize {text}"]
    return replace(known, source=", ".join(told) or "nothing is known of the model")


def _mean_std(text: str) -> tuple[Sequence[float], Sequence[float]]:
    if text == "imagenet":
        return IMAGENET
    mean, separator, std = text.partition("/")
    if not separator:
        raise ValueError(
            f"--normalize must be auto, none, imagenet or MEAN,MEAN,MEAN/STD,STD,STD, got {text!r}"
        )
    return o.parse_numbers("--normalize", mean), o.parse_numbers("--normalize", std)
