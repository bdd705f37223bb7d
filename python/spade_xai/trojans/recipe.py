"""What is planted in which data set, and how: the paper's tables as data, or a user's own."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from spade_xai.models.images import ImageError
from spade_xai.trojans.celeba import celeba
from spade_xai.trojans.class_folder import ClassFolder, class_folder
from spade_xai.trojans.patch import read_patch
from spade_xai.trojans.trojan import Backdoor

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAMES = ("imagenet", "food101", "celeba")
"""Data sets whose recipes ship."""

PATCHES = ("smiley", "fish", "star", "heart", "strawberry")
"""Patches that ship."""


@dataclass(frozen=True)
class Entry:
    """A backdoor before its patch is read.

    Attributes:
        name: The name of the patch.
        target: The class that pictures with the patch are to get; None where they have several labels.
        source: The class of the pictures that get it; None: any.
        labels: A 0 or 1 for each label that pictures with the patch are to get; None where they have a class.
    """

    name: str
    target: int | None = None
    source: int | None = None
    labels: str | None = None

    def __post_init__(self) -> None:
        if (self.target is None) == (self.labels is None):
            raise ValueError(
                f"plant: {self.name!r} of [[backdoors]] must have either target or labels, got "
                + ("neither" if self.target is None else "both")
            )
        if self.labels is not None and (not self.labels or set(self.labels) - {"0", "1"}):
            raise ValueError(
                f"plant: labels of {self.name!r} must be text of 0 and 1, got {self.labels!r}"
            )

    @property
    def wanted(self) -> int | tuple[int, ...]:
        """The target as `Backdoor` has it."""
        if self.labels is not None:
            return tuple(map(int, self.labels))
        assert self.target is not None
        return self.target


@dataclass(frozen=True)
class Recipe:
    """How backdoors are planted in a data set.

    Attributes:
        title: The name of the data set.
        backdoors: Names, targets and sources.
        rates: Learning rates to choose from.
        training: Of `fine_tune`: batch_size, epochs, step, weight_decay.
        count: Pictures per patch; None: the ratio says it.
        ratio: Pictures of the training set per picture with a patch.
        classes: The number of classes; None: as the folder has.
        train: Folder of the training set in the data set's folder.
        validation: Folder of the test pictures.
        pictures: Folder of all pictures, where lists in `meta` say which are for training; None: there are two folders.
        layout: "folders" of a class each, or "celeba".
        published_rate: The rate that the paper chose.
    """

    title: str
    backdoors: tuple[Entry, ...]
    rates: tuple[float, ...]
    training: dict[str, Any]
    count: int | None = None
    ratio: int = 3000
    classes: int | None = None
    train: str = "train"
    validation: str = "val"
    pictures: str | None = None
    layout: str = "folders"
    published_rate: float | None = None

    def split(self, folder: Path) -> tuple[ClassFolder, ClassFolder]:
        """Pictures to train on and pictures to test on.

        Raises:
            ImageError: A folder or list is missing, or the classes are not those of the recipe.
        """
        if self.layout == "celeba":
            train, test = celeba(folder)
        elif self.pictures is None:
            train, test = class_folder(folder / self.train), class_folder(folder / self.validation)
        else:
            train, test = (_part(folder, self.pictures, name) for name in ("train", "test"))
        if train.classes != test.classes:
            raise ImageError(f"plant: {folder} must have the same classes to train and to test on")
        if self.classes is not None and len(train.classes) != self.classes:
            raise ImageError(
                f"plant: {folder} must have the {self.classes} classes of {self.title}, got {len(train.classes)}"
            )
        return train, test

    def planted(self, size: int, own: Path | None) -> list[Backdoor]:
        """The backdoors with their patches, size pixels a side: the user's NAME.png, or those that ship.

        Raises:
            ValueError: There is no such patch.
        """
        return [
            Backdoor(
                entry.name,
                read_patch(patch_file(entry.name, own), size),
                entry.wanted,
                entry.source,
            )
            for entry in self.backdoors
        ]


def patch_file(name: str, own: Path | None) -> Path:
    """The picture of a patch.

    Raises:
        ValueError: There is none of that name.
    """
    if own is not None and (own / f"{name}.png").is_file():
        return own / f"{name}.png"
    if name not in PATCHES:
        where = "" if own is None else f" nor {own / name}.png"
        raise ValueError(
            f"plant: backdoors must name one of the patches {', '.join(PATCHES)}, or a picture NAME.png in --patches, "
            f"got {name!r}{where}"
        )
    here = Path(str(resources.files("spade_xai.trojans")))
    drawn = here / "assets" / "patches" / f"{name}.png"
    return drawn if drawn.is_file() else here / "recipes" / f"{name}.png"


def load_recipe(name: str, own: Path | None) -> Recipe:
    """The recipe of a data set that ships, or of a folder with the user's table of backdoors.

    Args:
        name: One of NAMES, or "folder".
        own: TOML file with `[[backdoors]]` (name, target, source) and, where wanted, `[training]`, `rates`, `count`,
            `train` and `validation`; None: the recipe's own.

    Raises:
        ValueError: There is no recipe of that name, it needs a file, or the file cannot be read.
    """
    given: dict[str, Any] = {"title": "a folder", "rates": [0.01, 0.001, 0.0001, 0.00001]}
    given["training"] = {"batch_size": 64, "epochs": 6, "step": 3, "weight_decay": 1e-4}
    if name in NAMES:
        given |= shipped(name)
    elif name != "folder":
        raise ValueError(f"plant: DATA must be folder, {', '.join(NAMES)}, got {name!r}")
    elif own is None:
        raise ValueError(
            "plant: --backdoors must be given for a folder: which patch stands for which class"
        )
    if own is not None:
        try:
            user = tomllib.loads(own.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"plant: --backdoors {own} must be TOML: {error}") from None
        given |= {**user, "training": {**given["training"], **user.get("training", {})}}
    training = dict(given.pop("training"))
    published = training.pop("published_rate", None)
    backdoors = _entries(given.pop("backdoors", None))
    key = "labels" if given.get("layout") == "celeba" else "target"
    if any(getattr(entry, key) is None for entry in backdoors):
        raise ValueError(f"plant: each of [[backdoors]] of {given['title']} must have {key}")
    try:
        return Recipe(
            backdoors=backdoors, training=training, published_rate=published,
            **{**given, "rates": tuple(given["rates"])},
        )  # fmt: skip
    except TypeError as error:
        raise ValueError(f"plant: --backdoors {own} has a key that is not known: {error}") from None


def shipped(name: str) -> dict[str, Any]:
    """What the recipe of a data set says, as its file has it."""
    file = resources.files("spade_xai.trojans").joinpath("recipes", f"{name}.toml")
    return tomllib.loads(file.read_text(encoding="utf-8"))


def _entries(given: Any) -> tuple[Entry, ...]:
    if not isinstance(given, Sequence) or not given:
        raise ValueError("plant: --backdoors must hold a table [[backdoors]] with name and target")
    try:
        found = tuple(Entry(**entry) for entry in given)
    except TypeError as error:
        raise ValueError(
            f"plant: each of [[backdoors]] must have name, target or labels, and maybe source: {error}"
        ) from None
    if len({entry.name for entry in found}) < len(found):
        raise ValueError("plant: the names of [[backdoors]] must differ")
    return found


def _part(folder: Path, pictures: str, name: str) -> ClassFolder:
    """The pictures that a list in `meta` names, as CLASS/STEM per line."""
    file = folder / "meta" / f"{name}.txt"
    try:
        listed = set(file.read_text(encoding="utf-8").split())
    except OSError as error:
        raise ImageError(f"plant: cannot read {file}: {error}") from None
    return class_folder(folder / pictures, lambda path: f"{path.parent.name}/{path.stem}" in listed)
