"""spade-xai estimate: what a trace takes on this machine, before it is made."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from torch import nn

from spade_xai.commands import options as o
from spade_xai.commands.inputs import InputOptions, load_inputs
from spade_xai.commands.output import end, print_inputs, print_json, print_table
from spade_xai.commands.pruning import PruningOptions
from spade_xai.commands.signature import flat
from spade_xai.commands.volume import loudness, say
from spade_xai.tracing.estimate import Estimate, rough_estimate
from spade_xai.tracing.estimate import estimate as estimate_one
from spade_xai.tracing.pruning.registry import TRACERS

SHOWN = 5  # layers that cost most


@flat
def estimate(
    inputs: InputOptions,
    *,
    tracers: o.Tracers = ["SPADE", "FastSPADE"],  # noqa: B006
    pruning: PruningOptions,
    samples: Annotated[
        int, typer.Option(min=1, show_default=True, help="How many images the total is for.")
    ] = 1,
    as_json: o.AsJson = False,
) -> None:
    """Estimate time and memory of a trace, by method, with the layers that cost most.

    Two batches of augmentations of the first image and a few rows of each kind of layer are run. Choosing faithful
    sparsities and making maps come on top.

    Examples:
      spade-xai estimate cat.jpg -m torchvision:resnet50 --augmentations 1024
      spade-xai estimate cat.jpg -m pretrained:efficientnet_lite0 -t FastSPADE --samples 21121
    """
    given = load_inputs(inputs)
    arguments = given.trace_arguments(pruning.arguments())
    picture = next(given.pictures())
    found = {
        t: estimate_one(given.model, picture.x, method=TRACERS[t], **arguments) for t in tracers
    }
    if as_json:
        print_json(
            {t: {**asdict(e), "seconds": e.seconds, "samples": samples} for t, e in found.items()}
        )
    else:
        print_inputs(given)
        print_table(
            [
                "trace",
                "augmentations",
                "set-up",
                "passes",
                "Hessians",
                "pruning",
                "all",
                f"{samples} images",
                "memory",
            ],
            [_row(tracer, e, samples) for tracer, e in found.items()],
        )
        for tracer, e in found.items():
            dearest = ", ".join(f"{x.name} {_time(x.seconds)}" for x in e.layers[:SHOWN])
            typer.echo(f"{tracer}: the layers that cost most are {dearest}")
    end(given)


def say_roughly(
    model: nn.Module, x: Any, tracers: Sequence[str], arguments: Mapping[str, Any]
) -> None:
    """Say about what a trace of x takes, in some hundredths of its time; nothing where nobody reads such lines."""
    if not loudness.lines:
        return
    options: Any = {k: v for k, v in arguments.items() if k != "sparsity"}
    for tracer in tracers:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the trace says them again
            found = rough_estimate(model, x, method=TRACERS[tracer], **options)
        say(
            f"{tracer}: about {_time(found.seconds)} and {found.bytes / 1e9:.2f} GB per image; choosing sparsities and "
            "making maps come on top"
        )


def _row(tracer: str, e: Estimate, samples: int) -> list[str]:
    passes = e.augment_seconds + e.forward_seconds
    times = (
        e.setup_seconds,
        passes,
        e.hessian_seconds,
        e.prune_seconds,
        e.seconds,
        e.seconds * samples,
    )
    return [tracer, str(e.augmentations), *map(_time, times), f"{e.bytes / 1e9:.2f} GB"]


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"
