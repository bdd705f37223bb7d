"""spade-xai tune: choose each layer's sparsity on a calibration set."""

from pathlib import Path
from typing import Annotated

import typer
from torch import nn

from spade_xai.attribution.attribute import attribute, pixel_map
from spade_xai.commands import options as o
from spade_xai.commands.inputs import InputOptions, Inputs, load_inputs
from spade_xai.commands.output import print_json, print_table, ready_file, show_progress
from spade_xai.commands.pruning import PruningOptions
from spade_xai.commands.signature import flat
from spade_xai.measures import metrics
from spade_xai.reports.explain import TRACERS
from spade_xai.tracing.schedule import GRID
from spade_xai.trojans.trojan import predictions
from spade_xai.tuning.tune import Metric
from spade_xai.tuning.tune import tune as tune_model


@flat
def tune(
    inputs: InputOptions,
    *,
    masks: o.Masks = None,
    methods: o.Maps = ["saliency"],  # noqa: B006
    grid: Annotated[str, typer.Option(help="Ratios to try, joined by commas.")] = ",".join(
        map(str, GRID)
    ),
    groups: Annotated[
        list[str] | None,
        typer.Option(
            "--group",
            "-g",
            show_default="each layer",
            help="Dotted glob or re:PATTERN of layers that share a ratio, or several joined by commas; may be "
            "repeated. Layers of no group stay dense.",
        ),
    ] = None,
    tracer: o.OneTracer = o.Tracer.SPADE,
    pruning: PruningOptions,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=o.OUTPUT,
            help="File to which every score goes at once; the same command continues an interrupted run.",
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", rich_help_panel=o.OUTPUT, help="JSON file for --sparsity."),
    ] = Path("sparsity.json"),
    as_json: o.AsJson = False,
    progress: o.Progress = None,
) -> None:
    """Choose the sparsity of each layer, from the last to the first, by how good saliency maps get.

    The measure is the AUROC against --masks, or insertion without masks; of several methods, their mean. Hessians and
    elimination orders of each image are kept beside the checkpoint.

    Examples:
      spade-xai tune trojan/ --masks trojan -m my.nets:make --checkpoint run.jsonl
      spade-xai tune photos/ -m torchvision:resnet50 -w r50.pth -g 'network.layer4'
      spade-xai explain cat.jpg -m my.nets:make -s sparsity.json
    """
    given = load_inputs(inputs, masks=masks)
    ready_file(out)
    tuned = tune_model(
        given.model, given.images.split(1), map_metric(given, methods, pruning.seed),
        grid=o.parse_numbers("--grid", grid),
        groups=[group.split(",") for group in groups] if groups else None,
        method=TRACERS[tracer.value], checkpoint=checkpoint, progress=show_progress(progress),
        **pruning.arguments(),
    )  # fmt: skip
    tuned.save(out)
    if as_json:
        print_json({"file": str(out), "score": tuned.score, "sparsity": tuned.sparsity})
        return
    print_table(["layer", "sparsity"], [[n, f"{r:g}"] for n, r in tuned.sparsity.items()])
    what = "insertion" if given.masks is None else "AUROC"
    typer.echo(f"mean {what} {tuned.score:.4f}; {out}")


def map_metric(given: Inputs, methods: list[str], seed: int) -> Metric:
    """How good the maps of a sparse model are for the image it was pruned for."""
    labels = predictions(given.model, given.images)

    def score(sparse: nn.Module, index: int) -> float:
        part = slice(index, index + 1)
        x, label = given.images[part], labels[part]
        total = 0.0
        for method in methods:
            found = pixel_map(
                attribute(sparse, x, label, method, seed=seed, progress=False), method
            )
            if given.masks is None:
                total += float(metrics.insertion(given.model, x, found, label, progress=False))
            else:
                total += float(metrics.auroc(found, given.masks[part]))
        return total / len(methods)

    return score
