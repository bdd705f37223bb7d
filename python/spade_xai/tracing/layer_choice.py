"""Which layers a run prunes, in order of execution, and what it leaves dense for which reason."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from spade_xai.exceptions import UnprunedLayerWarning
from spade_xai.models.inputs import Inputs
from spade_xai.models.layers import (
    Layer,
    Unsupported,
    as_patterns,
    find_layers,
    find_unsupported,
    fitting,
    select_layers,
)
from spade_xai.progress import Stages
from spade_xai.tracing.hessians import execution_order
from spade_xai.tracing.options import TraceOptions

Item = TypeVar("Item", Layer, Unsupported)


@dataclass(frozen=True)
class LayerChoice:
    """The layers of a run.

    Attributes:
        everything: Every layer of the model, chosen or not.
        layers: The chosen layers that can be pruned, in order of execution.
        calls: How often a pass of the model reads each.
        left_out: Status of the layers that were chosen but cannot be pruned, and the reason.
        found: Every chosen layer by name: those of layers, then those left out.
        unsupported: The chosen weights that belong to no layer that can be pruned.
    """

    everything: list[Layer]
    layers: list[Layer]
    calls: dict[str, int]
    left_out: dict[str, tuple[str, str]]
    found: dict[str, Layer]
    unsupported: list[Unsupported]


def choose_layers(
    dense: nn.Module, model: nn.Module, inputs: Inputs, options: TraceOptions, stages: Stages
) -> LayerChoice:
    """Find the layers that the options name, and run the model once to see which it reads.

    Args:
        dense: The model whose layers these are. Not modified.
        model: The working copy that runs.
        inputs: One sample.
        options: Its layers and depthwise count here.
        stages: The time of the pass is counted.
    """
    function = options.function
    everything, others = find_layers(dense), find_unsupported(dense)
    patterns = None if options.layers is None else as_patterns(options.layers, function)
    chosen = select_layers(
        everything, patterns, depthwise=options.depthwise, function=function, unsupported=others
    )
    by_name = {layer.name: layer for layer in chosen}
    with stages.timed("forward"):
        calls, odd = execution_order(model, chosen, inputs)
    left_out = {
        name: ("unsupported", odd[name])
        if name in odd
        else ("unused", "the forward pass does not use its weight")
        for name in by_name
        if name not in calls
    }
    if not options.depthwise:
        for layer in _chosen([x for x in everything if x.depthwise], patterns):
            by_name[layer.name] = layer
            left_out[layer.name] = ("dense", "depthwise=True prunes depthwise convolutions")
    for name, reason in odd.items():
        warnings.warn(
            f"{function}: layer {name} is left dense: {reason}",
            UnprunedLayerWarning,
            stacklevel=6,
        )
    layers = [by_name[name] for name in calls]
    found = {name: by_name[name] for name in [*calls, *left_out]}
    return LayerChoice(everything, layers, calls, left_out, found, _chosen(others, patterns))


def sequential_steps(layers: Sequence[Layer]) -> list[list[Layer]]:
    """Layers in order of execution; the input projections of an attention read at once go together."""
    steps: list[list[Layer]] = []
    for layer in layers:
        before = steps[-1][-1] if steps else None
        projections = ("query", "key", "value")
        if before and layer.kind in projections and before.modules == layer.modules:
            steps[-1].append(layer)
        else:
            steps.append([layer])
    return steps


def _chosen(items: Sequence[Item], patterns: list[str] | None) -> list[Item]:
    """Those whose names a pattern takes; all without patterns."""
    if patterns is None:
        return list(items)
    names = [x.name for x in items]
    chosen = {name for pattern in patterns for name in fitting(names, pattern)}
    return [x for x in items if x.name in chosen]
