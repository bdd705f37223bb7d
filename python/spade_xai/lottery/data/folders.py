"""Pictures in one folder per class, and concepts in folders `CONCEPT/positives` and `CONCEPT/negatives`."""

from pathlib import Path

import torch

from spade_xai.lottery.data.pictures import ConceptPictures, Data, DataError, Files
from spade_xai.lottery.data.tables import held_out, limited
from spade_xai.models.images import SUFFIXES

PARTS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}


def load(folder: Path, classes: int | None = None, limit: int | None = None) -> Data:
    """Read a data set.

    Args:
        folder: With folders train, validation (or val, valid) and test, each with a folder per class; or with a
            folder per class, of which 15 % of the pictures are held out to test and 15 % to choose weights by. Without
            a validation folder a tenth of the training part is held out.
        classes: The first so many, by name; None: all.
        limit: Pictures per class in each part.
    """
    places = {
        part: next((folder / n for n in names if (folder / n).is_dir()), None)
        for part, names in PARTS.items()
    }
    train = places["train"]
    if train is None:
        names = class_names(folder, classes)
        whole = _read(folder, names)
        rest, test = held_out(whole.labels.tolist(), 0.15, "test")
        others = whole.subset(rest)
        keep, held = held_out(others.labels.tolist(), 0.15 / 0.85, "validation")
        parts = [others.subset(keep), others.subset(held), whole.subset(test)]
    else:
        if places["test"] is None:
            raise DataError(f"lottery: {folder} has a folder train and must have a folder test")
        names = class_names(train, classes)
        pictures = _read(train, names)
        if places["validation"] is None:
            keep, held = held_out(pictures.labels.tolist(), 0.1, "validation")
            parts = [pictures.subset(keep), pictures.subset(held)]
        else:
            parts = [pictures, _read(places["validation"], names)]
        parts.append(_read(places["test"], names))
    if not all(len(part) for part in parts):
        raise DataError(
            f"lottery: {folder}: every class must hold several pictures, a part is empty"
        )
    return Data("folder", tuple(names), *(limited(part, limit) for part in parts))


def class_names(folder: Path, count: int | None) -> list[str]:
    """Names of the folders in a folder, the first so many.

    Raises:
        DataError: There are fewer than two.
    """
    if not folder.is_dir():
        raise DataError(f"lottery: no folder {folder}")
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(names) < 2:
        raise DataError(
            f"lottery: {folder} must hold a folder for each of two classes or more, got {len(names)}"
        )
    return names if count is None else names[:count]


def _read(folder: Path, names: list[str]) -> Files:
    paths, labels = [], []
    for label, name in enumerate(names):
        found = images_in(folder / name)
        paths += found
        labels += [label] * len(found)
    return Files(paths, labels, names=[f"{p.parent.name}/{p.name}" for p in paths])


def images_in(folder: Path) -> list[Path]:
    """Image files of a folder.

    Raises:
        DataError: There is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise DataError(f"lottery: no folder {folder}")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not found:
        raise DataError(
            f"lottery: {folder} must hold images ({', '.join(sorted(SUFFIXES))}), got none"
        )
    return found


def concepts(folder: Path) -> ConceptPictures:
    """Read a concept folder: each concept's own pictures with and without it (the layout of Broden's concept sets)."""
    if not folder.is_dir():
        raise DataError(f"lottery: no folder {folder}")
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise DataError(f"lottery: {folder} must hold folders of concepts, got none")
    paths: list[Path] = []
    entries: list[tuple[int, int]] = []
    for c, name in enumerate(names):
        for value, part in ((1, "positives"), (0, "negatives")):
            found = images_in(folder / name / part)
            paths += found
            entries += [(c, value)] * len(found)
    labels = torch.full((len(paths), len(names)), -1, dtype=torch.int8)
    for k, (c, value) in enumerate(entries):
        labels[k, c] = value
    shown = ["/".join(p.parts[-3:]) for p in paths]
    return ConceptPictures(Files(paths, torch.zeros(len(paths)), names=shown), tuple(names), labels)
