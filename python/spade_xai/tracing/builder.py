"""The trace of one sample, built layer by layer."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from spade_xai.models.layers import Layer, Unsupported
from spade_xai.tracing.layer_report import (
    LayerReport,
    left_report,
    pruned_report,
    unsupported_report,
)
from spade_xai.tracing.options import TraceOptions
from spade_xai.tracing.packed import Packed
from spade_xai.tracing.prepared import PreparedLayers
from spade_xai.tracing.pruning.method import PrunedLayer
from spade_xai.tracing.result import Trace
from spade_xai.tracing.sample import TracedSample
from spade_xai.tracing.verdict import Verdict


class TraceBuilder:
    """What was pruned for one sample so far.

    Args:
        given: The caller's model, only read.
        dense: A copy of it in which computed weights are parameters, only read.
        layers: Every chosen layer by name, in the order of the trace's reports.
        ratios: Sparsity of each layer that can be pruned.
        left_out: Status of each that cannot, and the reason.
        unsupported: Further weights that belong to no layer that can be pruned.
        options: The options of the run.
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
        options: TraceOptions,
        source: TracedSample,
    ) -> None:
        self.given, self.unsupported = given, unsupported
        self.dense, self.layers, self.ratios, self.left_out = dense, layers, ratios, left_out
        self.options, self.source = options, source
        self.packed: dict[str, Packed] = {}
        self.reports: dict[str, LayerReport] = {}
        self.verdict: Verdict | None = None
        self.prepared: PreparedLayers | None = None

    def note(
        self, layer: Layer, result: PrunedLayer, seconds: float, packed: Packed | None = None
    ) -> None:
        """Keep a layer's result, with its weights unless they are packed already."""
        if packed is None and result.weights is not None:
            packed = Packed.of(result.weights)
        if packed is not None:
            self.packed[layer.name] = packed
        asked = self.ratios.get(layer.name, 0.0)
        self.reports[layer.name] = pruned_report(
            layer, asked, result, packed, self.dense, self.options.damp, seconds
        )

    def pruned(self, model: nn.Module) -> None:
        """Write the weights so far into a model."""
        for name, packed in self.packed.items():
            like: Tensor = self.layers[name].read(model)
            self.layers[name].write(model, packed.weights().to(like))

    def trace(self, timings: Mapping[str, float], *, keep: bool = False) -> Trace:
        """The trace, with the seconds of each stage and, to keep, the prepared layers."""
        reports = []
        for name, layer in self.layers.items():
            left = "dense" if self.ratios.get(name, 0.0) == 0 else "unused"
            status, reason = self.left_out.get(name, (left, ""))
            asked = self.ratios.get(name, 0.0)
            found = self.reports.get(name)
            reports.append(found or left_report(layer, asked, status, self.dense, reason))
        reports += [unsupported_report(other) for other in self.unsupported]
        settings = {
            "method": self.options.pruning.name,
            "augment": repr(self.source.augment),
            "augmentations": self.source.augmentations,
            "damp": self.options.damp,
            "seed": self.options.seed,
        }
        return Trace(
            self.given, reports, settings, dict(timings), self.verdict, dict(self.layers), self.packed,
            _source=self.source, _prepared=self.prepared if keep else None,
        )  # fmt: skip
