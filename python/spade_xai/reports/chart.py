"""The chart of each layer's sparsity."""

from collections.abc import Mapping, Sequence
from typing import Any

from spade_xai.reports.figure import BAD, Picture, figure_of
from spade_xai.tracing.layer_report import LayerReport


def sparsity_chart(layers: Mapping[str, Sequence[LayerReport]]) -> Picture:
    """Share of zero weights of each layer as they stand in the model, one line per trace; crosses were left dense."""
    count = len(next(iter(layers.values())))
    figure = figure_of(max(5.0, 0.22 * count + 1.5), 3.2)
    draw_sparsity(figure.subplots(), layers)
    return figure


def draw_sparsity(axis: Any, layers: Mapping[str, Sequence[LayerReport]]) -> None:
    """The chart, into axes that are there."""
    names = [layer.name for layer in next(iter(layers.values()))]
    for tracer, reports in layers.items():
        pruned = [k for k, layer in enumerate(reports) if not layer.reason]
        got = [reports[k].sparsity_got for k in pruned]
        axis.plot(pruned, got, marker="o", ms=3, label=tracer)
    left = [k for k, layer in enumerate(next(iter(layers.values()))) if layer.reason]
    if left:
        axis.plot(left, [0.0] * len(left), "x", color=BAD, ms=4, label="left dense")
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
    axis.set_ylim(-0.02, 1.02)
    axis.set_ylabel("share of zero weights")
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
