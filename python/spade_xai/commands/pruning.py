"""The options of pruning that commands share."""

from dataclasses import dataclass
from typing import Any

from spade_xai.commands import options as o


@dataclass(frozen=True)
class PruningOptions:
    """How to vary an image and what to prune; see `trace`."""

    augment: o.Augment = "resnet"
    augmentations: o.Augmentations = 1024
    layers: o.Layers = None
    depthwise: o.Depthwise = False
    damp: o.Damp = 0.01
    batch_size: o.BatchSize = 64
    seed: o.Seed = 0
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
