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
    Report,
    all_finite,
    failed_layer,
    layer_losses,
    pruned_layer,
)


class Magnitude(PruningMethod):
    """The floor(ratio * weights) weights of a layer with the least magnitude go; the others stay as they are."""

    name = "magnitude"
    title = "Magnitude"

    def prepare(
        self,
        layer: Layer,
        weight: Tensor,
        hessian: Tensor,
        damp: float,
        progress: Report | None = None,
    ) -> Prepared:
        """Nothing is done; the Hessian only tells the loss."""
        return Prepared(layer, weight, hessian, damp)

    def prune(
        self,
        prepared: Sequence[Prepared],
        ratios: Sequence[float],
        progress: Report | None = None,
    ) -> list[PrunedLayer]:
        """Cut each layer."""
        results = []
        for x, ratio in zip(prepared, ratios, strict=True):
            if not all_finite([x.hessian])[0]:
                results.append(failed_layer(x.damp))
                continue
            weights = cut(x.weight, ratio)
            losses = layer_losses(x.weight, weights, x.hessian).tolist()
            results.append(pruned_layer(weights, x.damp, losses))
        return results

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
