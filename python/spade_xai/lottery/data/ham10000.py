"""HAM10000 (Tschandl, Rosendahl and Kittler, 2018) from its folder: photographs of skin lesions."""

from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedShuffleSplit

from spade_xai.choices import misnamed
from spade_xai.lottery.data.pictures import Data, DataError, Files
from spade_xai.lottery.data.tables import csv_rows, limited

DIAGNOSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
MALIGNANT = ("mel", "bcc")
SPLITS = ("lesion", "paper")


def load(
    folder: Path, split: str = "lesion", classes: int | None = None, limit: int | None = None
) -> Data:
    """Read the data set.

    Args:
        folder: With HAM10000_metadata.csv, folders of images and, if relevance to lesions is asked for, a folder of
            masks named {image_id}_segmentation.png.
        split: "lesion": no lesion is in two parts; "paper": 80 % and 20 % of the photographs, stratified by diagnosis,
            which puts photographs of one lesion on both sides.
        classes: 2 (benign, malignant) or 7 diagnoses; None: 2.
        limit: Pictures per class in each part.
    """
    if split not in SPLITS:
        raise DataError(f"lottery: {misnamed('split of ham10000', SPLITS, split)}")
    if classes not in (None, 2, 7):
        raise DataError(f"lottery: classes of ham10000 must be 2 or 7, got {classes}")
    table = folder / "HAM10000_metadata.csv"
    rows = csv_rows(table, ["lesion_id", "image_id", "dx"])
    for line, row in rows:
        if row["dx"] not in DIAGNOSES:
            raise DataError(
                f"lottery: {table}, line {line}: dx must be one of {', '.join(DIAGNOSES)}, got {row['dx']!r}"
            )
    ids = [row["image_id"] for _, row in rows]
    if len(set(ids)) != len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise DataError(f"lottery: {table}: image_id {twice} must come once, got it again")
    found = {p.stem: p for p in sorted(folder.rglob("*.jpg"))}
    missing = next((i for i in ids if i not in found), None)
    if missing is not None:
        raise DataError(f"lottery: {folder}: no file {missing}.jpg, which {table.name} names")
    masks = {
        p.name.removesuffix("_segmentation.png"): p
        for p in sorted(folder.rglob("*_segmentation.png"))
    }
    diagnoses = np.array([row["dx"] for _, row in rows])
    lesions = np.array([row["lesion_id"] for _, row in rows])
    names = DIAGNOSES if classes == 7 else ("benign", "malignant")
    if classes == 7:
        labels = [DIAGNOSES.index(d) for d in diagnoses]
    else:
        labels = [int(d in MALIGNANT) for d in diagnoses]
    whole = Files(
        [found[i] for i in ids], labels, [masks.get(i) for i in ids] if masks else None, ids
    )
    parts = [limited(whole.subset(p), limit) for p in _split(split, diagnoses, lesions)]
    return Data("ham10000", names, *parts)


def _split(split: str, diagnoses: np.ndarray, lesions: np.ndarray) -> list[list[int]]:
    """Training, validation and test; a fifth to test, a tenth of the rest to choose weights by."""
    every = np.arange(len(diagnoses))
    try:
        if split == "paper":
            shuffle = StratifiedShuffleSplit(1, test_size=0.2, random_state=0)
            rest, test = next(shuffle.split(every, diagnoses))
            shuffle = StratifiedShuffleSplit(1, test_size=0.1, random_state=0)
            keep, held = next(shuffle.split(rest, diagnoses[rest]))
        else:
            fold = StratifiedGroupKFold(5, shuffle=True, random_state=0)
            rest, test = next(fold.split(every, diagnoses, lesions))
            fold = StratifiedGroupKFold(10, shuffle=True, random_state=0)
            keep, held = next(fold.split(rest, diagnoses[rest], lesions[rest]))
    except ValueError as error:
        raise DataError(f"lottery: ham10000 holds too few pictures to split: {error}") from None
    parts = [rest[keep].tolist(), rest[held].tolist(), test.tolist()]
    if not all(parts):
        raise DataError("lottery: ham10000 holds too few lesions to split: a part is empty")
    return parts
