"""spade-xai evaluate: how good maps are before and after pruning, over many images."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from spade_xai.attribution.methods import GRADIENT_METHODS
from spade_xai.commands import options as o
from spade_xai.commands.inputs import InputOptions, load_inputs
from spade_xai.commands.output import end, print_inputs, print_json, ready_file, show_progress
from spade_xai.commands.pruning import PruningOptions
from spade_xai.commands.signature import flat
from spade_xai.reports import tables
from spade_xai.reports.evaluate import evaluate as evaluate_maps
from spade_xai.reports.report import html, write_atomically


@flat
def evaluate(
    inputs: InputOptions,
    *,
    masks: o.Masks = None,
    methods: o.Maps = list(GRADIENT_METHODS),  # noqa: B006
    z_box: o.ZBox = False,
    tracers: o.Tracers = ["SPADE", "FastSPADE"],  # noqa: B006
    sparsity: o.Sparsity = "faithful",
    pruning: PruningOptions,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", rich_help_panel=o.OUTPUT, help="HTML file for the tables."),
    ] = None,
    as_json: o.AsJson = False,
    progress: o.Progress = None,
) -> None:
    """Score saliency maps of the dense model and of its traces, with standard errors and paired differences.

    With --masks maps are scored by AUROC and the pointing game, without masks by insertion, for the class that the
    dense model answers. The trace of another image, an edge detector and random maps are scored as controls.

    Examples:
      spade-xai evaluate photos/ -m torchvision:resnet50 -w r50.pth -t FastSPADE
      spade-xai evaluate 'trojan/*.png' --masks trojan -m mypackage.nets:make
    """
    given = load_inputs(inputs, masks=masks)
    if out is not None:
        ready_file(out)
    pictures = list(given.pictures())
    images = torch.cat([picture.x for picture in pictures])
    found_masks = [picture.mask for picture in pictures if picture.mask is not None]
    planted = (images, torch.stack(found_masks)) if found_masks else None
    bars = show_progress(progress)
    found = evaluate_maps(
        given.model, planted, images if planted is None else None, methods=methods,
        tracers=tracers, controls=tracers[:1], progress=bars,
        report=(lambda line: typer.echo(line, err=True)) if bars else None,
        z_box=z_box,
        **given.trace_arguments({"sparsity": o.parse_sparsity(sparsity), **pruning.arguments()}),
    )  # fmt: skip
    record = tables.record(found)
    shown = tables.tables(record)
    if out is not None:
        page = html([], title=f"SPADE: {inputs.model}", tables=shown)
        write_atomically(out, page.encode())
    if as_json:
        print_json({"preprocessing": given.told(), **record})
    else:
        print_inputs(given)
        for table in shown:
            typer.echo(tables.text(table) + "\n")
    end(given)
