"""spade-xai study: do people find the image region that drove a neuron, with SPADE and without (section 4.2.2)?"""

import math
from pathlib import Path
from typing import Annotated

import typer

from spade_xai.commands import options as o
from spade_xai.commands.output import print_json, print_table, ready_folder, reporter
from spade_xai.commands.runs import check_outputs
from spade_xai.commands.study_build import JsPsych, build

app = typer.Typer(
    help="A study with people: which part of a picture does a visualisation fit, with SPADE and without?",
    epilog="No answers come with the package: nobody was asked yet. docs/human-study.md tells how to run a study.",
    no_args_is_help=True,
)
Folder = Annotated[Path, typer.Argument(help="Folder of a study.", show_default=False)]
UntilWidth = Annotated[
    float | None,
    typer.Option(
        min=0.001, max=1.0,
        help="Enough raters: the 95 % interval of the difference in success is at most so wide (0.05 is five points).",
    ),
]  # fmt: skip


app.command()(build)


@app.command()
def demo(
    images: Annotated[int, typer.Option(min=2, help="The number of photographs.")] = 6,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each visualisation.")] = 96,
    augmentations: Annotated[
        int, typer.Option("--augmentations", "-n", min=1, help="Random variants of each image.")
    ] = 64,
    jspsych: JsPsych = "npm",
    seed: o.Seed = 0,
    out: Annotated[
        Path, typer.Option("--out", "-o", rich_help_panel=o.OUTPUT, help="Folder of the study.")
    ] = Path("spade-study"),
    progress: o.Progress = None,
) -> None:
    """Make a small study of the backdoored ImageNet network that comes with the package, in a few minutes.

    It needs the extras `study` and `imagenet`.

    Examples:
      spade-xai study demo
      spade-xai study demo --images 4 --steps 32 -o quick
    """
    from spade_xai.study.demo import build_demo
    from spade_xai.study.folder import MANIFEST

    check_outputs([out / MANIFEST], [])
    ready_folder(out)
    made = build_demo(
        out, images=images, steps=steps, augmentations=augmentations, library=jspsych, seed=seed,
        progress=reporter(progress), report=typer.echo,
    )  # fmt: skip
    typer.echo(f"{out}: {len(made.images)} images; next: spade-xai study serve {out}")


@app.command()
def serve(
    folder: Folder,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on; any other than this one is reachable from outside."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for a free one.")] = 8000,
    name: Annotated[
        list[str] | None,
        typer.Option(
            help="Host name under which raters reach the server, such as that of a proxy; may be repeated."
        ),
    ] = None,
    rate: Annotated[
        float, typer.Option(min=0.1, help="Requests per second and rater that are let through.")
    ] = 4.0,
    until_width: UntilWidth = None,
) -> None:
    """Serve a study: hand out tasks one by one, and keep every answer in STUDY/answers.sqlite.

    Examples:
      spade-xai study serve study
      spade-xai study serve study --name study.example.org --until-width 0.05
    """
    from spade_xai.study.listen import listen

    listen(
        folder,
        host=host,
        port=port,
        names=name or [],
        rate=rate,
        until_width=until_width,
        report=typer.echo,
    )


@app.command()
def report(
    folder: Folder,
    answers: Annotated[
        list[Path] | None,
        typer.Option(
            help="JSON file of answers that a rater downloaded or another host kept; may be repeated."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", rich_help_panel=o.OUTPUT, show_default="STUDY/report", help="Folder."
        ),
    ] = None,
    until_width: UntilWidth = None,
    draws: Annotated[int, typer.Option(min=100, help="The number of bootstrap draws.")] = 2000,
    seed: o.Seed = 0,
    as_json: o.AsJson = False,
) -> None:
    """Report on a study: Table 4 with 95 % intervals, agreement, time, raters; report.html, CSV and JSON files.

    Examples:
      spade-xai study report study
      spade-xai study report study --answers answers-1.json --answers answers-2.json
    """
    from spade_ext.files import read_json
    from spade_xai.study.answers import read_answers
    from spade_xai.study.folder import read_study
    from spade_xai.study.report import FILES, FORMAT, lead, percent, warnings_of, write_report
    from spade_xai.study.table import TITLES

    target = folder / "report" if out is None else out
    study = read_study(folder, check_files=False)
    check_outputs([target / "report.html", target / "report.json"], answers or [])
    ready_folder(target)
    made = write_report(
        target, study, read_answers(folder, study, answers or []), draws=draws, seed=seed
    )
    if as_json:
        value = read_json("report", target / "report.json", FORMAT)
        print_json({**value, "files": [str(target / name) for name in FILES]})
        return
    typer.echo(lead(made))
    for row in made.table:
        cells = percent(row.dense), percent(row.spade), percent(row.difference, True)
        typer.echo("  ".join([TITLES[row.name].ljust(32), *(cell.rjust(26) for cell in cells)]))
    for line in warnings_of(study, made):
        typer.echo(f"note: {line}")
    if until_width is not None:
        typer.echo(_still_needed(made.success.difference.width, until_width, len(made.raters)))
    typer.echo(f"report: {target / 'report.html'}")


