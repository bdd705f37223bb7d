"""spade-xai lottery: what is computed of every ticket of a run."""

from typing import Annotated

import typer

from spade_xai.commands import options as o
from spade_xai.commands.lottery_options import RunFolder, Workers
from spade_xai.commands.output import show_progress


def concepts(
    run: RunFolder,
    bank: Annotated[
        str,
        typer.Option(
            help="Where concepts come from: shapes, cub, derm7pt:FOLDER, or a folder of concepts."
        ),
    ],
    kind: Annotated[
        str | None, typer.Option(help="The kind of concept bank: svm or logistic.")
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(min=2, help="The number of pictures with a concept, and of those without."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many concepts.")] = None,
    device: o.Device = None,
    workers: Workers = 0,
    progress: o.Progress = None,
) -> None:
    """Fit a concept bank for every ticket.

    Examples:
      spade-xai lottery concepts run --bank shapes
      spade-xai lottery concepts ham --bank derm7pt:release_v0
    """
    from spade_xai.lottery.folder import Run
    from spade_xai.lottery.settings import bank_of
    from spade_xai.lottery.stages import concepts_stage

    opened = Run.open(run)
    settings = bank_of(opened.record["data"]["kind"], kind=kind, count=count)
    found = concepts_stage(
        opened, bank, settings, limit=limit, device=device or "cpu", workers=workers,
        progress=show_progress(progress),
    )  # fmt: skip
    typer.echo(f"{run}: banks of {len(found.names)} concepts: {', '.join(found.names)}")


def pcbm(
    run: RunFolder,
    solver: Annotated[str | None, typer.Option(help="The solver: adam or sgd_classifier.")] = None,
    penalty: Annotated[
        float | None, typer.Option(min=0, help="The penalty of the elastic net.")
    ] = None,
    standardize: Annotated[
        bool, typer.Option("--standardize", help="Standardise projections.")
    ] = False,
    residual: Annotated[bool, typer.Option("--residual", help="Fit PCBM-h as well.")] = False,
    progress: o.Progress = None,
) -> None:
    """Fit a concept bottleneck for every ticket.

    Examples:
      spade-xai lottery pcbm run
      spade-xai lottery pcbm run --solver sgd_classifier --residual
    """
    from spade_xai.lottery.folder import Run
    from spade_xai.lottery.settings import pcbm_settings_of
    from spade_xai.lottery.stages import pcbm_stage

    opened = Run.open(run)
    settings = pcbm_settings_of(
        opened.record["data"]["kind"], solver=solver, penalty=penalty,
        standardize=standardize or None, residual=residual or None,
    )  # fmt: skip
    pcbm_stage(opened, settings, progress=show_progress(progress))
    typer.echo(f"{run}: bottlenecks of {len(list(opened.tickets()))} tickets")


def maps(
    run: RunFolder,
    method: Annotated[
        str, typer.Option("--method", "-a", help="gradcam, or a method of `explain`.")
    ] = "gradcam",
    limit: Annotated[int, typer.Option(min=0, help="The number of test pictures; 0 for all.")] = 0,
    insertion: Annotated[
        int, typer.Option(min=0, help="The number of pictures that get insertion scores.")
    ] = 0,
    traces: Annotated[
        int, typer.Option(min=0, help="The number of pictures that SPADE traces in every ticket.")
    ] = 0,
    device: o.Device = None,
    workers: Workers = 0,
    progress: o.Progress = None,
) -> None:
    """Compute maps of every ticket and how far they have moved from the dense network's.

    Examples:
      spade-xai lottery maps run
      spade-xai lottery maps run --insertion 32 --traces 8
    """
    from spade_xai.lottery.folder import Run
    from spade_xai.lottery.maps import MapSettings, maps_stage

    settings = MapSettings(method, limit, insertion, traces)
    opened = Run.open(run)
    maps_stage(
        opened, settings, device=device or "cpu", workers=workers, progress=show_progress(progress)
    )
    typer.echo(f"{run}: maps of {len(list(opened.tickets()))} tickets")


def tcav(
    run: RunFolder,
    limit: Annotated[int, typer.Option(min=1, help="Test pictures per class.")] = 64,
    device: o.Device = None,
    progress: o.Progress = None,
) -> None:
    """Ask TCAV scores of every ticket on the vectors of its bank.

    Examples:
      spade-xai lottery tcav run
    """
    from spade_xai.lottery.folder import Run
    from spade_xai.lottery.tcav import tcav_stage

    rows = tcav_stage(
        Run.open(run), limit=limit, device=device or "cpu", progress=show_progress(progress)
    )
    typer.echo(f"{run}: {len(rows)} TCAV scores")
