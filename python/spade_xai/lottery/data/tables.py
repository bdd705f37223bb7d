"""Text tables of published data sets: what is missing or malformed is named with file and line."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from spade_xai.lottery.data.pictures import DataError, Pictures, derived_seed


def lines_of(path: Path) -> list[tuple[int, str]]:
    """Lines that are not blank, with their numbers from 1.

    Raises:
        DataError: No such file, or it is not text in UTF-8.
    """
    if not path.is_file():
        raise DataError(f"lottery: no file {path}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"lottery: {path} must be text in UTF-8: {error}") from None
    return [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]


def numbered(path: Path, kinds: Sequence[Callable[[str], Any]]) -> dict[int, tuple[Any, ...]]:
    """Rows `id value ...` by id: the format of CUB's text files.

    Raises:
        DataError: A line has another number of values, one that cannot be read, or an id that came before.
    """
    found: dict[int, tuple[Any, ...]] = {}
    for number, line in lines_of(path):
        words = line.split()
        try:
            if len(words) != 1 + len(kinds):
                raise ValueError(f"{1 + len(kinds)} values")
            row = tuple(kind(word) for kind, word in zip(kinds, words[1:], strict=True))
            key = int(words[0])
        except ValueError as error:
            raise DataError(
                f"lottery: {path}, line {number}: expected an id and {len(kinds)} values, got {line!r} ({error})"
            ) from None
        if key in found:
            raise DataError(
                f"lottery: {path}, line {number}: id {key} must come once, got it again"
            )
        found[key] = row
    return found


def csv_rows(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Rows of a CSV file with a header, with their line numbers.

    Raises:
        DataError: No such file, a column is missing, or a row is short.
    """
    lines_of(path)
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise DataError(f"lottery: {path}, line 1: there must be a column {missing[0]!r}")
        rows = []
        for row in reader:
            for name in columns:
                if not row.get(name):
                    raise DataError(
                        f"lottery: {path}, line {reader.line_num}: {name} must have a value, got none"
                    )
            rows.append((reader.line_num, {name: row[name].strip() for name in columns}))
    if not rows:
        raise DataError(f"lottery: {path} must hold rows, got none")
    return rows


def index_file(path: Path) -> list[int]:
    """Whole numbers, one per line, after an optional header."""
    found = []
    for number, line in lines_of(path):
        word = line.split(",")[-1].strip()
        if number == 1 and not word.lstrip("-").isdigit():
            continue
        if not word.isdigit():
            raise DataError(
                f"lottery: {path}, line {number}: expected a whole number, got {line!r}"
            )
        found.append(int(word))
    return found


def held_out(labels: Sequence[int], share: float, *seed: object) -> tuple[list[int], list[int]]:
    """Indices to keep and to hold out: a share of each class, at least one where a class has two or more."""
    keep, held = [], []
    for label in sorted(set(labels)):
        own = [k for k, y in enumerate(labels) if y == label]
        generator = torch.Generator().manual_seed(derived_seed("held out", *seed, label))
        order = [own[int(k)] for k in torch.randperm(len(own), generator=generator)]
        count = max(round(share * len(own)), 1 if len(own) > 1 else 0)
        held += order[:count]
        keep += order[count:]
    return sorted(keep), sorted(held)


def limited(pictures: Pictures, limit: int | None) -> Pictures:
    """At most so many pictures per class, the first ones."""
    if limit is None:
        return pictures
    counts: dict[int, int] = {}
    chosen = []
    for k, label in enumerate(pictures.labels.tolist()):
        counts[label] = counts.get(label, 0) + 1
        if counts[label] <= limit:
            chosen.append(k)
    return pictures.subset(chosen)
