"""Files that are whole or absent, and safetensors files with errors that name them."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name beside path, which gets that name at the end, and is gone after an error.

    Raises:
        OSError: path is a folder or a device: only files are replaced.
    """
    target = Path(path)
    if target.exists() and not target.is_file():
        raise OSError(f"only a file can be replaced, got {target}")
    part = target.with_name(f"{target.name}.part{os.getpid()}")
    try:
        yield part
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def write_tensors(
    function: str,
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    metadata: dict[str, str] | None = None,
) -> None:
    """Write a safetensors file, whole or not at all.

    Raises:
        OSError: It cannot be written there.
    """
    if not Path(path).parent.is_dir():
        raise FileNotFoundError(f"{function}: no folder {Path(path).parent} to write {path} in")
    try:
        with written_whole(path) as part:
            save_file({name: t.contiguous() for name, t in tensors.items()}, part, metadata)
    except SafetensorError as error:
        raise OSError(f"{function}: cannot write {path}: {error}") from None


def read_tensors(
    function: str, path: str | os.PathLike[str]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Another kind of file, or a part of one.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{function}: no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{function}: {path} is not a safetensors file: {error}") from None
