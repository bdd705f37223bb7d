"""Data sets as folders: a folder of pictures for each class, whose number is its place in the sorted names."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from spade_xai.models.images import SUFFIXES, ImageError


@dataclass(frozen=True)
class ClassFolder:
    """Pictures and their classes.

    Attributes:
        files: The paths of the pictures, by class and name.
        labels: The class of each.
        classes: The names of the classes.
    """

    files: list[Path]
    labels: list[int]
    classes: list[str]


def class_folder(folder: Path, takes: Callable[[Path], bool] | None = None) -> ClassFolder:
    """The pictures in the folders of a folder, as torchvision's ImageFolder numbers their classes.

    Args:
        folder: Holds one folder per class.
        takes: Which pictures to take; None: all.

    Raises:
        ImageError: The folder is missing, or holds no pictures in folders.
    """
    if not folder.is_dir():
        raise ImageError(f"class_folder: no folder {folder}")
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    files, labels = [], []
    for label, name in enumerate(names):
        inside = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in SUFFIXES)
        chosen = [path for path in inside if takes is None or takes(path)]
        files += chosen
        labels += [label] * len(chosen)
    if not files:
        raise ImageError(f"class_folder: {folder} must hold folders with pictures, one per class")
    return ClassFolder(files, labels, names)
