"""spade-xai lottery: tickets, and what their explanations have in common with the dense network's."""

from pathlib import Path
from typing import Annotated, Any

import typer

from spade_xai.commands import lottery_questions, lottery_stages
from spade_xai.commands import options as o
from spade_xai.commands.lottery_options import RunFolder, Workers
from spade_xai.commands.output import print_json, ready_file, ready_folder, show_progress
from spade_xai.commands.runs import check_outputs

app = typer.Typer(
    help="Prune a network round by round, and follow its Grad-CAM maps and concepts (arXiv 2307.13698).",
    epilog="Every command takes up an interrupted run where it stopped.",
    no_args_is_help=True,
)

Out = Annotated[
    Path, typer.Option("--out", "-o", rich_help_panel=o.OUTPUT, help="Folder of the run.")
]
Seeds = Annotated[list[int], typer.Option("--seed", min=0, help="A seed; may be repeated.")]


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


for command in (
    lottery_stages.concepts, lottery_stages.pcbm, lottery_stages.maps, lottery_stages.tcav,
    lottery_questions.regularize, lottery_questions.difficulty, lottery_questions.compare,
):  # fmt: skip
    app.command()(command)


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
    """Run all but traces and TCAV on drawn pictures with a planted shortcut, and write the report.

    Examples:
      spade-xai lottery all shapes -o run
      spade-xai lottery all shapes -o quick --quick --seed 0 --seed 1
    """
    from spade_xai.lottery.study import run_all

    ready_folder(out)
    _check(out, out / "report.html")
    run_all(out, data, seed, rounds=rounds, quick=quick, progress=show_progress(progress),
            report=lambda line: typer.echo(line, err=as_json))  # fmt: skip
    _report(out, None, as_json)


def _report(run: Path, out: Path | None, as_json: bool) -> dict[str, Any]:
    from spade_xai.lottery.folder import Run
    from spade_xai.lottery.report import build_sections, write_report

    page = run / "report.html" if out is None else out
    ready_file(page)
    _check(run, page)
    opened = Run.open(run)
    record = write_report(opened, page)
    if as_json:
        print_json(record)
    else:
        for section in build_sections(record, opened, pictures=False):
            typer.echo(f"{section.title}\n  " + "\n  ".join(section.says) + "\n")
        typer.echo(str(page))
    return record


def _check(run: Path, page: Path) -> None:
    """Refuse a page whose files would replace what the run holds, each other, or a file of somebody else.

    A table has no place to say whose it is: it is ours where the report's JSON file is.
    """
    from spade_xai.lottery.report import report_files

    outputs, record = report_files(page), page.with_suffix(".json")
    if record.is_file() and _is_report(record):
        outputs = [path for path in outputs if path == page or path.suffix != ".csv"]
    held = [
        path for ending in ("json", "jsonl", "safetensors") for path in run.rglob(f"*.{ending}")
    ]
    check_outputs(outputs, [path for path in held if not _is_report(path)])


def _is_report(path: Path) -> bool:
    with path.open("rb") as file:
        return b"spade_xai.lottery.report." in file.read(100)
