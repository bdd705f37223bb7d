"""spade-xai explain: saliency maps of the dense and the pruned models, side by side."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from spade_xai.commands import options as o
from spade_xai.commands.estimate import say_roughly
from spade_xai.commands.explain_texts import explain_texts
from spade_xai.commands.inputs import MixedOptions, load_inputs
from spade_xai.commands.output import (
    end,
    print_fidelity,
    print_inputs,
    print_json,
    ready_folder,
    reporter,
)
from spade_xai.commands.pruning import PruningOptions
from spade_xai.commands.runs import RunFiles
from spade_xai.commands.signature import flat
from spade_xai.commands.text_options import PANEL, TextOptions, are_texts
from spade_xai.commands.texts import TextAsked
from spade_xai.commands.volume import say
from spade_xai.reports.answers import class_name
from spade_xai.reports.card import says, verdict
from spade_xai.reports.explain import Explanation
from spade_xai.reports.explain import explain as explain_images
from spade_xai.reports.figure import png
from spade_xai.reports.grid import grid
from spade_xai.reports.maps_file import read_maps, write_maps
from spade_xai.reports.page import write_atomically
from spade_xai.reports.report import GrowingReport


@flat
def explain(
    inputs: MixedOptions,
    *,
    class_names: o.ClassNames = None,
    masks: o.Masks = None,
    methods: o.Maps = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Explain this class, by number or name; default: the class that the model answers."
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            help="What the images are, by number or name: this class is explained beside the answer, and the "
            "difference of both maps is shown."
        ),
    ] = None,
    z_box: o.ZBox = False,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", rich_help_panel=PANEL, help="A text itself, may be repeated."),
    ] = None,
    texts: TextOptions,
    tracers: o.Tracers = ["SPADE"],  # noqa: B006
    sparsity: o.Sparsity = None,
    pruning: PruningOptions,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            rich_help_panel=o.OUTPUT,
            help="Folder for report.html, and IMAGE.png and IMAGE.safetensors, or TEXT.json.",
        ),
    ] = Path("explanations"),
    as_json: o.AsJson = False,
    progress: o.Progress = None,
) -> None:
    """Show saliency maps before and after pruning for images or texts: a PNG grid per image, and one HTML report.

    The report holds everything: maps, sparsity and loss of each layer, fidelity to the dense model, timings. Maps are
    kept as IMAGE.safetensors too. Images that an earlier run of the same command finished are kept.

    Texts go to a classifier of transformers: its tokenizer is read from the same folder. Their words are coloured by
    relevance, and one file TEXT.json holds what is found. Unless --layers and --method say otherwise, the
    classification head is pruned and the method is integrated_gradients, as in the paper.

    Examples:
      spade-xai explain cat.jpg -m torchvision:resnet50 -w r50.pth -n 128
      spade-xai explain photos/ -m timm:resnet18 -w r18.pth -t FastSPADE -a lrp
      spade-xai explain hammer.jpg -m pretrained:efficientnet_lite0 --label hammer
      spade-xai explain dog.png -m mypackage.nets:make --target 3 --json
      spade-xai explain reviews.txt -m transformers:bert-sst2/
      spade-xai explain --text "a dull film" -m transformers:bert-sst2/ -t SPADE -t FastSPADE
    """
    if text or are_texts(inputs.images):
        refused = {"--masks": masks, "--z-box": z_box, "--depthwise": pruning.depthwise}
        asked = TextAsked(
            inputs, texts, pruning, methods, sparsity, list(tracers), text or (), refused
        )
        explain_texts(
            asked, class_names=class_names, target=target, label=label, out=out, as_json=as_json,
            progress=progress,
        )  # fmt: skip
        return
    if not inputs.images:
        raise typer.BadParameter("give images, files of texts, or --text", param_hint="IMAGES")
    texts.refuse()
    methods, sparsity = pruning.methods(methods), pruning.sparsity(sparsity)
    given = load_inputs(inputs, class_names, masks, target, label)
    names = list(tracers)
    settings = {
        "command": "explain",
        "methods": list(methods),
        "target": given.target,
        "label": given.label,
        "z_box": z_box,
        "tracers": names,
    }
    files = RunFiles(given, pruning, sparsity, settings, [inputs.weights, class_names])
    report = out / "report.html"
    kinds = (".png", ".safetensors")
    files.check([report, *(out / f"{stem}{kind}" for stem in given.stems for kind in kinds)])
    ready_folder(out)
    arguments = given.trace_arguments(
        {"sparsity": o.parse_sparsity(sparsity), **pruning.arguments()}
    )
    title = f"Why this answer? {inputs.model}"
    page = GrowingReport(report, title, given.classes, len(given.paths), given.notes())
    entries: list[dict[str, Any]] = []
    given.to(pruning.device)
    bars, estimated = reporter(progress), False
    for number, picture in enumerate(given.pictures(), 1):
        say(f"image {number} of {len(given.paths)}: {picture.name}")
        grid_file, maps_file = (out / f"{picture.stem}{kind}" for kind in kinds)
        key = files.key(picture.name, [picture.x, picture.mask])
        found = _finished(maps_file, key) if grid_file.exists() else None
        if found is None:
            if not estimated:
                say_roughly(given.model, picture.x, names, arguments)
                estimated = True
            (found,) = explain_images(
                given.model, picture.x, [picture.name], pictures=picture.image[None],
                target=given.target, label=given.label,
                methods=methods, tracers=names, z_box=z_box,
                progress=bars, **arguments,
            )  # fmt: skip
            write_atomically(grid_file, png(grid(found, picture.mask, given.classes)))
            write_maps(maps_file, found, picture.mask, {"run": key, "preprocessing": given.told()})
        page.add(found, picture.mask)
        entries.append({**found.summary(), "grid": str(grid_file), "maps": str(maps_file)})
        if not as_json:
            if len(entries) == 1:
                print_inputs(given)
            _print(found, grid_file, given.classes)
    page.close()
    if as_json:
        print_json({"preprocessing": given.told(), "report": str(report), "images": entries})
    else:
        typer.echo(f"report: {report}")
    end(given)


def _finished(path: Path, key: str) -> Explanation | None:
    """The explanation in a file, if a run of the same settings wrote it for the same image."""
    try:
        found, _, texts = read_maps(path)
    except (FileNotFoundError, ValueError):  # missing, damaged or of another kind
        return None
    return found if texts.get("run") == key else None


def _print(result: Explanation, file: Path, classes: Sequence[str] | None) -> None:
    explained = class_name(classes, result.target)
    typer.echo(f"{result.name}: {says(result, classes)} Explained: {explained}. {file}")
    for tracer, fidelity in result.fidelity.items():
        typer.echo(f"  {verdict(tracer, fidelity, classes)}")
        print_fidelity(f"  {tracer}: ", asdict(fidelity))
