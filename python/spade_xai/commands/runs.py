"""Folders of results: what a run finished is kept, and nothing of the user's is written over."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from spade_ext.files import format_of
from spade_xai.commands.pruning import PruningOptions
from spade_xai.models.forward_pass import outputs_of
from spade_xai.models.inputs import Inputs
from spade_xai.models.weights import first_line
from spade_xai.tracing.file import describe, fingerprint
from spade_xai.tuning.identity import coarse, digest_of_text

_OURS = re.compile(rb"spade_xai\.(?:[A-Z]\w+|lottery\.[a-z]+)\.\d")
_HEAD = 4096  # bytes in which a file of ours says so
_TAIL = 1 << 16  # the same for Parquet


class Given(Protocol):
    """What a command works on, images or texts."""

    model: nn.Module

    def reads(self) -> list[Path]:
        """The files that are read."""

    def described(self) -> str:
        """What is done to make inputs of them."""

    def example(self) -> Inputs:
        """An input of the model."""


class RunFiles:
    """The files of a command's run: their names, and whether one that is there is of the same run.

    Args:
        given: Model, and images or texts.
        pruning: How to prune.
        sparsity: Text of the option, which may name a file.
        settings: All else that results depend on, as JSON takes it.
        read: Further files that the command reads.
    """

    def __init__(
        self,
        given: Given,
        pruning: PruningOptions,
        sparsity: str,
        settings: dict[str, Any],
        read: Iterable[Path | None],
    ) -> None:
        file = Path(sparsity) if Path(sparsity).is_file() else None
        self._reads = [*given.reads(), *(path for path in (file, *read) if path)]
        settings = {
            **settings,
            "images": given.described(),
            "pruning": pruning.told(),
            "sparsity": [sparsity, told_file(file)],
        }
        example = given.example()
        model = [
            fingerprint(given.model),
            _kind(given.model),
            coarse(outputs_of(given.model, example)),
        ]
        self._settings = json.dumps([settings, model], sort_keys=True, default=str)

    def key(self, part: str, tensors: Sequence[Tensor | None]) -> str:
        """A name of everything that a result depends on: the run, what part of it, the images and masks it is of."""
        content = [None if t is None else describe(t) for t in tensors]
        return digest_of_text(json.dumps([self._settings, part, content]))

    def check(self, outputs: Iterable[Path]) -> None:
        """Refuse outputs that are read by the command, are another output, or were not written by this package.

        Raises:
            ValueError: One is so; it names the file.
        """
        check_outputs(outputs, self._reads)


def check_outputs(outputs: Iterable[Path], reads: Iterable[Path]) -> None:
    """As `RunFiles.check`."""
    inputs = {path.resolve() for path in reads}
    seen: set[Path] = set()
    for path in outputs:
        place = path.resolve()
        if place in inputs:
            raise ValueError(
                f"--out: {path} would be written over, which the command reads: give another --out"
            )
        if place in seen:
            raise ValueError(f"--out: {path} would be written twice: give images of other names")
        seen.add(place)
        if path.is_file() and not is_ours(path):
            raise ValueError(
                f"--out: {path} is there and was not written by spade-xai: it is not written over, "
                "so move it or give another --out"
            )


def is_ours(path: Path) -> bool:
    """Whether this package wrote a file, of any kind; an empty one is anybody's."""
    if path.suffix == ".safetensors":
        return str(format_of(path)).startswith("spade_")
    try:
        with path.open("rb") as file:
            if path.suffix == ".parquet":  # says so at its end
                file.seek(max(0, path.stat().st_size - _TAIL))
                head = file.read()
            else:
                head = file.read(_HEAD)
    except OSError:
        return False
    return not head or _OURS.search(head) is not None


def told_file(path: Path | str | None) -> str | None:
    """The content of a file as text that settings hold; None for none."""
    if path is None:
        return None
    try:
        return digest_of_text(Path(path).read_bytes().hex())
    except OSError as error:
        raise ValueError(f"cannot read {path}: {first_line(error)}") from None


def _kind(model: nn.Module) -> str:
    return f"{type(model).__module__}.{type(model).__qualname__}"
