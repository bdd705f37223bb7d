"""The options of pruning that commands share."""

from dataclasses import dataclass
from typing import Any

from spade_xai.commands import options as o
from spade_xai.tracing.options import TraceOptions


@dataclass(frozen=True)
class PruningOptions:
    """The fields of `TraceOptions` that commands take, as text of a command line."""

    augment: o.Augment = "resnet"
    augmentations: o.Augmentations = TraceOptions.augmentations
    layers: o.Layers = None
    depthwise: o.Depthwise = TraceOptions.depthwise
    damp: o.Damp = TraceOptions.damp
    batch_size: o.BatchSize = TraceOptions.batch_size
    seed: o.Seed = TraceOptions.seed
    max_memory: o.MaxMemory = None
    device: o.Device = None
    forward_precision: o.ForwardPrecision = o.Precision.FLOAT32

    def arguments(self) -> dict[str, Any]:
        """The arguments of `trace`, `trace_many` and `tune` that these texts stand for."""
        return {
            **vars(self),
            "augment": o.parse_augment(self.augment),
            "layers": self.layers or None,
            "forward_precision": self.forward_precision.value,
        }
