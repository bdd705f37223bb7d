"""Texts from files: one per line, or a data set of labelled texts in a published format."""

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from spade_xai.choices import misnamed

SUFFIXES = (".txt", ".tsv", ".csv")
"""Endings of files that hold texts."""

AG_NEWS_CLASSES = 4


class TextError(ValueError):
    """A file of texts is missing or is not what it should be; the message names it."""


@dataclass(frozen=True)
class Text:
    """One text.

    Attributes:
        name: The file and the line, unlike all others of the file.
        text: The text.
        label: Its class, from 0, where the file says one.
    """

    name: str
    text: str
    label: int | None = None


def read_texts(path: str | Path, format: str = "auto") -> list[Text]:
    r"""Read the texts of a file in UTF-8.

    | format | what the file holds |
    |---|---|
    | lines | a text per line; empty lines are passed over |
    | sst2 | SST-2 as GLUE has it: values split by tabs, a head with "sentence" and, but for the test set, "label" |
    | stanford | SST-2 as Stanford's binary sets have it: a label and a sentence per line, split by a space |
    | ag_news | AG News: CSV of class (1 to 4), title and description; the text is both, joined by a space |

    Args:
        path: The path of the file.
        format: A name in the table, or "auto": sst2 for .tsv, ag_news for .csv, lines for others.

    Raises:
        TextError: The file is missing, holds no text, or is not of the format; the line is named.

    Example:
        >>> from pathlib import Path
        >>> from spade_xai.models.texts import read_texts
        >>> lines = ["sentence\tlabel", "a fine film\t1", "dull\t0"]
        >>> _ = Path("dev.tsv").write_text("\n".join(lines))
        >>> read_texts("dev.tsv")[0]
        Text(name='dev-00002', text='a fine film', label=1)
    """
    file = Path(path)
    if format == "auto":
        format = {".tsv": "sst2", ".csv": "ag_news"}.get(file.suffix.lower(), "lines")
    if format not in READERS:
        raise ValueError(f"read_texts: {misnamed('format', ('auto', *READERS), format)}")
    try:
        content = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise TextError(f"read_texts: no file {file}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise TextError(f"read_texts: cannot read {file} as text in UTF-8: {error}") from None
    try:
        found = [
            Text(f"{file.stem}-{line:05d}", text.strip(), label)
            for line, text, label in READERS[format](content)
            if text.strip()
        ]
    except (ValueError, csv.Error) as error:
        raise TextError(f"read_texts: {file} is not of the format {format}: {error}") from None
    if not found:
        raise TextError(f"read_texts: {file} must hold a text, got none")
    return found


_Rows = Iterator[tuple[int, str, int | None]]
"""Line, text and label of each."""


def _lines(content: str) -> _Rows:
    for line, text in enumerate(content.split("\n"), 1):
        yield line, text, None


def _sst2(content: str) -> _Rows:
    head, *rows = content.rstrip("\n").split("\n")
    names = head.strip().lower().split("\t")
    if "sentence" not in names:
        raise ValueError(f"line 1 must be a head with sentence and label, got {head[:60]!r}")
    for line, row in enumerate(rows, 2):
        cells = row.rstrip("\r").split("\t")
        if len(cells) != len(names):
            raise ValueError(f"line {line} must have {len(names)} values, got {len(cells)}")
        found = dict(zip(names, cells, strict=True))
        label = _label(line, found["label"], 0, 1) if "label" in found else None
        yield line, found["sentence"], label


def _stanford(content: str) -> _Rows:
    for line, row in enumerate(content.split("\n"), 1):
        if row.strip():
            label, _, text = row.partition(" ")
            yield line, text, _label(line, label, 0, 1)


def _ag_news(content: str) -> _Rows:
    rows = csv.reader(io.StringIO(content, newline=""), strict=True)
    for number, row in enumerate(rows):
        line = rows.line_num
        if not row or (number == 0 and not row[0].strip().isdecimal()):
            continue  # an empty line, or a head
        if len(row) != 3:
            raise ValueError(
                f"line {line} must have class, title and description, got {len(row)} values"
            )
        yield line, " ".join(row[1:]), _label(line, row[0], 1, AG_NEWS_CLASSES) - 1


def _label(line: int, text: str, low: int, high: int) -> int:
    if not (text.strip().isdecimal() and low <= int(text) <= high):
        raise ValueError(f"line {line} must have a class from {low} to {high}, got {text[:20]!r}")
    return int(text)


READERS: dict[str, Callable[[str], _Rows]] = {
    "lines": _lines,
    "sst2": _sst2,
    "stanford": _stanford,
    "ag_news": _ag_news,
}
"""The formats that are read."""
