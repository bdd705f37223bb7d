"""The command line: `spade-xai explain | demo | models | ...`.

A command's module is imported when the command runs: torch takes seconds to import, which help and version need not.
"""

import sys
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from spade_xai import __version__
from spade_xai.commands.volume import loudness, only_json, plain, plain_warnings, say, with_volume

ESSENTIALS, FURTHER, STUDIES = "Essentials", "Further commands", "Studies"


class Entry(NamedTuple):
    """A command as the list of commands shows it: the first sentence of its help, and the list that it is in."""

    help: str
    panel: str


ENTRIES = {
    "explain": Entry(
        "Show saliency maps before and after pruning for images or texts.", ESSENTIALS
    ),
    "demo": Entry("Explain pictures of a backdoored ImageNet network that ships.", ESSENTIALS),
    "models": Entry("List the models that --model takes.", ESSENTIALS),
    "methods": Entry("List the saliency methods that --method takes.", ESSENTIALS),
    "plant": Entry("Plant backdoors in a network.", FURTHER),
    "reproduce": Entry("Make a table of the paper beside its published figures.", FURTHER),
    "evaluate": Entry("Score saliency maps of the dense model and of its traces.", FURTHER),
    "trace": Entry("Prune a model for each image, and write what is left of it.", FURTHER),
    "estimate": Entry("Estimate time and memory of a trace on this machine.", FURTHER),
    "tune": Entry("Choose the sparsity of each layer by how good maps become.", FURTHER),
    "visualize": Entry("Show what a neuron responds to, before and after pruning.", FURTHER),
    "reasons": Entry("Group pictures by the connections that decide them.", FURTHER),
    "lottery": Entry("Prune a network round by round, and follow its maps and concepts.", STUDIES),
    "study": Entry("Run a study with people: does a visualisation fit the picture?", STUDIES),
}
"""The commands in the order of the help; each is a function, or a group `app`, in a module of `commands`."""

MODULES = {"models": "lists", "methods": "lists"}
"""Modules of the commands that are not in one of their own name."""


SILENT = {"-q", "--quiet", "-h", "--help", "--no-progress"}
"""With one of these in the command line, nothing is said before the command is imported."""


class Commands(TyperGroup):
    """A group that knows its commands by name, and imports the one that runs."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the arguments name, imported."""
        name, found, rest = super().resolve_command(ctx, args)
        completes = ctx.resilient_parsing  # what the user types, in the shell
        if not completes and not SILENT & set(args) and name not in MODULES:
            say("starting")
        return name, None if found is None or name is None else loaded(name), rest


app = typer.Typer(
    cls=Commands,
    help="Why did a network give this answer? Prune it for one image, and explain what is left (SPADE, ICML 2024).",
    epilog="Exit codes: 0 done, 1 an input cannot be used, 2 wrong usage, 3 an image was skipped, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _stub() -> None:
    """Stands for a command that is not imported."""


for _name, _entry in ENTRIES.items():
    app.command(_name, help=_entry.help, rich_help_panel=_entry.panel)(_stub)


@cache
def loaded(name: str) -> Any:
    """The command or the group of commands of a name, imported."""
    module = import_module(f"spade_xai.commands.{MODULES.get(name, name)}")
    group: typer.Typer | None = getattr(module, "app", None)
    if group is None:
        group = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        group.command(name)(with_volume(getattr(module, name)))
        return typer.main.get_command(group)
    for command in group.registered_commands:
        if command.callback is not None:
            command.callback = with_volume(command.callback)
    return typer.main.get_command(group)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"spade-xai {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line and exit.

    Args:
        arguments: Without the program's name; None: those of the process.

    Raises:
        SystemExit: Always, with 0, 1 (an input cannot be used; a line on stderr says why), 2 (wrong usage), 3
            (an image could not be read and was skipped) or 130 (interrupted).
    """
    given = sys.argv[1:] if arguments is None else arguments
    loudness.__init__()  # type: ignore[misc]
    try:
        with only_json("--json" in given), plain_warnings():
            app(arguments)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if loudness.verbose:
            raise
        typer.echo(f"spade-xai: {plain(error)}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
