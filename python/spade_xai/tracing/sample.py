"""A sample as it is traced: its inputs on the device of the model, and how they are varied."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from spade_xai.models.inputs import Inputs, first_tensor, map_tensors, rebatch
from spade_xai.tracing.augment import Augmentation, augmented, vary
from spade_xai.tracing.options import TraceOptions


@dataclass
class TracedSample:
    """What a trace is made from.

    Attributes:
        inputs: The inputs of the model, a batch.
        augment: What varies them; None: nothing does.
        augmentations: How many variants.
        seed: The seed of the variants.
    """

    inputs: Inputs
    augment: Augmentation | None
    augmentations: int
    seed: int

    def variants(self, function: str, count: int | None = None) -> Iterator[Inputs]:
        """The augmentations, or the first `count` of them, in chunks; function is named in errors."""
        several = self.augmentations if count is None else count
        return augmented(function, self.inputs, self.augment, several, self.seed)

    def batches(self, function: str, size: int, count: int | None = None) -> Iterator[Inputs]:
        """The variants in batches of a size."""
        return rebatch(self.variants(function, count), size)


def read_sample(options: TraceOptions, sample: Any, device: torch.device) -> TracedSample:
    """The sample as inputs on the device, where it is varied too."""
    inputs, resolved = vary(options.function, sample, options.augment)
    inputs = map_tensors(inputs, lambda t: t.to(device))
    count = len(first_tensor(inputs)) if resolved is None else options.augmentations
    return TracedSample(inputs, resolved, count, options.seed)