@app.command()
def delete(
    folder: Folder,
    rater: Annotated[
        str, typer.Argument(help="The code that the rater was shown.", show_default=False)
    ],
) -> None:
    """Delete a rater who no longer wants to take part, with all answers, from STUDY/answers.sqlite.

    Examples:
      spade-xai study delete study 3f2a9c41d07e
    """
    from spade_xai.study.folder import ANSWERS, read_study
    from spade_xai.study.store import Store

    study = read_study(folder, check_files=False)
    store = Store(folder / ANSWERS, study)
    found = store.delete(rater)
    store.close()
    if not found:
        raise ValueError(f"no rater {rater} in {folder / ANSWERS}")
    typer.echo(f"{rater}: deleted")


@app.command()
def power(
    dense: Annotated[float, typer.Option(help="Success that is expected without SPADE.")] = 0.567,
    spade: Annotated[float, typer.Option(help="Success that is expected with SPADE.")] = 0.698,
    images: Annotated[int, typer.Option(min=2, help="Images of the study.")] = 100,
    tasks: Annotated[int, typer.Option(min=2, help="Images per rater, even.")] = 32,
    raters: Annotated[
        list[int] | None,
        typer.Option(
            min=2,
            show_default="the fewest that are enough",
            help="A number of raters; may be repeated.",
        ),
    ] = None,
    least: Annotated[float, typer.Option(min=0.05, max=0.99, help="The power to reach.")] = 0.8,
    until_width: UntilWidth = None,
    rater_spread: Annotated[
        float, typer.Option(help="Standard deviation of success between raters.")
    ] = 0.1,
    image_spread: Annotated[
        float, typer.Option(help="Standard deviation of success between images.")
    ] = 0.15,
    studies: Annotated[int, typer.Option(min=20, help="Simulated studies of each size.")] = 200,
    seed: o.Seed = 0,
    as_json: o.AsJson = False,
) -> None:
    """Say how many raters and answers a difference needs, by simulated studies with the report's own intervals.

    Examples:
      spade-xai study power
      spade-xai study power --dense 0.6 --spade 0.65 --tasks 40 --raters 50 --raters 100
      spade-xai study power --until-width 0.05
    """
    from spade_xai.study.power import Expected, raters_needed, sizes
    from spade_xai.study.power import power as power_of

    expected = Expected(dense, spade, rater_spread, image_spread)
    enough = None
    if raters:
        found = [
            power_of(expected, n, images=images, tasks=tasks, studies=studies, seed=seed)
            for n in raters
        ]
    else:
        found, enough = raters_needed(
            expected,
            images=images,
            tasks=tasks,
            least=least,
            width=until_width,
            studies=studies,
            seed=seed,
        )
    if as_json:
        needed = None if enough is None else enough.raters
        print_json({"expected": vars(expected), "sizes": sizes(found), "raters_needed": needed})
        return
    rows = [
        [
            str(p.raters),
            str(p.answers),
            f"{p.power:.2f} ± {p.error:.2f}",
            f"{100 * p.width:.1f} points",
        ]
        for p in found
    ]
    print_table(["raters", "answers", "power", "width of the interval"], rows)
    if enough is not None:
        typer.echo(
            f"{enough.raters} raters with {tasks} tasks each are enough ({enough.answers} answers)."
        )
    elif not raters:
        typer.echo(f"{found[-1].raters} raters are not enough: more images would be needed.")


def _still_needed(width: float, wanted: float, raters: int) -> str:
    if not math.isfinite(width):
        return "There are too few answers for an interval."
    if width <= wanted:
        return f"The interval of the difference is {width:.3f} wide: no more raters are needed."
    total = math.ceil(raters * (width / wanted) ** 2)
    return (
        f"The interval of the difference is {width:.3f} wide, not {wanted:g} yet; about {total} raters in all are "
        "needed if there are images enough."
    )
