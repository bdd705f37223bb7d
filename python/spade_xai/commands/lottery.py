"""spade-xai lottery: tickets, and what their explanations have in common with the dense network's."""

from pathlib import Path
from typing import Annotated, Any

import typer

from spade_xai.commands import options as o
from spade_xai.commands.output import print_json, ready_file, ready_folder, show_progress

app = typer.Typer(
    help="Prune a network round by round, and follow its Grad-CAM maps and concepts (arXiv 2307.13698).",
    epilog="Every command takes up an interrupted run where it stopped.",
    no_args_is_help=True,
)

RunFolder = Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)]
Out = Annotated[
    Path, typer.Option("--out", "-o", rich_help_panel=o.OUTPUT, help="Folder of the run.")
]
Seeds = Annotated[list[int], typer.Option("--seed", min=0, help="A seed; may be repeated.")]
Workers = Annotated[int, typer.Option(min=0, help="The number of processes that read pictures.")]


@app.command()
def find(
    data: Annotated[str, typer.Argument(help="The data set: cub, ham10000, folder or shapes.")],
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of the data set; none for shapes.")
    ] = None,
    out: Out = Path("lottery-run"),
    rounds: Annotated[
        int | None, typer.Option(min=1, help="The number of tickets, the dense one among them.")
    ] = None,
    percent: Annotated[
        float | None, typer.Option(help="Percent of the living weights that a round prunes.")
    ] = None,
    scope: Annotated[
        str | None, typer.Option(help="Where weights compete: layer or global.")
    ] = None,
    rewind: Annotated[
        str | None,
        typer.Option(help="The state to rewind to: 0, or a later one such as 500it or 2ep."),
    ] = None,
    criterion: Annotated[
        list[str] | None,
        typer.Option(
            help="Criterion: magnitude, random, sparsegpt, obc, gradcam or structured; may be repeated."
        ),
    ] = None,
    reinit: Annotated[
        bool,
        typer.Option(
            "--reinit", help="A control: fresh weights with the masks of magnitude pruning."
        ),
    ] = False,
    norms: Annotated[bool, typer.Option("--norms", help="Prune batch-norm gains too.")] = False,
    seed: Seeds = [0],  # noqa: B006
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Backbone, as for `trace`.")
    ] = None,
    weights: o.Weights = None,
    size: Annotated[int | None, typer.Option(min=1, help="The number of pixels per side.")] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="The number of epochs of each round.")
    ] = None,
    first_epochs: Annotated[
        int | None, typer.Option(min=1, help="The number of epochs of round 0.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="The number of pictures per step.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="The learning rate.")] = None,
    auxiliary: Annotated[
        float, typer.Option(min=0, help="Weight of Inception's auxiliary loss.")
    ] = 0.0,
    split: Annotated[
        str | None,
        typer.Option(
            help="The split of the data: official or paper (cub), lesion or paper (ham10000)."
        ),
    ] = None,
    classes: Annotated[
        int | None, typer.Option(min=2, help="Take only so many of the first classes.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="The most pictures per class in each part.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="The precision of training: float32 or bfloat16.")
    ] = None,
    device: o.Device = None,
    workers: Workers = 0,
    progress: o.Progress = None,
) -> None:
    """Find tickets; with another criterion or seed, beside those that the folder holds.

    Examples:
      spade-xai lottery find shapes -o run --seed 0 --seed 1 --seed 2
      spade-xai lottery find cub CUB_200_2011 -o cub --weights resnet50.safetensors --workers 8
    """
    from spade_xai.lottery.study import start
    from spade_xai.lottery.tickets import find_tickets

    ready_folder(out)
    from spade_xai.lottery.settings import pruning_of

    run = start(
        out, data, folder, model=model, weights=weights, size=size, auxiliary=auxiliary,
        data_options={"split": split, "classes": classes, "limit": limit},
        training={"epochs": epochs, "first_epochs": first_epochs, "batch": batch, "rate": rate,
                  "precision": precision},
    )  # fmt: skip
    share = None if percent is None else percent / 100
    for name in criterion or ["magnitude"]:
        pruning = pruning_of(
            data, rounds=rounds, share=share, scope=scope, rewind=rewind, criterion=name,
            norms=norms, reinit=reinit,
        )  # fmt: skip
        for number in seed:
            arm = find_tickets(
                run, pruning, number, device=device or "cpu", workers=workers,
                progress=show_progress(progress),
            )  # fmt: skip
            last = arm.ticket(arm.numbers()[-1])
            typer.echo(
                f"{arm.path}: {len(arm.numbers())} tickets, the last keeps {last.alive:.1%} of the weights, "
                f"test accuracy {last.record['test_accuracy']:.3f}"
            )


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
def report(
    run: RunFolder,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", rich_help_panel=o.OUTPUT, show_default="RUN/report.html",
                     help="Page; JSON, Markdown and CSV files are written beside it."),
    ] = None,
    as_json: o.AsJson = False,
) -> None:  # fmt: skip
    """Write the report of what a run holds.

    Examples:
      spade-xai lottery report run
      spade-xai lottery report run -o tickets.html
    """
    _report(run, out, as_json)


@app.command(name="all")
def all_stages(
    data: Annotated[str, typer.Argument(help="The data set: shapes.")],
    out: Out = Path("lottery-run"),
    seed: Seeds = [0, 1, 2],  # noqa: B006
    rounds: Annotated[int | None, typer.Option(min=2, help="The number of tickets.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Take few pictures and tickets, for a run of seconds.")
    ] = False,
    as_json: o.AsJson = False,
    progress: o.Progress = None,
) -> None:
    """Run every stage on drawn pictures with a planted shortcut, and write the report.

    Examples:
      spade-xai lottery all shapes -o run
      spade-xai lottery all shapes -o quick --quick --seed 0 --seed 1
    """
    from spade_xai.lottery.study import run_all

    ready_folder(out)
    run_all(out, data, seed, rounds=rounds, quick=quick, progress=show_progress(progress),
            report=lambda line: typer.echo(line, err=as_json))  # fmt: skip
    _report(out, None, as_json)


def _report(run: Path, out: Path | None, as_json: bool) -> dict[str, Any]:
    from spade_xai.lottery.folder import Run
    from spade_xai.lottery.report import build_sections, write_report

    page = run / "report.html" if out is None else out
    ready_file(page)
    opened = Run.open(run)
    record = write_report(opened, page)
    if as_json:
        print_json(record)
    else:
        for section in build_sections(record, opened, pictures=False):
            typer.echo(f"{section.title}\n  " + "\n  ".join(section.says) + "\n")
        typer.echo(str(page))
    return record
