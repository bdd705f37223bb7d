"""spade-xai demo: the shipped backdoored ImageNet network and its pictures."""

from pathlib import Path
from typing import Annotated

import typer

from spade_xai.commands import options as o
from spade_xai.commands.output import print_json, ready_folder, reporter
from spade_xai.commands.runs import check_outputs


def demo(
    trojan: Annotated[int, typer.Option(min=2, help="The number of pictures with a patch.")] = 3,
    clean: Annotated[int, typer.Option(min=0, help="The number of pictures without a patch.")] = 1,
    methods: Annotated[
        list[str],
        typer.Option(
            "--method", "-a", callback=o.check_methods, help="Saliency method, may be repeated."
        ),
    ] = ["saliency", "input_x_gradient"],  # noqa: B006
    augmentations: Annotated[
        int,
        typer.Option(
            "--augmentations", "-n", min=1, help="The number of random variants of each picture."
        ),
    ] = 64,
    seed: Annotated[int, typer.Option(help="The seed of all random draws.")] = 0,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", rich_help_panel=o.OUTPUT, help="Folder for report.html and result.json."
        ),
    ] = Path("spade-demo"),
    as_json: o.AsJson = False,
    progress: o.Progress = None,
) -> None:
    """Explain pictures of a backdoored ImageNet network that comes with the package; print how good the maps are.

    It takes a few minutes and needs the extra `imagenet`.

    Examples:
      spade-xai demo
      spade-xai demo --trojan 2 --clean 2 -n 64 -a saliency -o quick --json
    """
    from spade_xai.reports.demo import run_demo

    check_outputs([out / "report.html", out / "result.json"], [])
    ready_folder(out)
    result = run_demo(
        out, trojan=trojan, clean=clean, methods=methods, augmentations=augmentations, seed=seed,
        progress=reporter(progress), report=lambda line: typer.echo(line, err=as_json),
    )  # fmt: skip
    if as_json:
        print_json(result)
