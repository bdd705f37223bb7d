"""What commands print."""

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import typer

from spade_ext.files import sweep
from spade_xai.commands.volume import LogLines, json_output, loudness
from spade_xai.progress import Progress
from spade_xai.tracing.fidelity import spoken


def ready_folder(path: Path) -> None:
    """Make the folder that --out names, before the work whose results go there.

    Raises:
        OSError: It cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"--out must be in a folder that can be made, got {path}: {error}") from None
    if not os.access(path, os.W_OK):
        raise OSError(f"--out must be in a folder that can be written to, got {path}")
    sweep(path)


def ready_file(path: Path) -> None:
    """Make the folder of the file that --out names, before the work whose result goes there.

    Raises:
        OSError: It cannot be made or written to, or path is something else than a file.
    """
    ready_folder(path.parent)
    if path.exists() and not path.is_file():
        raise OSError(f"--out must be a file, got {path}")


def show_progress(asked: bool | None) -> bool:
    """Whether to draw bars: as asked, else on a terminal; never with -q."""
    return not loudness.quiet and (sys.stderr.isatty() if asked is None else asked)


def reporter(asked: bool | None) -> Progress:
    """What functions report progress to: bars on a terminal or where asked for, lines elsewhere, nothing with -q."""
    if asked is False or loudness.quiet:
        return False
    return show_progress(asked) or LogLines()


class Told(Protocol):
    """What a command works on, images or texts."""

    broken: list[str]

    def notes(self) -> list[str]:
        """What the user should know of it, in lines."""


def print_inputs(given: Told) -> None:
    """Print what is done to the images or texts, and what else the user should know of them and of the model."""
    for line in given.notes():
        typer.echo(line)


def end(given: Told) -> None:
    """Say what was skipped, if anything, and exit with 3 then."""
    for line in given.broken:
        typer.echo(f"spade-xai: skipped: {line}", err=True)
    if given.broken:
        raise typer.Exit(3)


def print_json(value: Any) -> None:
    """Print a value as JSON, with null for what is not finite."""
    text = json.dumps(finite(value), indent=1)
    typer.echo(text, file=json_output())


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: first column to the left, others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        typer.echo("  ".join(cells).rstrip())


def print_fidelity(prefix: str, fidelity: Mapping[str, Any], what: str = "image") -> None:
    """Print how a sparse model's answers agree with the dense model's, and whether it is faithful."""
    image, varied = fidelity["sample"], fidelity["augmentations"]
    typer.echo(
        f"{prefix}same label as dense: {what} {'yes' if image['label'] else 'no'}, "
        f"augmentations {varied['label']:.0%}; logit cosine {image['cosine']:.3f} and {varied['cosine']:.3f}"
    )
    verdict = spoken(fidelity)
    if verdict["faithful"] is False:
        typer.echo(f"{prefix}NOT FAITHFUL to the dense model: {'; '.join(verdict['reasons'])}")


def finite(value: Any) -> Any:
    """A value as strict JSON takes it: None for what is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return value
