"""Files that are whole or absent, know their format, and are refused once a bit of them has changed.

A safetensors file of this package has "format" (its kind and version) and "digest" (of all else) in its metadata, a
JSON file has them as its first keys.
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_HOST = re.sub(r"\W", "_", socket.gethostname())[:32]
_PART = re.compile(rf"\..*\.{_HOST}-(\d+)-\d+\.spade-part")
_count = itertools.count()
_swept: set[Path] = set()


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name beside path, which gets that name at the end, on the disk, and is gone after an error.

    What killed processes left of such files in the folder is removed.

    Raises:
        OSError: path is a folder or a device: only files are replaced. Or it cannot be written; the error names it.
    """
    target = Path(path)
    if target.exists() and not target.is_file():
        raise OSError(f"only a file can be replaced, got {target}")
    sweep(target.parent)
    part = target.with_name(
        f".{target.name[-150:]}.{_HOST}-{os.getpid()}-{next(_count)}.spade-part"
    )
    try:
        yield part
        _synchronize(part)
        part.replace(target)
        _synchronize(target.parent)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(part)):
            raise type(error)(error.errno, os.strerror(error.errno), str(target)) from None
        raise
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what killed processes of this machine left of files that were not whole yet."""
    if folder in _swept or not folder.is_dir():
        return
    _swept.add(folder)
    for entry in folder.iterdir():
        found = _PART.fullmatch(entry.name)
        if found and not is_running(int(found[1])):
            with contextlib.suppress(OSError):
                entry.unlink()


def is_running(process: int) -> bool:
    """Whether a process of this machine has that number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _synchronize(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if path.is_file():  # some file systems cannot do it for folders
            raise
    finally:
        os.close(handle)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file, whole or not at all."""
    with written_whole(path) as part:
        part.write_bytes(data)


def digest_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Of names, types, shapes and bytes, and of all metadata but "digest"."""
    digest = hashlib.blake2b(digest_size=16)
    known = sorted((k, v) for k, v in metadata.items() if k != "digest")
    digest.update(json.dumps(known).encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_tensors(
    function: str,
    path: str | os.PathLike[str],
    format: str,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file, whole or not at all, with its format and a digest.

    Raises:
        OSError: It cannot be written there.
    """
    if not Path(path).parent.is_dir():
        raise FileNotFoundError(f"{function}: no folder {Path(path).parent} to write {path} in")
    known = {**(metadata or {}), "format": format}
    known["digest"] = digest_of(tensors, known)
    try:
        with written_whole(path) as part:
            save_file({name: t.contiguous() for name, t in tensors.items()}, part, known)
    except SafetensorError as error:
        raise OSError(f"{function}: cannot write {path}: {error}") from None


def read_tensors(
    function: str, path: str | os.PathLike[str], format: str
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file of this package.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Another kind of file, a part of one, or one that changed after it was written.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{function}: no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") == format:
                tensors = {name: file.get_tensor(name) for name in file.keys()}
    except Exception as error:  # damaged files raise nearly everything
        raise ValueError(f"{function}: {path} is not a safetensors file: {error}") from None
    if metadata.get("format") != format:
        raise ValueError(
            f"{function}: {path} must have the format {format}, got {metadata.get('format', 'none')}"
        )
    if metadata.get("digest") != digest_of(tensors, metadata):
        raise ValueError(f"{function}: {path} is damaged: its content does not have its digest")
    return tensors, metadata


def format_of(path: str | os.PathLike[str]) -> str | None:
    """The format of a safetensors file of this package; None for any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format")
    except Exception:  # any file may be asked about
        return None


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: No JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None


def signed(format: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """A value for a JSON file with its format and a digest of both."""
    body = {k: v for k, v in value.items() if k not in ("format", "digest")}
    text = json.dumps([format, body], sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    return {"format": format, "digest": digest, **body}


def is_signed(value: Mapping[str, Any]) -> bool:
    """Whether a value of a JSON file has the digest of its format and content."""
    return bool(value.get("digest") == signed(str(value.get("format")), value)["digest"])


def write_json(path: str | os.PathLike[str], format: str, value: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all, with its format and a digest."""
    write_bytes(path, (json.dumps(signed(format, value), indent=1) + "\n").encode())


def read_json(function: str, path: str | os.PathLike[str], format: str) -> dict[str, Any]:
    """The value of a JSON file of this package, without format and digest.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Another kind of file, or one that changed after it was written.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{function}: no file {path}")
    try:
        value = parse_json(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"{function}: {path} is damaged: {error}") from None
    if not isinstance(value, dict) or value.get("format") != format:
        raise ValueError(f"{function}: {path} must be a JSON file of the format {format}")
    if not is_signed(value):
        raise ValueError(f"{function}: {path} is damaged: its content does not have its digest")
    return {k: v for k, v in value.items() if k not in ("format", "digest")}
