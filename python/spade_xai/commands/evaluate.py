"""spade-xai evaluate: how good maps are before and after pruning, over many images."""

import functools
from pathlib import Path
from typing import Annotated

import typer

from spade_ext.files import write_json
from spade_xai.commands import options as o
from spade_xai.commands.inputs import InputOptions, load_inputs
from spade_xai.commands.output import (
    end,
    finite,
    print_inputs,
    print_json,
    ready_folder,
    reporter,
)
from spade_xai.commands.pruning import PruningOptions
from spade_xai.commands.records import RecordFiles, SampleList, tensors_of
from spade_xai.commands.runs import RunFiles
from spade_xai.commands.signature import flat
from spade_xai.commands.volume import say
from spade_xai.reports import tables
from spade_xai.reports.evaluate import Evaluation, records_of
from spade_xai.reports.explain import DENSE
from spade_xai.reports.page import write_page
from spade_xai.reports.report import html
from spade_xai.reports.scores import Scoring, Work


@flat
def evaluate(
    inputs: InputOptions,
    *,
    masks: o.Masks = None,
    methods: o.Maps = None,
    z_box: o.ZBox = False,
    tracers: o.Tracers = ["SPADE", "FastSPADE"],  # noqa: B006
    sparsity: o.Sparsity = None,
    pruning: PruningOptions,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            rich_help_panel=o.OUTPUT,
            help="Folder for report.html, scores.json and the scores of each image.",
        ),
    ] = None,
    as_json: o.AsJson = False,
    progress: o.Progress = None,
) -> None:
    """Score saliency maps of the dense model and of its traces, with standard errors and paired differences.

    With --masks maps are scored by AUROC and the pointing game, without masks by insertion and deletion, for the
    class that the dense model answers. The trace of another image, an edge detector and random maps are scored as
    controls. With --out, what an earlier run of the same command finished is kept.

    Examples:
      spade-xai evaluate photos/ -m torchvision:resnet50 -w r50.pth -t FastSPADE
      spade-xai evaluate 'trojan/*.png' --masks trojan -m mypackage.nets:make
    """
    methods, sparsity = pruning.methods(methods), pruning.sparsity(sparsity)
    given = load_inputs(inputs, masks=masks)
    given.to(pruning.device)
    names = list(tracers)
    bars = reporter(progress)
    arguments = given.trace_arguments(
        {"sparsity": o.parse_sparsity(sparsity), **pruning.arguments()}
    )
    seed = arguments.pop("seed")
    scoring = Scoring(given.model, methods, seed, z_box, bars, arguments)
    usable = given.usable()
    store = None
    if out is not None:
        settings = {"command": "evaluate", "methods": list(methods), "z_box": z_box}
        files = RunFiles(given, pruning, sparsity, settings, [inputs.weights])
        stems = [given.stems[k] for k in usable]

        def path(part: str, place: int) -> Path:
            return out / "samples" / f"{stems[place]}.{part}.json"

        store = RecordFiles(path, functools.partial(_key, files))
        pages = [out / "report.html", out / "scores.json"]
        files.check([*pages, *(path(p, k) for p in ("dense", *names) for k in range(len(stems)))])
        ready_folder(out / "samples")

    def part_begins(part: str) -> None:
        say(f"{'maps of the whole network' if part == DENSE else part}: {len(usable)} images")

    records = records_of(scoring, SampleList(given, usable), names, names[:1], store, part_begins)
    found = Evaluation({}, {name: [] for name in names})
    found.add(records, methods)
    record = tables.record(found)
    shown = tables.tables(record)
    if out is not None:
        write_page(out / "report.html", html([], title=f"SPADE: {inputs.model}", tables=shown))
        about = {"preprocessing": given.told(), "images": [given.names[k] for k in usable]}
        write_json(out / "scores.json", "spade_xai.Evaluation.1", finite({**about, **record}))
    if as_json:
        print_json({"preprocessing": given.told(), **record})
    else:
        print_inputs(given)
        for table in shown:
            typer.echo(tables.text(table) + "\n")
    end(given)


def _key(files: RunFiles, part: str, work: Work) -> str:
    place = work.place if part == DENSE else ""  # of the draws of noise
    return files.key(f"{part} {place}", tensors_of(work))
