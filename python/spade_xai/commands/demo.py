"""spade-xai demo: the shipped backdoored network and its pictures."""

from pathlib import Path
from typing import Annotated

import typer

from spade_xai.attribution.methods import GRADIENT_METHODS
from spade_xai.commands import options as o
from spade_xai.commands.output import print_json, ready_folder, show_progress
from spade_xai.commands.runs import check_outputs


def demo(
    trojan: Annotated[int, typer.Option(min=1, help="The number of pictures with a patch.")] = 6,
    clean: Annotated[int, typer.Option(min=1, help="The number of pictures without a patch.")] = 6,
    methods: o.Maps = list(GRADIENT_METHODS),  # noqa: B006
    augmentations: o.Augmentations = 256,
    seed: o.Seed = 0,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", rich_help_panel=o.OUTPUT, help="Folder for report.html and result.json."
        ),
    ] = Path("spade-demo"),
    as_json: o.AsJson = False,
    progress: o.Progress = None,
) -> None:
    """Trace and explain pictures of a backdoored network that comes with the package; print how good the maps are.

    Examples:
      spade-xai demo
      spade-xai demo --trojan 2 --clean 2 -n 64 -a saliency -o quick --json
    """
    from spade_xai.reports.demo import run_demo

    check_outputs([out / "report.html", out / "result.json"], [])
    ready_folder(out)
    result = run_demo(
        out, trojan=trojan, clean=clean, methods=methods, augmentations=augmentations, seed=seed,
        progress=show_progress(progress), report=lambda line: typer.echo(line, err=as_json),
    )  # fmt: skip
    if as_json:
        print_json(result)
