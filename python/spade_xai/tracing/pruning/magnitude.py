"""Magnitude pruning: the weights of least magnitude go, whatever the sample. A control."""

from collections.abc import Sequence

import torch
from torch import Tensor

from spade_xai.models.layers import Layer
from spade_xai.tracing.pruning.method import (
    FLOAT32,
    Prepared,
    PrunedLayer,
    PruningMethod,
    all_finite,
    failed_layer,
    layer_losses,
    pruned_layer,
)


class Magnitude(PruningMethod):
    """The floor(ratio * weights) weights of a layer with the least magnitude go; the others stay as they are."""

    name = "magnitude"
    title = "Magnitude"

    def prune_layer(
        self, prepared: Prepared, ratio: float, max_scratch: int | None = None
    ) -> PrunedLayer:
        """Cut the layer; the Hessian only tells the loss."""
        if not all_finite([prepared.hessian])[0]:
            return failed_layer(prepared.damp)
        weights = cut(prepared.weight, ratio)
        losses = layer_losses(prepared, weights).tolist()
        return pruned_layer(weights, prepared.damp, losses)

    def pruning_bytes(self, layer: Layer, samples: int) -> int:
        """Magnitudes, their order, weights and changes."""
        return 24 * layer.numel

    def cuda_pruning_bytes(self, layers: Sequence[Layer], samples: int) -> int:
        """Magnitudes, their order and changes of one layer; all weights."""
        return max(24 * x.numel for x in layers) + samples * sum(FLOAT32 * x.numel for x in layers)


def cut(weight: Tensor, ratio: float) -> Tensor:
    """A copy with zeros for the floor(ratio * numel) entries of least magnitude; ties: lowest index."""
    # 1e-9: 0.95 x 20 counts as 19, whatever its binary expansion
    count = int(ratio * weight.numel() + 1e-9)
    flat = weight.detach().flatten().clone()
    order = torch.argsort(flat.abs(), stable=True)
    return flat.index_fill_(0, order[:count], 0).reshape(weight.shape)
