"""CUB-200-2011 (Wah et al., 2011) from its unpacked folder: birds with boxes, and concepts from their attributes."""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spade_xai.lottery.data.pictures import Box, ConceptPictures, Data, DataError, Files
from spade_xai.lottery.data.tables import held_out, index_file, limited, lines_of, numbered

CLASSES = 200
PUBLISHED_CONCEPTS = 108
PRESENT = 50.0  # percent: above it an attribute is present in a class
AT_LEAST = 10  # classes that a kept attribute is present in


def load(
    folder: Path, split: str = "official", classes: int | None = None, limit: int | None = None
) -> Data:
    """Read the data set.

    Args:
        folder: With images.txt, image_class_labels.txt, train_test_split.txt, bounding_boxes.txt and images/.
        split: "official", with a tenth of the training part held out to choose weights by; or a folder with train.txt,
            validation.txt and test.txt, one image id per line, as the paper's authors split all images.
        classes: The first so many; None: all.
        limit: Pictures per class in each part.
    """
    images = numbered(folder / "images.txt", [str])
    labels = numbered(folder / "image_class_labels.txt", [int])
    boxes = numbered(folder / "bounding_boxes.txt", [float] * 4)
    names = numbered(folder / "classes.txt", [str])
    _same_ids(folder, images, labels, "image_class_labels.txt")
    _same_ids(folder, images, boxes, "bounding_boxes.txt")
    for key, (label,) in labels.items():
        if label not in names:
            raise DataError(
                f"lottery: {folder / 'image_class_labels.txt'}: class of image {key} must be in classes.txt, "
                f"got {label}"
            )
    order = sorted(names)
    if [*order] != list(range(1, len(order) + 1)):
        raise DataError(
            f"lottery: {folder / 'classes.txt'} must number classes from 1 without gaps"
        )
    chosen = order if classes is None else order[:classes]
    parts = _split(folder, split, images, labels)
    made = []
    for ids in parts:
        ids = [key for key in ids if labels[key][0] in chosen]
        if not ids:
            raise DataError(f"lottery: {folder}: every part must hold pictures, got an empty one")
        paths = [folder / "images" / images[key][0] for key in ids]
        missing = next((path for path in paths if not path.is_file()), None)
        if missing is not None:
            raise DataError(f"lottery: no file {missing}, which images.txt names")
        files = Files(
            paths,
            [labels[key][0] - 1 for key in ids],
            [Box(*boxes[key]) for key in ids],
            [images[key][0] for key in ids],
        )
        made.append(limited(files, limit))
    return Data("cub", tuple(names[key][0] for key in chosen), *made)


def _split(
    folder: Path, split: str, images: dict[int, Any], labels: dict[int, Any]
) -> list[list[int]]:
    if split == "official":
        said = numbered(folder / "train_test_split.txt", [int])
        _same_ids(folder, images, said, "train_test_split.txt")
        training = [key for key in sorted(images) if said[key][0] == 1]
        keep, held = held_out([labels[key][0] for key in training], 0.1, "cub")
        test = [key for key in sorted(images) if said[key][0] != 1]
        return [[training[k] for k in keep], [training[k] for k in held], test]
    where = Path(split)
    if not where.is_dir():
        raise DataError(
            "lottery: split of cub must be official, or a folder with train.txt, validation.txt and test.txt, "
            f"got {split!r}"
        )
    parts = [index_file(where / f"{name}.txt") for name in ("train", "validation", "test")]
    seen: set[int] = set()
    for ids in parts:
        for key in ids:
            if key not in images:
                raise DataError(f"lottery: {where}: image id {key} is not in images.txt")
            if key in seen:
                raise DataError(
                    f"lottery: {where}: image id {key} must be in one part, got it twice"
                )
            seen.add(key)
    return parts


def _same_ids(folder: Path, images: dict[int, Any], other: dict[int, Any], name: str) -> None:
    for key in images:
        if key not in other:
            raise DataError(f"lottery: {folder / name} must have a line of image {key}, got none")


def concepts(folder: Path, data: Data) -> ConceptPictures:
    """Training pictures with the attributes of their classes.

    An attribute is present in a class if more than half of the annotators' answers say so, and kept if it is present in
    ten classes or more of all; an image has the attributes of its class.
    """
    names = _attribute_names(folder)
    table = _percentages(folder, len(names))
    present = table > PRESENT
    kept = (present.sum(0) >= AT_LEAST).nonzero()[:, 0].tolist()
    if len(table) == CLASSES and len(kept) != PUBLISHED_CONCEPTS:
        warnings.warn(
            f"cub: {PUBLISHED_CONCEPTS} attributes are expected to be present in {AT_LEAST} classes or more, "
            f"got {len(kept)}: the attribute files may not be the published ones",
            stacklevel=2,
        )
    labels = present[data.train.labels][:, kept].to(torch.int8)
    told = [c for c in range(len(kept)) if 0 < int(labels[:, c].sum()) < len(labels)]
    if not told:
        raise DataError(
            f"lottery: {folder}: no attribute tells training pictures of these classes apart"
        )
    return ConceptPictures(data.train, tuple(names[kept[c]] for c in told), labels[:, told])


def _attribute_names(folder: Path) -> list[str]:
    """From attributes/attributes.txt, or beside the folder, where the archive puts it."""
    places = [
        folder / "attributes" / "attributes.txt",
        folder / "attributes.txt",
        folder.parent / "attributes.txt",
    ]
    path = next((p for p in places if p.is_file()), places[0])
    found = numbered(path, [str])
    if sorted(found) != list(range(1, len(found) + 1)):
        raise DataError(f"lottery: {path} must number attributes from 1 without gaps")
    return [found[key][0] for key in sorted(found)]


def _percentages(folder: Path, attributes: int) -> Tensor:
    path = folder / "attributes" / "class_attribute_labels_continuous.txt"
    rows = []
    for number, line in lines_of(path):
        try:
            row = [float(word) for word in line.split()]
        except ValueError:
            raise DataError(
                f"lottery: {path}, line {number}: expected percentages, got {line[:60]!r}"
            ) from None
        if len(row) != attributes or not all(0 <= v <= 100 for v in row):
            raise DataError(
                f"lottery: {path}, line {number}: expected {attributes} percentages in [0, 100], got {len(row)} values"
            )
        rows.append(row)
    return torch.tensor(rows)
