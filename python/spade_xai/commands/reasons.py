"""spade-xai reasons: groups of pictures that the same connections decide."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from spade_xai.commands import options as o
from spade_xai.commands.inputs import InputOptions, load_inputs
from spade_xai.commands.output import end, print_inputs, print_json, ready_file, reporter
from spade_xai.commands.pruning import PruningOptions
from spade_xai.commands.runs import check_outputs
from spade_xai.commands.signature import flat
from spade_xai.features.reasons import reasons as find_reasons
from spade_xai.reports.page import write_page
from spade_xai.reports.reasons import reasons_page
from spade_xai.tracing.pruning.registry import TRACERS


@flat
def reasons(
    inputs: InputOptions,
    *,
    class_names: o.ClassNames = None,
    groups: Annotated[
        int | None,
        typer.Option(min=1, show_default="found", help="How many groups to make."),
    ] = None,
    tracer: o.OneTracer = "SPADE",
    sparsity: o.Sparsity = None,
    pruning: PruningOptions,
    out: Annotated[
        Path, typer.Option("--out", "-o", rich_help_panel=o.OUTPUT, help="HTML file.")
    ] = Path("reasons.html"),
    as_json: o.AsJson = False,
    progress: o.Progress = None,
) -> None:
    """Group pictures by the connections that decide them: run the trace of each picture on all pictures.

    Examples:
      spade-xai reasons photos/ -m pretrained:efficientnet_lite0 -n 64
      spade-xai reasons photos/ -m torchvision:resnet50 -w r50.pth -t FastSPADE --groups 4 --json
    """
    sparsity = pruning.sparsity(sparsity)
    given = load_inputs(inputs, class_names)
    check_outputs([out], [*given.paths])
    ready_file(out)
    pictures = list(given.pictures())
    arguments = given.trace_arguments(
        {"sparsity": o.parse_sparsity(sparsity), **pruning.arguments()}
    )
    found = find_reasons(
        given.model, torch.cat([picture.x for picture in pictures]), groups=groups,
        method=TRACERS[tracer], progress=reporter(progress), **arguments,
    )  # fmt: skip
    names = [picture.name for picture in pictures]
    page = reasons_page(
        found, [picture.image for picture in pictures], names, tracer=tracer, classes=given.classes
    )  # fmt: skip
    write_page(out, page)
    if as_json:
        print_json(
            {
                "preprocessing": given.told(),
                "report": str(out),
                "names": names,
                "answers": found.answers.tolist(),
                "groups": found.groups.tolist(),
                "kept": found.kept.tolist(),
                "faithful": found.faithful.tolist(),
                "kept_within_groups": found.within(),
                "kept_across_groups": found.across(),
            }
        )
    else:
        print_inputs(given)
        for number in range(int(found.groups.max()) + 1):
            members = [n for n, g in zip(names, found.groups.tolist(), strict=True) if g == number]
            typer.echo(f"group {number + 1}: {', '.join(members)}")
        doubtful = [n for n, f in zip(names, found.faithful.tolist(), strict=True) if not f]
        if doubtful:
            typer.echo(f"NOT FAITHFUL, so their groups say nothing: {', '.join(doubtful)}")
        typer.echo(f"report: {out}")
    end(given)
