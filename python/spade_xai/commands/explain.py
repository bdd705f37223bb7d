"""spade-xai explain: saliency maps of the dense and the pruned models, side by side."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from torch import Tensor

from spade_xai.attribution.methods import GRADIENT_METHODS
from spade_xai.commands import options as o
from spade_xai.commands.inputs import InputOptions, load_inputs
from spade_xai.commands.output import (
    end,
    print_fidelity,
    print_inputs,
    print_json,
    ready_folder,
    show_progress,
)
from spade_xai.commands.pruning import PruningOptions
from spade_xai.commands.signature import flat
from spade_xai.reports.explain import Explanation, class_name
from spade_xai.reports.explain import explain as explain_images
from spade_xai.reports.report import grid, html, png, write_atomically


@flat
def explain(
    inputs: InputOptions,
    *,
    class_names: o.ClassNames = None,
    masks: o.Masks = None,
    methods: o.Maps = list(GRADIENT_METHODS),  # noqa: B006
    target: Annotated[
        int | None,
        typer.Option(
            min=0, help="Class to explain. By default it is the class that the model answers."
        ),
    ] = None,
    z_box: o.ZBox = False,
    tracers: o.Tracers = ["SPADE"],  # noqa: B006
    sparsity: o.Sparsity = "faithful",
    pruning: PruningOptions,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", rich_help_panel=o.OUTPUT, help="Folder for IMAGE.png and report.html."
        ),
    ] = Path("explanations"),
    as_json: o.AsJson = False,
    progress: o.Progress = None,
) -> None:
    """Show saliency maps before and after pruning for each image: a PNG grid per image, and one HTML report.

    The report holds everything: maps, sparsity and loss of each layer, fidelity to the dense model, timings.

    Examples:
      spade-xai explain cat.jpg -m torchvision:resnet50 -w r50.pth -n 128
      spade-xai explain photos/ -m timm:resnet18 -w r18.pth -t FastSPADE -a lrp
      spade-xai explain dog.png -m mypackage.nets:make --target 3 --json
    """
    given = load_inputs(inputs, class_names, masks, target)
    ready_folder(out)
    arguments = given.trace_arguments(
        {"sparsity": o.parse_sparsity(sparsity), **pruning.arguments()}
    )
    of_name: dict[str, Tensor] = {}
    found: list[Explanation] = []
    files: list[Path] = []
    for picture in given.pictures():
        found += explain_images(
            given.model, picture.x, [picture.name], pictures=picture.image[None], target=target,
            methods=methods, tracers=tracers, z_box=z_box,
            progress=show_progress(progress), **arguments,
        )  # fmt: skip
        files.append(out / f"{picture.stem}.png")
        if picture.mask is not None:
            of_name[picture.name] = picture.mask
        write_atomically(files[-1], png(grid(found[-1], picture.mask)))
        if not as_json:
            if len(found) == 1:
                print_inputs(given)
            _print(found[-1], files[-1], given.classes)
    report = out / "report.html"
    page = html(found, title=f"SPADE: {inputs.model}", classes=given.classes, masks=of_name)
    write_atomically(report, page.encode())
    if as_json:
        pairs = zip(found, files, strict=True)
        entries = [{**result.summary(), "grid": str(file)} for result, file in pairs]
        print_json({"preprocessing": given.told(), "report": str(report), "images": entries})
    else:
        typer.echo(f"report: {report}")
    end(given)


def _print(result: Explanation, file: Path, classes: Sequence[str] | None) -> None:
    answer, explained = (class_name(classes, k) for k in (result.prediction, result.target))
    typer.echo(f"{result.name}: answer {answer}, explained {explained}, {file}")
    for tracer, fidelity in result.fidelity.items():
        print_fidelity(f"  {tracer}: ", asdict(fidelity))
