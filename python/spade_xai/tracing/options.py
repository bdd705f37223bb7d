"""Arguments of a run: checked options, a working copy of the model and samples on its device."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from spade_ext.checks import MOST_DAMP, check_device, check_range, check_seed
from spade_xai.models.copies import check_model, duplicate
from spade_xai.models.inputs import check_count, first_tensor, map_tensors
from spade_xai.models.precision import PRECISIONS
from spade_xai.tracing.augment import Augmentation, vary
from spade_xai.tracing.pruning import METHODS
from spade_xai.tracing.result import Source
from spade_xai.tracing.schedule import Sparsity


@dataclass(frozen=True)
class Options:
    """Checked arguments of a run; see trace."""

    function: str
    method: str
    sparsity: Sparsity
    augment: str | Augmentation | None
    augmentations: int
    layers: str | Iterable[str] | None
    depthwise: bool
    damp: float
    batch_size: int
    seed: int
    max_memory: int | None
    forward_precision: str = "float32"

    def __post_init__(self) -> None:
        name = self.function
        if self.method not in METHODS:
            raise ValueError(
                f"{name}: method must be one of {', '.join(METHODS)}, got {self.method!r}"
            )
        for argument in ("augmentations", "batch_size"):
            check_count(name, argument, getattr(self, argument))
        check_range(name, "damp", self.damp, 0.0, MOST_DAMP)
        check_seed(name, self.seed)
        if self.forward_precision not in PRECISIONS:
            raise ValueError(
                f"{name}: forward_precision must be one of {', '.join(PRECISIONS)}, "
                f"got {self.forward_precision!r}"
            )


def working_copy(
    function: str, model: nn.Module, device: torch.device | str | None = None
) -> nn.Module:
    """A copy of the modules that may carry hooks and other weights; it shares the model's tensors unless moved."""
    check_model(function, model)
    if device is None:
        copied = duplicate(model)
    else:
        copied = duplicate(model, share=False).to(check_place(function, device))
    first = next(copied.parameters(), None)
    if first is not None:
        check_device(function, "model", first)
    return copied


def check_place(function: str, device: torch.device | str) -> torch.device:
    """The device, if the CPU or a CUDA device of this machine."""
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError):
        place = None
    cuda = place is not None and place.type == "cuda"
    if place is None or not (place.type == "cpu" or (cuda and torch.cuda.is_available())):
        raise ValueError(
            f"{function}: device must be cpu or a CUDA device that PyTorch finds, got {device!r}"
        )
    return place


def read_sample(options: Options, sample: Any, device: torch.device) -> Source:
    """The sample as inputs on the device, where it is varied too."""
    inputs, resolved = vary(options.function, sample, options.augment)
    inputs = map_tensors(inputs, lambda t: t.to(device))
    count = len(first_tensor(inputs)) if resolved is None else options.augmentations
    return Source(inputs, resolved, count, options.seed)
