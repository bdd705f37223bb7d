"""Concepts of Derm7pt (Kawahara et al., 2019) from its folder: dermoscopic photographs, seven-point checklist."""

from pathlib import Path

import torch

from spade_xai.lottery.data.pictures import ConceptPictures, DataError, Files
from spade_xai.lottery.data.tables import csv_rows, index_file

# Column, and the values that count as present; "absent" is absent, all others are left out.
CONCEPTS = {
    "BWV": ("blue_whitish_veil", ("present",)),
    "RegularDG": ("dots_and_globules", ("regular",)),
    "IrregularDG": ("dots_and_globules", ("irregular",)),
    "RegressionStructures": (
        "regression_structures",
        ("blue areas", "white areas", "combinations", "present"),
    ),
    "RegularStreaks": ("streaks", ("regular",)),
    "IrregularStreaks": ("streaks", ("irregular",)),
    "TypicalPigmentNetwork": ("pigment_network", ("typical",)),
    "AtypicalPigmentNetwork": ("pigment_network", ("atypical",)),
}
VALUES = {
    "blue_whitish_veil": {"absent", "present"},
    "dots_and_globules": {"absent", "regular", "irregular"},
    "regression_structures": {"absent", "blue areas", "white areas", "combinations", "present"},
    "streaks": {"absent", "regular", "irregular"},
    "pigment_network": {"absent", "typical", "atypical"},
}


def concepts(folder: Path) -> ConceptPictures:
    """Read the pictures of train_indexes.csv and valid_indexes.csv with the eight concepts of the paper.

    Args:
        folder: With meta/meta.csv, meta/train_indexes.csv, meta/valid_indexes.csv and images/.
    """
    meta = folder / "meta" / "meta.csv"
    rows = csv_rows(meta, [*VALUES, "derm"])
    for line, row in rows:
        for column, allowed in VALUES.items():
            if row[column] not in allowed:
                raise DataError(
                    f"lottery: {meta}, line {line}: {column} must be one of {', '.join(sorted(allowed))}, "
                    f"got {row[column]!r}"
                )
    chosen = []
    for name in ("train_indexes.csv", "valid_indexes.csv"):
        for index in index_file(meta.parent / name):
            if index >= len(rows):
                raise DataError(
                    f"lottery: {meta.parent / name}: index must be below the {len(rows)} rows of meta.csv, got {index}"
                )
            chosen.append(index)
    paths, labels = [], []
    for index in chosen:
        line, row = rows[index]
        path = folder / "images" / row["derm"]
        if not path.is_file():
            raise DataError(f"lottery: no file {path}, which {meta}, line {line} names")
        paths.append(path)
        labels.append([_label(row[column], values) for column, values in CONCEPTS.values()])
    pictures = Files(paths, torch.zeros(len(paths)), names=[rows[k][1]["derm"] for k in chosen])
    return ConceptPictures(pictures, tuple(CONCEPTS), torch.tensor(labels, dtype=torch.int8))


def _label(value: str, present: tuple[str, ...]) -> int:
    if value in present:
        return 1
    return 0 if value == "absent" else -1
