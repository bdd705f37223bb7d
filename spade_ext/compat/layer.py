"""What the drop-in classes share: the inputs of one layer and its weight as a matrix."""

import torch
from torch import nn

from spade_ext._checks import check_tensor
from spade_ext.accumulator import HessianAccumulator


class LayerHessian:
    """Inputs of one layer summed as the published classes do: H = 2 / samples * X X^T.

    Args:
        layer: nn.Linear, nn.Conv2d or transformers Conv1D.
    """

    def __init__(self, layer: nn.Module) -> None:
        if not isinstance(layer, nn.Module):
            raise TypeError(f"compat: layer must be an nn.Module, got {type(layer).__name__}")
        self.layer = layer
        self.accumulator = HessianAccumulator(layer)
        self.groups = int(getattr(layer, "groups", 1))
        self.transposed = type(layer).__name__ == "Conv1D"
        self.rows, self.columns = self.weight().shape
        self.samples = 0

    def weight(self) -> torch.Tensor:
        """[R, D] weights of the layer."""
        weight = self.layer.get_parameter("weight").data
        return weight.t() if self.transposed else weight.flatten(1)

    def add(self, function: str, inputs: torch.Tensor, matrix_is_one: bool = False) -> None:
        """Add a batch of the layer's inputs; a matrix counts as one sample or as one a row."""
        check_tensor(function, "inp", inputs)
        if inputs.ndim < 1 or not inputs.numel():
            raise ValueError(f"{function}: inp must hold a sample, got shape {tuple(inputs.shape)}")
        self.accumulator.update(inputs)
        self.samples += 1 if matrix_is_one and inputs.ndim == 2 else len(inputs)

    def hessians(self, function: str) -> torch.Tensor:
        """[groups, D, D] float32 or float64."""
        if not self.samples:
            raise RuntimeError(f"{function}: no inputs yet; call add_batch first")
        sums = self.accumulator.hessian
        return (sums if sums.ndim == 3 else sums[None]) * (2 / self.samples)

    def set_weight(self, layer: nn.Module, weight: torch.Tensor) -> None:
        """Give layer (of the kind of self.layer) the [R, D] weights."""
        parameter = layer.get_parameter("weight")
        shaped = (weight.t() if self.transposed else weight).reshape(parameter.shape)
        parameter.data = shaped.to(parameter.dtype)
