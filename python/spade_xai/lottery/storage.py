"""Files of a run: `spade_ext.files` with the formats of this package, and null for figures that are not finite."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from spade_ext import files

VERSION = 1


class RunError(ValueError):
    """A file of a run is missing, damaged or of other settings; the message names it."""


def write_text(path: Path, text: str) -> None:
    """Write a text file whole, in UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(path, text.encode())


def write_json(path: Path, kind: str, record: Mapping[str, Any]) -> None:
    """Write a record; figures that are not finite become null.

    Raises:
        RunError: Another file has that name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and not _starts_with(path, _format(kind)):
        raise _taken(path, kind)
    files.write_json(path, _format(kind), finite(record))


def read_json(path: Path, kind: str) -> dict[str, Any]:
    """Read what `write_json` wrote.

    Raises:
        RunError: No such file, another kind or version, or a digest that does not fit.
    """
    try:
        return files.read_json("lottery", path, _format(kind))
    except (FileNotFoundError, ValueError) as error:
        raise RunError(str(error)) from None


def write_state(
    path: Path, kind: str, tensors: Mapping[str, Tensor], record: Mapping[str, Any] | None = None
) -> None:
    """Write tensors and a JSON record as safetensors.

    Raises:
        RunError: Another file has that name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and files.format_of(path) != _format(kind):
        raise _taken(path, kind)
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(finite(record or {}))
    files.write_tensors("lottery", path, _format(kind), held, {"record": text})


def read_state(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_state` wrote: tensors and record.

    Raises:
        RunError: No such file, another kind or version, or a digest that does not fit.
    """
    try:
        tensors, metadata = files.read_tensors("lottery", path, _format(kind))
    except (FileNotFoundError, ValueError) as error:
        raise RunError(str(error)) from None
    return tensors, json.loads(metadata["record"])


def _starts_with(path: Path, format: str) -> bool:
    """Whether a JSON file is of a format, which its first key says."""
    with path.open("rb") as file:
        return f'"{format}"'.encode() in file.read(100)


def _taken(path: Path, kind: str) -> RunError:
    return RunError(
        f"lottery: {path} is there and is not what a run keeps as its {kind}: it is not written over, so move it "
        "or give another folder"
    )


def _format(kind: str) -> str:
    return f"spade_xai.lottery.{kind}.{VERSION}"


def finite(value: Any) -> Any:
    """The value with None for every number that is not finite, and lists for tuples."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return value
