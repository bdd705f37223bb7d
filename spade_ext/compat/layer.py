"""What the drop-in classes share: the inputs of one layer and its weight as a matrix."""

from typing import NoReturn

import torch
from torch import nn

from spade_ext.accumulator import HessianAccumulator
from spade_ext.checks import check_tensor


class LayerHessian:
    """The inputs of one layer, summed as the published classes sum them: H = 2 / samples * X X^T.

    A Hessian that the caller has read or set is kept as it is, so that changes in place count. Batches that come
    later are added to it with the weight that its samples have.

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
        self._held: torch.Tensor | None = None  # [groups, D, D], of the samples before the sums
        self._samples_held = 0

    def weight(self) -> torch.Tensor:
        """[R, D] weights of the layer."""
        weight = self.layer.get_parameter("weight").data
        return weight.t() if self.transposed else weight.flatten(1)

    def add(self, function: str, inputs: torch.Tensor, matrix_is_one: bool = False) -> None:
        """Add a batch of the layer's inputs; a matrix counts as one sample, or each of its rows as one."""
        check_tensor(function, "inp", inputs)
        if inputs.ndim < 1 or not inputs.numel():
            raise ValueError(f"{function}: inp must hold a sample, got shape {tuple(inputs.shape)}")
        self.accumulator.update(inputs)
        self.samples += 1 if matrix_is_one and inputs.ndim == 2 else len(inputs)

    def hessians(self, function: str) -> torch.Tensor:
        """[groups, D, D] float32 or float64."""
        summed = self.accumulator.count > 0
        if not summed and self._held is None:
            raise RuntimeError(f"{function}: no inputs yet; call add_batch first")
        if not summed:
            assert self._held is not None
            return self._held.clone()
        sums = self.accumulator.hessian
        total = (sums if sums.ndim == 3 else sums[None]) * (2 / self.samples)
        if self._held is not None:
            total = total + self._held.to(total) * (self._samples_held / self.samples)
        return total

    def read(self, dtype: torch.dtype) -> torch.Tensor:
        """H as a tensor of which changes in place count: [D, D], or [groups, D, D] of a layer of groups."""
        shape = (self.groups, self.columns, self.columns)
        if not self.accumulator.count and self._held is None:
            held = torch.zeros(shape, device=self.weight().device)
        else:
            held = self.hessians("H")
        self._hold(held.to(dtype))
        assert self._held is not None
        return self._held if self.groups > 1 else self._held[0]

    def write(self, function: str, hessian: torch.Tensor) -> None:
        """Replace H; the count of samples stays."""
        check_tensor(function, "H", hessian, ndim=(2, 3))
        expected = (self.groups, self.columns, self.columns)
        given = hessian if hessian.ndim == 3 else hessian[None]
        if tuple(given.shape) != expected:
            raise ValueError(
                f"{function}: H must have shape {expected if self.groups > 1 else expected[1:]}, "
                f"got {tuple(hessian.shape)}"
            )
        self._hold(given)

    def _hold(self, hessian: torch.Tensor) -> None:
        self._held, self._samples_held = hessian, self.samples
        self.accumulator = HessianAccumulator(self.layer)

    def set_weight(self, layer: nn.Module, weight: torch.Tensor) -> None:
        """Give layer (of the kind of self.layer) the [R, D] weights."""
        parameter = layer.get_parameter("weight")
        shaped = (weight.t() if self.transposed else weight).reshape(parameter.shape)
        parameter.data = shaped.to(parameter.dtype)


class PublishedLayer:
    """Attributes that all published classes have, and what they can do that is not offered here.

    Attributes:
        layer: The layer.
        dev: The device of its weight.
        rows: R, its outputs.
        columns: D, the inputs of one output.
        kernel_size: The taps of a convolution's kernel, as a number; other layers have no such attribute.
        mask: None; SPADE's code reads it.
    """

    layer: nn.Module
    mask: torch.Tensor | None

    def _describe(self, layer: nn.Module, inputs: LayerHessian) -> None:
        self.layer = layer
        self.dev = inputs.weight().device
        self.rows, self.columns = inputs.rows, inputs.columns
        if isinstance(layer, nn.Conv2d):
            self.kernel_size = layer.kernel_size[0] * layer.kernel_size[1]
        self.mask = None

    @property
    def quantizer(self) -> NoReturn:
        """Not offered: this package prunes and does not quantise."""
        raise NotImplementedError(f"{type(self).__name__}.quantizer: quantisation is not offered")

    @quantizer.setter
    def quantizer(self, value: object) -> None:
        raise NotImplementedError(f"{type(self).__name__}.quantizer: quantisation is not offered")

    def quantize(self, *args: object, **kwargs: object) -> NoReturn:
        """Not offered: this package prunes and does not quantise."""
        raise NotImplementedError(f"{type(self).__name__}.quantize: quantisation is not offered")
