"""Copies of a model that a run works with, and copies with other weights in some layers."""

import torch
from torch import Tensor, nn

from spade_ext.checks import check_device
from spade_xai.models.copies import check_model, duplicate
from spade_xai.models.layers import Layer
from spade_xai.tracing.options import check_place


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


def sparse_copy(dense: nn.Module, weights: list[tuple[Layer, Tensor]]) -> nn.Module:
    """A copy of the model in eval mode with other weights in some layers; it shares no tensor with the model."""
    sparse = duplicate(dense, share=False)
    for layer, weight in weights:
        layer.write(sparse, weight)
    return sparse
