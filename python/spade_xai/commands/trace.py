"""spade-xai trace: prune a model for each image and write the traces."""

from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import Tensor

from spade_xai.commands import options as o
from spade_xai.commands.inputs import InputOptions, Picture, load_inputs
from spade_xai.commands.output import (
    end,
    print_fidelity,
    print_inputs,
    print_json,
    print_table,
    ready_folder,
    reporter,
)
from spade_xai.commands.pruning import PruningOptions
from spade_xai.commands.runs import RunFiles
from spade_xai.commands.signature import flat
from spade_xai.reports.explain import short_fidelity
from spade_xai.tracing.fidelity import spoken
from spade_xai.tracing.file import read_further, save_trace
from spade_xai.tracing.pruning.registry import TRACERS
from spade_xai.tracing.result import Trace
from spade_xai.tracing.trace import trace as trace_one
from spade_xai.tracing.trace import trace_many


@flat
def trace(
    inputs: InputOptions,
    *,
    tracer: o.OneTracer = "SPADE",
    sparsity: o.Sparsity = None,
    pruning: PruningOptions,
    sequential: Annotated[
        bool,
        typer.Option(
            "--sequential",
            rich_help_panel=o.PRUNING,
            help="Prune each layer for the inputs that the sparse layers before it give.",
        ),
    ] = False,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", rich_help_panel=o.OUTPUT, help="Folder for the traces."),
    ] = Path("traces"),
    as_json: o.AsJson = False,
    progress: o.Progress = None,
) -> None:
    """Prune a model for each image, and write what is left of it as IMAGE.safetensors.

    spade_xai.load_trace reads these files. SPADE uses exact OBC, FastSPADE uses SparseGPT for 25 images at once. Images
    that an earlier run of the same command finished are kept.

    Examples:
      spade-xai trace cat.jpg -m torchvision:resnet50 -w r50.pth -t FastSPADE
      spade-xai trace photos/ -m timm:convnext_tiny --augment convnext -n 512
      spade-xai trace 'photos/*.png' -m mypackage.nets:make -s 0.9 --json
    """
    sparsity = pruning.sparsity(sparsity)
    given = load_inputs(inputs)
    arguments = given.trace_arguments(
        {
            "method": TRACERS[tracer],
            "sparsity": o.parse_sparsity(sparsity),
            "progress": reporter(progress),
            **pruning.arguments(),
        }
    )
    settings = {"command": "trace", "tracer": tracer, "sequential": sequential}
    files = RunFiles(given, pruning, sparsity, settings, [inputs.weights])
    files.check(out / f"{stem}.safetensors" for stem in given.stems)
    ready_folder(out)
    results: dict[str, dict[str, Any]] = {}

    def done(picture: Picture, path: Path) -> None:
        results[picture.name] = _summary(picture.name, path)
        if not as_json:
            if len(results) == 1:
                print_inputs(given)
            _print(results[picture.name])

    read: deque[Picture] = deque()  # but not yet traced: at most a group

    def samples() -> Iterator[Tensor]:
        for picture in given.pictures():
            path = out / f"{picture.stem}.safetensors"
            if _is_done(path, files.key(picture.name, [picture.x])):
                done(picture, path)
                continue
            read.append(picture)
            yield picture.x

    traces: Iterator[Trace] = trace_many(given.model, samples(), **arguments)
    if sequential:
        traces = (trace_one(given.model, x, sequential=True, **arguments) for x in samples())
    for found in traces:
        picture = read.popleft()
        path = out / f"{picture.stem}.safetensors"
        key = files.key(picture.name, [picture.x])
        save_trace(found, path, {"run": key, "fidelity": asdict(short_fidelity(found))})
        done(picture, path)
    if as_json:
        print_json([results[name] for name in given.names if name in results])
    end(given)


def _is_done(path: Path, key: str) -> bool:
    """Whether a file is the trace of an image by a run of the same settings."""
    try:
        return bool(read_further(path)[2].get("run") == key)
    except (FileNotFoundError, ValueError):  # missing, damaged or of another kind
        return False


def _summary(name: str, path: Path) -> dict[str, Any]:
    layers, timings, further = read_further(path)
    return {
        "image": name,
        "file": str(path),
        "layers": [asdict(layer) for layer in layers],
        **spoken(further["fidelity"]),
        "fidelity": further["fidelity"],
        "seconds": timings,
    }


def _print(summary: dict[str, Any]) -> None:
    typer.echo(f"{summary['image']}: {summary['file']}")
    print_table(
        ["layer", "rows", "columns", "asked", "got", "relative loss", "status"],
        [
            [
                x["name"], str(x["rows"]), str(x["cols"]), f"{x['sparsity_asked']:.2f}",
                f"{x['sparsity_got']:.3f}", f"{x['relative_loss']:.1e}", x["status"],
            ]
            for x in summary["layers"]
        ],
    )  # fmt: skip
    print_fidelity("", summary["fidelity"])
    seconds = ", ".join(f"{stage} {value:.2f} s" for stage, value in summary["seconds"].items())
    typer.echo(f"{seconds}\n")
