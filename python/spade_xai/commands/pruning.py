"""The options of pruning that commands share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from spade_xai.attribution.methods import GRADIENT_METHODS, QUICK_METHODS
from spade_xai.commands import options as o
from spade_xai.tracing.options import TraceOptions


@dataclass(frozen=True)
class PruningOptions:
    """The fields of `TraceOptions` that commands take, as text of a command line."""

    augment: o.Augment = None
    quality: o.QualityOption = o.Quality.QUICK
    augmentations: o.Augmentations = None
    layers: o.Layers = None
    depthwise: o.Depthwise = TraceOptions.depthwise
    damp: o.Damp = TraceOptions.damp
    batch_size: o.BatchSize = TraceOptions.batch_size
    seed: o.Seed = TraceOptions.seed
    max_memory: o.MaxMemory = None
    device: o.Device = None
    forward_precision: o.ForwardPrecision = o.Precision.FLOAT32

    def __post_init__(self) -> None:
        if self.augmentations is None:
            count = TraceOptions.augmentations if self.paper else o.QUICK_COUNT
            object.__setattr__(self, "augmentations", count)

    @property
    def of_images(self) -> str:
        """The text of --augment, or what stands for it where images are varied."""
        return "resnet" if self.augment is None else self.augment

    @property
    def paper(self) -> bool:
        """Whether what is not given is as in the paper."""
        return self.quality is o.Quality.PAPER

    def sparsity(self, given: str | None) -> str:
        """The text of --sparsity, or what stands for it."""
        return given or ("linear:0.99" if self.paper else "faithful")

    def methods(self, given: Sequence[str] | None) -> list[str]:
        """The names of --method, or those that stand for them."""
        return list(given or (GRADIENT_METHODS if self.paper else QUICK_METHODS))

    def told(self) -> dict[str, str]:
        """What results depend on, as text."""
        rounding = ("max_memory", "batch_size", "quality")  # what changes no more than that
        told = {**vars(self), "augment": self.of_images}
        return {k: str(v) for k, v in told.items() if k not in rounding}

    def arguments(self) -> dict[str, Any]:
        """The arguments of `trace`, `trace_many` and `tune` that these texts stand for."""
        given = {k: v for k, v in vars(self).items() if k != "quality"}
        return {
            **given,
            "augment": o.parse_augment(self.of_images),
            "layers": self.layers or None,
            "forward_precision": self.forward_precision.value,
        }
