"""How much commands say: -q, -v and --json, which every command takes in the same way, and lines about what goes on."""

import contextlib
import functools
import inspect
import io
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, TextIO

import typer

from spade_xai.progress import LABELS

OUTPUT = "Output"

_for_json: list[TextIO] = []  # stdout, while others' words go elsewhere


@dataclass
class Loudness:
    """What the user asked for, of the command that runs."""

    quiet: bool = False
    verbose: bool = False
    lines: bool = True  # about what goes on
    start: float = field(default_factory=time.monotonic)


loudness = Loudness()

_FUNCTION = re.compile(
    r"^(?:[a-z]+_[a-z_]+|trace|attribute|explain|evaluate|tune|visualize|facets|[a-z]+\.[a-z_]+|Trace\.\w+|[A-Z]\w+): "
)

Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", rich_help_panel=OUTPUT, help="Print nothing but errors, and JSON."
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", rich_help_panel=OUTPUT,
        help="Print each stage with its time, and of an error the whole traceback.",
    ),
]  # fmt: skip


def with_volume(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options -q and -v at the end of its own."""
    signature = inspect.signature(command, eval_str=True)
    kinds = {"quiet": Quiet, "verbose": Verbose}
    own = [p for p in signature.parameters.values() if p.name not in kinds]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in kinds.items()
    ]

    @functools.wraps(command)
    def call(*, quiet: bool = False, verbose: bool = False, **given: Any) -> None:
        if quiet and verbose:
            raise typer.BadParameter("-q and -v exclude each other")
        loudness.quiet, loudness.verbose = quiet, verbose
        loudness.lines = not quiet and given.get("progress") is not False
        with contextlib.ExitStack() as stack:
            if quiet:
                stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
                if not _for_json:
                    stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            command(**given)

    call.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + added
    )
    call.__annotations__ = {p.name: p.annotation for p in [*own, *added]}
    return call


@contextmanager
def only_json(asked: bool) -> Iterator[None]:
    """Keep stdout for `json_output`, where asked: what anybody else prints goes to stderr."""
    if not asked:
        yield
        return
    _for_json.append(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _for_json.pop()


def json_output() -> TextIO | None:
    """Where JSON goes, if stdout is kept for it."""
    return _for_json[-1] if _for_json else None


def plain(message: object) -> str:
    """A message without the name of the function that it comes from, which users of commands did not call."""
    return _FUNCTION.sub("", str(message))


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Show warnings in a line of their own, without the place in the code."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"spade-xai: warning: {plain(message)}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def say(line: str) -> None:
    """Print a line about what goes on to stderr, with the seconds since the program began."""
    if loudness.lines:
        typer.echo(f"{time.monotonic() - loudness.start:5.0f} s  {line}", err=True)


class LogLines:
    """Progress in lines, where there is no terminal for bars; with -v each stage's start too.

    Lines are some seconds apart, and further apart the longer the program runs: a tenth of the time so far.
    """

    def __init__(self, every: float = 5.0) -> None:
        self.every = every
        self._last = time.monotonic()
        self._line = ""
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Report a stage of work."""
        now = time.monotonic()
        line = f"{LABELS.get(stage, stage)}: {done} of {total}"
        due = now - self._last >= max(self.every, (now - loudness.start) / 10)
        if (due and line != self._line) or (loudness.verbose and stage != self._stage):
            self._last, self._line, self._stage = now, line, stage
            say(line)
