"""The trace of one sample, built layer by layer."""

from collections.abc import Mapping, Sequence

from torch import nn

from spade_xai.models.layers import Layer, Unsupported
from spade_xai.tracing.options import Options
from spade_xai.tracing.pruning import Pruned
from spade_xai.tracing.result import LayerReport, Packed, Source, Trace


class TraceBuilder:
    """What was pruned for one sample so far.

    Args:
        given: The caller's model, only read.
        dense: A copy of it in which computed weights are parameters, only read.
        layers: Every chosen layer by name, in the order of the trace's reports.
        ratios: Sparsity of each layer that can be pruned.
        left_out: Status of each that cannot, and the reason.
        unsupported: Further weights that belong to no layer that can be pruned.
        options: Of the run.
        source: The sample.
    """

    def __init__(
        self,
        given: nn.Module,
        dense: nn.Module,
        layers: Mapping[str, Layer],
        ratios: Mapping[str, float],
        left_out: Mapping[str, tuple[str, str]],
        unsupported: Sequence[Unsupported],
        options: Options,
        source: Source,
    ) -> None:
        self.given, self.unsupported = given, unsupported
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
        seconds: float = 0.0, reason: str = "",
    ) -> LayerReport:  # fmt: skip
        packed = self.packed.get(layer.name)
        kept = len(packed.values) if packed else int(layer.read(self.dense).count_nonzero())
        got = 1 - kept / layer.numel if layer.numel else 0.0
        return LayerReport(
            layer.name, layer.rows, layer.cols, self.ratios.get(layer.name, 0.0), got, loss,
            relative, damp, seconds, status, reason,
        )  # fmt: skip

    def trace(self, timings: Mapping[str, float]) -> Trace:
        """The trace, with the seconds of each stage."""
        reports = []
        for name, layer in self.layers.items():
            left = "dense" if self.ratios.get(name, 0.0) == 0 else "unused"
            status, reason = self.left_out.get(name, (left, ""))
            reports.append(self.reports.get(name) or self._report(layer, status, reason=reason))
        for other in self.unsupported:
            zeros = other.zeros / max(1, other.rows * other.cols)
            reports.append(
                LayerReport(
                    other.name, other.rows, other.cols, 0.0, zeros, 0.0, 0.0, 0.0, 0.0, "unsupported",
                    other.reason,
                )
            )  # fmt: skip
        settings = {
            "method": self.options.method,
            "augment": repr(self.source.augment),
            "augmentations": self.source.augmentations,
            "damp": self.options.damp,
            "seed": self.options.seed,
        }
        return Trace(
            self.given, reports, settings, dict(timings), dict(self.layers), self.packed,
            self.source,
        )  # fmt: skip
