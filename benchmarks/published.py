"""The published SPADE code from a checkout on disk: its classes, found by name, run beside ours. Nothing of it is kept.

The code prints, keeps log files and waits for CUDA; here it is quiet, its log goes nowhere, and where there is no
CUDA the calls that wait for it or empty its cache do nothing.
"""

import ast
import contextlib
import importlib.util
import inspect
import io
import os
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

CLASSES = {  # what it does: the names it goes by
    "trueobs": ("TrueOBS",),
    "sparsegpt": ("SparseGPT",),
    "batched": ("SparseGPTSuperFast", "BatchSparseGPT"),
}


@dataclass(frozen=True)
class Published:
    """Classes of a checkout.

    Attributes:
        path: Of the checkout.
        classes: By the keys of CLASSES; those that were not found are missing.
        files: Where each was found, relative to the path.
    """

    path: Path
    classes: dict[str, type[Any]]
    files: dict[str, str]

    def make(self, kind: str, layer: nn.Module, *arguments: object) -> Any:
        """An object of a class for a layer; a class that takes a log file gets the null device."""
        made = self.classes[kind]
        options: dict[str, object] = {}
        if "log_file" in inspect.signature(made).parameters:
            options["log_file"] = os.devnull
        with running():
            return made(layer, *arguments, **options)


def load_published(path: str | Path) -> Published:
    """Import the classes from the Python files below a path.

    Raises:
        ValueError: No such folder, or none of the classes is in it.
    """
    root = Path(path)
    if not root.is_dir():
        raise ValueError(f"load_published: path must be a folder, got {root}")
    kinds = {name: kind for kind, names in CLASSES.items() for name in names}
    classes: dict[str, type[Any]] = {}
    files: dict[str, str] = {}
    for file in sorted(root.rglob("*.py")):
        found = [name for name in _classes_in(file) if kinds.get(name, "") not in ("", *classes)]
        if found:
            module = _import(file)
            for name in found:
                classes[kinds[name]] = getattr(module, name)
                files[kinds[name]] = str(file.relative_to(root))
    if not classes:
        names = ", ".join(kinds)
        raise ValueError(f"load_published: path must hold one of the classes {names}, got {root}")
    return Published(root, classes, files)


def _classes_in(file: Path) -> list[str]:
    try:
        tree = ast.parse(file.read_text(errors="replace"))
    except SyntaxError:
        return []
    return [node.name for node in tree.body if isinstance(node, ast.ClassDef)]


def _import(file: Path) -> types.ModuleType:
    """Import one file under a name of its own, leaving torch's TF32 switches as they were."""
    name = f"published_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"load_published: cannot import {file}")
    module = importlib.util.module_from_spec(spec)
    switches = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        with _transformers(), _siblings(file.parent), contextlib.redirect_stdout(io.StringIO()):
            spec.loader.exec_module(module)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = switches
    return module


@contextlib.contextmanager
def _siblings(folder: Path) -> Iterator[None]:
    """Let a file import those beside it by their bare names, which files of another folder may bear too."""
    names = {path.stem for path in folder.glob("*.py")}
    before = {name: sys.modules.pop(name) for name in names & set(sys.modules)}
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(before)


@contextlib.contextmanager
def _transformers() -> Iterator[None]:
    """Stand in for transformers where it is not installed: the code needs its Conv1D for isinstance alone."""
    if importlib.util.find_spec("transformers") is not None:
        yield
        return
    stand_in = types.ModuleType("transformers")
    stand_in.Conv1D = type("Conv1D", (nn.Module,), {})  # type: ignore[attr-defined]
    with mock.patch.dict(sys.modules, {"transformers": stand_in}):
        yield


@contextlib.contextmanager
def running() -> Iterator[None]:
    """Run published code: without its prints, and on a machine without CUDA without its waits for CUDA."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        if not torch.cuda.is_available():
            for name in ("synchronize", "empty_cache"):
                stack.enter_context(mock.patch.object(torch.cuda, name, lambda *_, **__: None))
        yield
