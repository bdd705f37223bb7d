"""The trace of one sample, built layer by layer."""

from collections.abc import Mapping

from torch import nn

from spade_xai.models.layers import Layer
from spade_xai.tracing.options import Options
from spade_xai.tracing.pruning import Pruned
from spade_xai.tracing.result import LayerReport, Packed, Source, Trace


class TraceBuilder:
    """What was pruned for one sample so far.

    Args:
        dense: The model that is pruned, only read.
        layers: Every chosen layer by name, in the order of the trace's reports.
        ratios: Sparsity of each layer that can be pruned.
        left_out: Status of each that cannot.
        options: Of the run.
        source: The sample.
    """

    def __init__(
        self,
        dense: nn.Module,
        layers: Mapping[str, Layer],
        ratios: Mapping[str, float],
        left_out: Mapping[str, str],
        options: Options,
        source: Source,
    ) -> None:
        self.dense, self.layers, self.ratios, self.left_out = dense, layers, ratios, left_out
        self.options, self.source = options, source
        self.packed: dict[str, Packed] = {}
        self.reports: dict[str, LayerReport] = {}

    def note(self, layer: Layer, result: Pruned, seconds: float) -> None:
        """Keep a layer's result."""
        if result.weights is None:
            status = "failed"
        else:
            self.packed[layer.name] = Packed.of(result.weights)
            status = "damped" if result.damp > self.options.damp else "pruned"
        self.reports[layer.name] = self._report(
            layer, status, result.loss, result.relative_loss, result.damp, seconds
        )

    def _report(
        self, layer: Layer, status: str, loss: float = 0.0, relative: float = 0.0, damp: float = 0.0,
        seconds: float = 0.0,
    ) -> LayerReport:  # fmt: skip
        packed = self.packed.get(layer.name)
        kept = len(packed.values) if packed else int(layer.read(self.dense).count_nonzero())
        got = 1 - kept / layer.numel if layer.numel else 0.0
        return LayerReport(
            layer.name, layer.rows, layer.cols, self.ratios.get(layer.name, 0.0), got, loss,
            relative, damp, seconds, status,
        )  # fmt: skip

    def trace(self, timings: Mapping[str, float]) -> Trace:
        """The trace, with the seconds of each stage."""
        reports = []
        for name, layer in self.layers.items():
            left = "dense" if self.ratios.get(name, 0.0) == 0 else "unused"
            status = self.left_out.get(name, left)
            reports.append(self.reports.get(name) or self._report(layer, status))
        settings = {
            "method": self.options.method,
            "augment": repr(self.source.augment),
            "augmentations": self.source.augmentations,
            "damp": self.options.damp,
            "seed": self.options.seed,
        }
        return Trace(
            self.dense, reports, settings, dict(timings), dict(self.layers), self.packed,
            self.source,
        )  # fmt: skip
