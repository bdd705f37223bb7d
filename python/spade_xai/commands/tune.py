"""spade-xai tune: choose each layer's sparsity on a calibration set."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from torch import Tensor, nn

from spade_xai.commands import options as o
from spade_xai.commands.inputs import InputOptions, load_inputs
from spade_xai.commands.output import (
    end,
    print_inputs,
    print_json,
    print_table,
    ready_file,
    reporter,
)
from spade_xai.commands.pruning import PruningOptions
from spade_xai.commands.runs import check_outputs
from spade_xai.commands.signature import flat
from spade_xai.measures import metrics
from spade_xai.reports.explain import image_map
from spade_xai.tracing.file import describe
from spade_xai.tracing.pruning.registry import TRACERS
from spade_xai.tracing.schedule import GRID
from spade_xai.trojans.trojan import predictions
from spade_xai.tuning.identity import digest_of_text
from spade_xai.tuning.tune import tune as tune_model


@flat
def tune(
    inputs: InputOptions,
    *,
    masks: o.Masks = None,
    methods: o.Maps = None,
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
    z_box: o.ZBox = False,
    tracer: o.OneTracer = "SPADE",
    pruning: PruningOptions,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=o.OUTPUT,
            help="File to which every score is written at once. The same command continues an interrupted run.",
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", rich_help_panel=o.OUTPUT, help="JSON file for --sparsity."),
    ] = Path("sparsity.json"),
    as_json: o.AsJson = False,
    progress: o.Progress = None,
) -> None:
    """Choose the sparsity of each layer, from the last to the first, by how good saliency maps become.

    The measure is the AUROC against --masks, or insertion without masks. Of several methods it is their mean. Hessians
    and elimination orders of each image are kept beside the checkpoint.

    Examples:
      spade-xai tune trojan/ --masks trojan -m my.nets:make --checkpoint run.jsonl
      spade-xai tune photos/ -m torchvision:resnet50 -w r50.pth -g 'network.layer4'
      spade-xai explain cat.jpg -m my.nets:make -s sparsity.json
    """
    given = load_inputs(inputs, masks=masks)
    others = [path for path in (inputs.weights, checkpoint) if path is not None]
    check_outputs([out], [*given.paths, *given.masks, *others])
    ready_file(out)
    read = [(picture.x, picture.mask) for picture in given.pictures()]  # held to the end
    images, areas = [x for x, _ in read], [mask for _, mask in read]
    tuned = tune_model(
        given.model, images,
        MapMetric(given.model, images, areas, methods or ["saliency"], pruning.seed, z_box),
        grid=o.parse_numbers("--grid", grid),
        groups=[group.split(",") for group in groups] if groups else None,
        method=TRACERS[tracer], checkpoint=checkpoint, progress=reporter(progress),
        **given.trace_arguments(pruning.arguments()),
    )  # fmt: skip
    tuned.save(out)
    if as_json:
        print_json(
            {
                "preprocessing": given.told(),
                "file": str(out),
                "score": tuned.score,
                "sparsity": tuned.sparsity,
            }
        )
    else:
        print_inputs(given)
        print_table(["layer", "sparsity"], [[n, f"{r:g}"] for n, r in tuned.sparsity.items()])
        what = "AUROC" if given.masks else "insertion"
        typer.echo(f"mean {what} {tuned.score:.4f}; {out}")
    end(given)


class MapMetric:
    """How good the maps of a sparse model are for the image it was pruned for: AUROC, or insertion without masks."""

    def __init__(
        self,
        model: nn.Module,
        images: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        methods: Sequence[str],
        seed: int,
        z_box: bool,
    ) -> None:
        self.model, self.images, self.masks, self.methods = model, images, masks, list(methods)
        self.seed, self.z_box = seed, z_box
        self.labels = [predictions(model, x) for x in images]
        told = [None if mask is None else describe(mask) for mask in masks]
        self.identity = json.dumps(
            {
                "measure": "AUROC" if masks[0] is not None else "insertion",
                "methods": self.methods,
                "z_box": z_box,
                "masks": digest_of_text(json.dumps(told)),
            }
        )

    def __call__(self, sparse: nn.Module, index: int) -> float:
        """Mean over the methods."""
        x, mask, label = self.images[index], self.masks[index], self.labels[index]
        total = 0.0
        for method in self.methods:
            found = image_map(sparse, x, label, method, self.seed, self.z_box)
            if mask is None:
                total += float(metrics.insertion(self.model, x, found, label, progress=False))
            else:
                total += float(metrics.auroc(found, mask[None]))
        return total / len(self.methods)
