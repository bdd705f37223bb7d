"""spade-xai visualize: what a neuron responds to, in the dense model and in the traces of images."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from spade_xai.commands import options as o
from spade_xai.commands.inputs import InputOptions, Inputs, load_inputs
from spade_xai.commands.output import end, print_json, ready_folder, reporter
from spade_xai.commands.pruning import PruningOptions
from spade_xai.commands.runs import check_outputs
from spade_xai.commands.signature import flat
from spade_xai.features.visualize import PARAMETRIZATIONS
from spade_xai.reports.answers import class_name
from spade_xai.reports.facets import facet_page, facets
from spade_xai.reports.figure import PICTURE_FORMAT
from spade_xai.reports.page import write_atomically, write_page
from spade_xai.trojans.trojan import predictions


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(InputOptions):
    """Which model, and which images if any."""

    images: o.OptionalImages = None  # type: ignore[assignment]


def _check_parametrization(name: str) -> str:
    if name not in PARAMETRIZATIONS[:2]:
        raise typer.BadParameter(f"it is fourier or maco, got {name!r}")
    return name


@flat
def visualize(
    inputs: NetworkOptions,
    *,
    class_names: o.ClassNames = None,
    neuron: Annotated[
        str | None,
        typer.Option(
            "--neuron",
            "-k",
            show_default="the answer to the first image",
            help="Number of an output or of a layer's channel, or name of a class.",
        ),
    ] = None,
    layer: Annotated[
        str | None, typer.Option("--layer", show_default="the outputs", help="Name of a module.")
    ] = None,
    position: Annotated[
        str | None,
        typer.Option(show_default="mean over all", help="ROW,COLUMN of the layer's map, or PLACE."),
    ] = None,
    count: Annotated[
        int, typer.Option(min=1, help="The number of visualisations of each model.")
    ] = 1,
    steps: Annotated[
        int, typer.Option(min=1, help="The number of steps of the optimisation.")
    ] = 512,
    rate: Annotated[float, typer.Option(min=0, help="The learning rate.")] = 0.05,
    parametrization: Annotated[
        str,
        typer.Option(
            callback=_check_parametrization,
            help="fourier, or maco, which keeps the spectrum of photographs and optimises phases only.",
        ),
    ] = "fourier",
    transforms: Annotated[
        bool, typer.Option(help="Shift, scale and rotate at random before each step.")
    ] = True,
    tracer: o.OneTracer = "SPADE",
    sparsity: o.Sparsity = None,
    pruning: PruningOptions,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", rich_help_panel=o.OUTPUT, help="Folder for PNG files and report.html."
        ),
    ] = Path("visualizations"),
    as_json: o.AsJson = False,
    progress: o.Progress = None,
) -> None:
    """Show what a neuron responds to, in the whole network and in the network pruned for each image.

    Examples:
      spade-xai visualize -m pretrained:efficientnet_lite0 -k "king penguin"
      spade-xai visualize penguin1.jpg penguin2.jpg -m pretrained:efficientnet_lite0 -n 128
      spade-xai visualize -m pretrained:efficientnet_lite0 --layer blocks.8 -k 12 --position 7,7
    """
    sparsity = pruning.sparsity(sparsity)
    given = load_inputs(inputs, class_names)
    chosen = _neuron(neuron, layer, given)
    stems_all = ["dense", *(f"trace_{stem}" for stem in given.stems)]
    ends = [".png"] if count == 1 else [f"_{k}.png" for k in range(count)]
    check_outputs(
        [out / "report.html", *(out / f"{stem}{end_}" for stem in stems_all for end_ in ends)],
        [*given.paths, *(path for path in (inputs.weights, class_names) if path is not None)],
    )
    ready_folder(out)
    visualization = {
        "steps": steps,
        "rate": rate,
        "parametrization": parametrization,
        "transforms": "lucid" if transforms else None,
        "position": None
        if position is None
        else [int(n) for n in o.parse_numbers("--position", position)],
    }
    arguments = given.trace_arguments(
        {"sparsity": o.parse_sparsity(sparsity), **pruning.arguments()}
    )
    stems, shape = ["dense"], tuple(given.example().shape[1:])

    def samples() -> Iterator[tuple[str, Tensor, Tensor]]:
        for picture in given.pictures():
            stems.append(f"trace_{picture.stem}")
            yield picture.name, picture.image, picture.x

    found = facets(
        given.model, samples(), chosen, shape, layer=layer, tracer=tracer, count=count,
        preprocessing=given.preprocessing, visualization=visualization,
        progress=reporter(progress), report=None if as_json else typer.echo, **arguments,
    )  # fmt: skip
    files = []
    for stem, facet in zip(stems, found, strict=True):
        for k, image in enumerate(facet.found):
            files.append(out / (f"{stem}.png" if count == 1 else f"{stem}_{k}.png"))
            write_atomically(files[-1], _as_png(image))
    name = class_name(given.classes, chosen) if layer is None else f"channel {chosen} of {layer}"
    page = facet_page(found, name, tracer=tracer, classes=given.classes)
    write_page(out / "report.html", page)
    if as_json:
        entries = [
            {
                "name": facet.name,
                "confidence": facet.confidence,
                "answers": facet.answers and list(facet.answers),
                "faithful": facet.fidelity is None or facet.fidelity.faithful,
            }
            for facet in found
        ]
        print_json(
            {
                "report": str(out / "report.html"),
                "neuron": chosen,
                "layer": layer,
                "facets": entries,
                "files": [str(file) for file in files],
            }
        )
        end(given)
        return
    for facet in found:
        kept = ""
        if facet.fidelity is not None and not facet.fidelity.faithful:
            kept = f"; NOT FAITHFUL: {'; '.join(facet.fidelity.reasons)}"
        sure = "" if facet.confidence is None else f": probability of {name} {facet.confidence:.2f}"
        typer.echo(f"{facet.name}{sure}{kept}")
    typer.echo(f"report: {out / 'report.html'}")
    end(given)


def _neuron(text: str | None, layer: str | None, given: Inputs) -> int:
    if text is None:
        if layer is not None or not given.paths:
            raise ValueError("--neuron must be given for a layer, and where there are no images")
        return int(predictions(given.model, given.example()))
    if text.isdecimal():
        return int(text)
    classes: Sequence[str] = given.classes or ()
    if layer is None and text in classes:
        return classes.index(text)
    raise ValueError(f"--neuron must be a number or the name of a class, got {text!r}")


def _as_png(image: Tensor) -> bytes:
    buffer = io.BytesIO()
    pixels = (image * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    about = PngInfo()
    about.add_text("Source", PICTURE_FORMAT)
    Image.fromarray(pixels).save(buffer, "png", pnginfo=about)
    return buffer.getvalue()
