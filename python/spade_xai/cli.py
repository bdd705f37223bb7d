"""The command line: `spade-xai trace | explain | evaluate | tune | visualize | reasons | demo`, groups, and lists."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import spade_ext
from spade_xai.commands.demo import demo
from spade_xai.commands.evaluate import evaluate
from spade_xai.commands.explain import explain
from spade_xai.commands.lists import methods, models
from spade_xai.commands.lottery import app as lottery
from spade_xai.commands.output import only_json
from spade_xai.commands.reasons import reasons
from spade_xai.commands.study import app as study
from spade_xai.commands.trace import trace
from spade_xai.commands.tune import tune
from spade_xai.commands.visualize import visualize

app = typer.Typer(
    help="Prune a network for one image, and explain what is left (SPADE, ICML 2024).",
    epilog="Exit codes: 0 done, 1 an input cannot be used, 2 wrong usage, 3 an image was skipped, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (trace, explain, evaluate, tune, visualize, reasons, demo, models, methods):
    app.command()(command)
app.add_typer(lottery, name="lottery")
app.add_typer(study, name="study")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"spade-xai {spade_ext.__version__}")
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
    try:
        with only_json("--json" in given):
            app(arguments)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        typer.echo(f"spade-xai: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
