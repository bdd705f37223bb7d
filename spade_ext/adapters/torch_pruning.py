"""An importance for Torch-Pruning: what the removal of channels costs the layers that read them.

importance = HessianImportance(model, batches)
pruner = torch_pruning.pruner.BasePruner(model, example, importance=importance, pruning_ratio=0.5)
pruner.step()
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from spade_ext.accumulator import HessianAccumulator
from spade_ext.inverse import damped_inverse
from spade_ext.layer_matrix import weight_matrix

__all__ = ["HessianImportance"]


class HessianImportance:
    """Importance of a channel: the loss 1/2 ||(W - W') X||^2 of the layers that read it, if it goes.

    With compensation it is the score of structured OBC, 1/2 tr(A_cc^-1 W_c^T W_c) with A the inverse of the damped
    H = X X^T and c the columns of the channel: the other weights of the layer make good what they can. Without it is
    1/2 tr(W_c H_cc W_c^T). Losses are divided by the layer's own ||W X||^2 and summed over the layers of a group.

    Args:
        model: Its nn.Linear and nn.Conv2d layers (of one group) are watched while it runs.
        batches: Inputs of the model: tensors, or tuples of positional arguments.
        compensate: Whether the other weights make good what they can.
        damp: Damping relative to the mean of the diagonal.

    Example:
        >>> import torch
        >>> from spade_ext.adapters.torch_pruning import HessianImportance
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 4))
        >>> importance = HessianImportance(model, [torch.randn(64, 8)])
        >>> importance.of_inputs(model[2]).shape
        torch.Size([6])
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Any],
        *,
        compensate: bool = True,
        damp: float = 0.01,
    ) -> None:
        layers: set[nn.Module] = {
            m
            for m in model.modules()
            if isinstance(m, (nn.Linear, nn.Conv2d)) and getattr(m, "groups", 1) == 1
        }
        sums = {layer: HessianAccumulator(layer) for layer in layers}

        def add(layer: nn.Module, args: tuple[Any, ...]) -> None:
            sums[layer].update(args[0].detach())

        hooks = [layer.register_forward_pre_hook(add) for layer in layers]
        training = model.training
        try:
            model.eval()
            with torch.no_grad():
                for batch in batches:
                    model(*(batch if isinstance(batch, (tuple, list)) else (batch,)))
        finally:
            model.train(training)
            for hook in hooks:
                hook.remove()
        self._costs = {
            layer: _cost_of_columns(layer, total.hessian, compensate, damp)
            for layer, total in sums.items()
            if total.count
        }

    def of_inputs(self, layer: nn.Module) -> torch.Tensor:
        """[C] cost of each input channel of a layer, relative to ||W X||^2."""
        return self._costs[layer]

    def __call__(self, group: Any, **kwargs: Any) -> torch.Tensor | None:
        """Importance of the channels of a Torch-Pruning group, or None if no layer that was watched reads them."""
        total: torch.Tensor | None = None
        for i, (dependency, indices) in enumerate(group):
            function = getattr(dependency.pruning_fn, "__name__", "")
            if function.endswith("in_channels") and dependency.layer in self._costs:
                costs = self._costs[dependency.layer]
                if total is None:
                    total = costs.new_zeros(len(group[0].idxs))
                # A linear layer behind a flattening reads several columns per channel.
                places = torch.as_tensor(group[i].root_idxs, device=costs.device)
                total.index_add_(0, places, costs[torch.as_tensor(indices, device=costs.device)])
        return total


def _cost_of_columns(
    layer: nn.Module, hessian: torch.Tensor, compensate: bool, damp: float
) -> torch.Tensor:
    """[C] for the blocks of columns of the input channels."""
    weight, h = weight_matrix(layer).double(), hessian.double()
    channels = layer.weight.shape[1] if isinstance(layer, nn.Conv2d) else weight.shape[1]
    block = weight.shape[1] // channels
    index = torch.arange(channels, device=weight.device)
    parts = weight.reshape(len(weight), channels, block).permute(1, 2, 0)
    gram = parts @ parts.transpose(1, 2)  # W_c^T W_c: [C, taps, taps]
    matrix = damped_inverse(h, damp)[0] if compensate else h
    blocks = matrix.reshape(channels, block, channels, block)[index, :, index]
    product = torch.linalg.solve(blocks, gram) if compensate else blocks @ gram
    cost = 0.5 * product.diagonal(dim1=1, dim2=2).sum(1)
    scale = (weight @ h * weight).sum().clamp_min(torch.finfo(torch.float64).tiny)
    return (cost / scale).float()
