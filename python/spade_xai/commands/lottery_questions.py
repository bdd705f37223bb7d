"""spade-xai lottery: the open questions of the paper."""

from pathlib import Path
from typing import Annotated

import typer

from spade_xai.commands import options as o
from spade_xai.commands.lottery_options import RunFolder, Workers
from spade_xai.commands.output import show_progress


def regularize(
    run: RunFolder,
    weight: Annotated[
        str, typer.Option(help="Of the term, joined by commas; 0 is added.")
    ] = ".1,1,10",
    form: Annotated[str, typer.Option(help="gradcam or concepts.")] = "gradcam",
    layer: Annotated[
        str | None, typer.Option(help="Of Grad-CAM; default: the last feature maps.")
    ] = None,
    ticket: Annotated[list[int] | None, typer.Option(min=1, help="May be repeated.")] = None,
    base: Annotated[str, typer.Option(help="Arm whose masks are used.")] = "magnitude",
    device: o.Device = None,
    workers: Workers = 0,
    progress: o.Progress = None,
) -> None:
    """Train tickets again with a term that holds their explanations near the dense network's.

    Examples:
      spade-xai lottery regularize run --weight .1,1,10
      spade-xai lottery regularize run --form concepts --ticket 7
    """
    from spade_xai.lottery.folder import Run
    from spade_xai.lottery.regularize import regularize as train_again

    record = train_again(
        Run.open(run), o.parse_numbers("--weight", weight), form=form, layer=layer,
        tickets=ticket or (), base=base, device=device or "cpu", workers=workers,
        progress=show_progress(progress),
    )  # fmt: skip
    same = "equals" if record["zero_equals_plain"] else "does not equal"
    typer.echo(f"{run}: weights {record['weights']}; weight 0 {same} the plain ticket bit for bit")


def difficulty(
    run: RunFolder,
    base: Annotated[str, typer.Option(help="Arm.")] = "magnitude",
    seed: o.Seed = 0,
) -> None:
    """Compare how steady explanations of easy and hard test pictures are.

    Examples:
      spade-xai lottery difficulty run
    """
    from spade_xai.lottery.difficulty import difficulty as rank
    from spade_xai.lottery.folder import Run

    record = rank(Run.open(run), base=base, seed=seed)
    typer.echo(f"{run}: {len(record['rows'])} comparisons of easy and hard pictures")


def compare(
    first: Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)],
    second: Annotated[Path, typer.Argument(help="Folder of another run.", show_default=False)],
    base: Annotated[str, typer.Option(help="Arm of both.")] = "magnitude",
    seed: o.Seed = 0,
) -> None:
    """Compare how fast the leading concepts of two runs change, such as medical and natural pictures.

    Examples:
      spade-xai lottery compare ham cub
    """
    from spade_xai.lottery.compare import compare as slopes
    from spade_xai.lottery.folder import Run

    record = slopes(Run.open(first), Run.open(second), base=base, seed=seed)
    typer.echo(
        f"slopes {record['first']['slope']:.3f} and {record['second']['slope']:.3f}, "
        f"difference {record['difference']:.3f}, p = {record['p']:.3f}"
    )
