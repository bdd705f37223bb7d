"""The right class of each image, from a CSV file."""

import csv
from collections.abc import Sequence
from pathlib import Path


def read_labels(path: Path, names: Sequence[str], classes: Sequence[str] | None) -> list[int]:
    """The class of each image.

    Args:
        path: A CSV file: the image's file name, then the class as a number or a name; further columns and a first line
            without an image's name do not matter.
        names: File names of the images.
        classes: Names of the classes, if known.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no text, an image is missing, or a class is unknown.
    """
    numbers = {name.lower(): k for k, name in reversed(list(enumerate(classes or ())))}
    found: dict[str, int] = {}
    wanted = set(names)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for row in csv.reader(file):
                if len(row) < 2 or Path(row[0]).name not in wanted:
                    continue
                text = row[1].strip()
                number = numbers.get(text.lower(), int(text) if text.isdecimal() else -1)
                if number < 0 or (classes is not None and number >= len(classes)):
                    raise ValueError(f"--labels {path}: {row[0]} has an unknown class {text!r}")
                found[Path(row[0]).name] = number
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"--labels {path} must be a CSV file in UTF-8: {error}") from None
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(
            f"--labels {path} must have a line for every image, got none for {missing[0]}"
        )
    return [found[name] for name in names]
