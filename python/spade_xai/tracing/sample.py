"""A sample as it is traced: its inputs on the device of the model, and how they are varied."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from spade_xai.models.inputs import Inputs, first_tensor, map_tensors, rebatch, take, tensors_of
from spade_xai.tracing.augment import Augmentation, augmented, vary
from spade_xai.tracing.options import TraceOptions

MOST_IN_A_PASS = 64
MOST_VALUES = 2_500_000
"""Input values in one pass on a CPU. Its C library takes what exceeds 32 MiB, as activations of more images do, from
the system each time and page by page, which costs more than most operations on it."""


@dataclass
class TracedSample:
    """What a trace is made from.

    Attributes:
        inputs: The inputs of the model, a batch.
        augment: What varies them; None: nothing does.
        augmentations: How many variants.
        seed: The seed of the variants.
        batch_size: Variants in one pass of the model.
    """

    inputs: Inputs
    augment: Augmentation | None
    augmentations: int
    seed: int
    batch_size: int = MOST_IN_A_PASS

    def variants(self, function: str, count: int | None = None) -> Iterator[Inputs]:
        """The augmentations, or the first `count` of them, in chunks; function is named in errors."""
        several = self.augmentations if count is None else count
        return augmented(function, self.inputs, self.augment, several, self.seed)

    def batches(self, function: str, count: int | None = None) -> Iterator[Inputs]:
        """The variants in batches."""
        return rebatch(self.variants(function, count), self.batch_size)


def read_sample(options: TraceOptions, sample: Any, device: torch.device) -> TracedSample:
    """The sample as inputs on the device, where it is varied too."""
    inputs, resolved = vary(options.function, sample, options.augment)
    inputs = map_tensors(inputs, lambda t: t.to(device))
    count = len(first_tensor(inputs)) if resolved is None else options.augmentations
    size = options.batch_size or default_batch_size(inputs, device)
    return TracedSample(inputs, resolved, count, options.seed, size)


def default_batch_size(inputs: Inputs, device: torch.device) -> int:
    """How many such rows pass a model on that device together if nothing is asked for."""
    if device.type != "cpu":
        return MOST_IN_A_PASS
    values = sum(t.numel() for t in tensors_of(take(inputs, slice(0, 1))))
    return max(1, min(MOST_IN_A_PASS, MOST_VALUES // max(1, values)))
