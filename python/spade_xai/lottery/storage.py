"""Files of a run: written whole, with a kind, a version and a digest of what they hold."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spade_ext.files import read_tensors, write_tensors, written_whole

VERSION = 1


class RunError(ValueError):
    """A file of a run is missing, damaged or of other settings; the message names it."""


def write_text(path: Path, text: str) -> None:
    """Write a text file whole, in UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, kind: str, record: Mapping[str, Any]) -> None:
    """Write {"kind", "version", "digest", **record}; figures that are not finite become null."""
    body = finite(dict(record))
    head = {"kind": f"spade-lottery-{kind}", "version": VERSION, "digest": _digest_json(body)}
    write_text(path, json.dumps({**head, **body}, indent=1) + "\n")


def read_json(path: Path, kind: str) -> dict[str, Any]:
    """Read what `write_json` wrote.

    Raises:
        RunError: No such file, another kind or version, or a digest that does not fit.
    """
    if not path.is_file():
        raise RunError(f"lottery: no file {path}")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RunError(f"lottery: {path} is not JSON: {error}") from None
    if not isinstance(record, dict) or record.get("kind") != f"spade-lottery-{kind}":
        raise RunError(f"lottery: {path} must be of kind spade-lottery-{kind}")
    if record.get("version") != VERSION:
        raise RunError(
            f"lottery: {path} must have version {VERSION}, got {record.get('version')!r}"
        )
    body = {k: v for k, v in record.items() if k not in ("kind", "version", "digest")}
    if record.get("digest") != _digest_json(body):
        raise RunError(f"lottery: {path} was changed or damaged: its digest does not fit")
    return body


def write_state(
    path: Path, kind: str, tensors: Mapping[str, Tensor], record: Mapping[str, Any] | None = None
) -> None:
    """Write tensors and a JSON record as safetensors, with a digest of both."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(finite(dict(record or {})))
    head = {
        "kind": f"spade-lottery-{kind}",
        "version": str(VERSION),
        "record": text,
        "digest": _digest_tensors(held, text),
    }
    write_tensors("lottery", path, held, head)


def read_state(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_state` wrote: tensors and record.

    Raises:
        RunError: No such file, another kind or version, or a digest that does not fit.
    """
    try:
        tensors, head = read_tensors("lottery", path)
    except (FileNotFoundError, ValueError) as error:
        raise RunError(str(error)) from None
    if head.get("kind") != f"spade-lottery-{kind}" or head.get("version") != str(VERSION):
        raise RunError(f"lottery: {path} must be of kind spade-lottery-{kind}, version {VERSION}")
    if head.get("digest") != _digest_tensors(tensors, head["record"]):
        raise RunError(f"lottery: {path} was changed or damaged: its digest does not fit")
    return tensors, json.loads(head["record"])


def finite(value: Any) -> Any:
    """The value with None for every number that is not finite, and lists for tuples."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return value


def _digest_json(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _digest_tensors(tensors: Mapping[str, Tensor], text: str) -> str:
    total = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
