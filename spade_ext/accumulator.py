"""Sums of X X^T over batches of a layer's inputs."""

from __future__ import annotations

import torch
from torch import nn

from spade_ext._checks import compute_dtype, resolve_threads
from spade_ext._gram import add_conv2d, add_linear, check_input, check_precision, new_sum
from spade_ext.geometry import Conv2dGeometry


class HessianAccumulator:
    """Sum X X^T of a layer's inputs over batches.

    The sum is kept in float64, so that it does not depend on how the samples are split into batches.

    Args:
        layer_or_geometry: An nn.Linear, an nn.Conv2d, a transformers Conv1D, a Conv2dGeometry, or None for
            the inputs of a linear layer.
        precision: As in hessian.
        threads: CPU threads; None takes torch.get_num_threads() at each update.

    Raises:
        TypeError: Another kind of layer.
    """

    def __init__(
        self,
        layer_or_geometry: nn.Module | Conv2dGeometry | None,
        *,
        precision: str = "default",
        threads: int | None = None,
    ) -> None:
        self.geometry = _geometry_of(layer_or_geometry)
        self.precision = check_precision("HessianAccumulator", precision)
        self.threads = threads
        self.count = 0
        """Samples so far: rows of a linear layer's inputs, images of a convolution's."""
        self._sum: torch.Tensor | None = None
        self._dtype = torch.float32

    def update(self, x: torch.Tensor) -> None:
        """Add a batch of the layer's inputs: [..., D], [B, C, height, width] or [C, height, width].

        Args:
            x: Float tensor. Not modified.

        Raises:
            ValueError: Wrong shape or device, NaN or Inf; the sum is as before.
        """
        function = "HessianAccumulator.update"
        if self.geometry is not None and isinstance(x, torch.Tensor) and x.ndim == 3:
            x = x[None]
        check_input(function, x, self.geometry)
        threads = resolve_threads(function, self.threads)
        if self.geometry is None:
            groups, cols, samples = 1, x.shape[-1], x.shape[:-1].numel()
        else:
            groups, cols = self.geometry.groups, self.geometry.columns(x.shape[1])
            samples = x.shape[0]
        if self._sum is None:
            self._sum = new_sum((groups, cols, cols), x.device)
            self._dtype = compute_dtype(x)
        elif self._sum.shape[-1] != cols:
            raise ValueError(
                f"{function}: x must give {self._sum.shape[-1]} columns of H, got {cols}"
            )
        elif self._sum.device != x.device:
            raise ValueError(
                f"{function}: x must be on the device of the sum, {self._sum.device}, got {x.device}"
            )
        if self.geometry is None:
            add_linear(x, self.precision, self._sum, threads, None)
        else:
            add_conv2d(x, self.geometry, "auto", self.precision, self._sum, threads, None)
        self.count += samples

    def merge(self, other: HessianAccumulator) -> None:
        """Add the sum and the count of another accumulator of the same layer.

        Args:
            other: Not modified.

        Raises:
            ValueError: It belongs to another kind or size of layer.
        """
        function = "HessianAccumulator.merge"
        if other.geometry != self.geometry:
            raise ValueError(
                f"{function}: other must have geometry {self.geometry}, got {other.geometry}"
            )
        if other._sum is not None:
            if self._sum is None:
                self._sum, self._dtype = other._sum.clone(), other._dtype
            elif self._sum.shape != other._sum.shape:
                raise ValueError(
                    f"{function}: other must have a sum of shape {tuple(self._sum.shape)}, "
                    f"got {tuple(other._sum.shape)}"
                )
            else:
                self._sum += other._sum.to(self._sum.device)
        self.count += other.count

    @property
    def hessian(self) -> torch.Tensor:
        """H so far, [D, D] or [groups, D, D]; float64 if the inputs are, otherwise float32.

        Raises:
            RuntimeError: Before the first update.
        """
        if self._sum is None:
            raise RuntimeError("HessianAccumulator.hessian: no update yet, so the size is unknown")
        return (self._sum if len(self._sum) > 1 else self._sum[0]).to(self._dtype, copy=True)


def _geometry_of(layer: nn.Module | Conv2dGeometry | None) -> Conv2dGeometry | None:
    if layer is None or isinstance(layer, Conv2dGeometry):
        return layer
    if isinstance(layer, nn.Conv2d):
        return Conv2dGeometry.of(
            layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups,
            layer.padding_mode,
        )  # fmt: skip
    weight = getattr(layer, "weight", None)
    if isinstance(layer, nn.Linear) or (type(layer).__name__ == "Conv1D" and weight is not None):
        return None
    raise TypeError(
        "HessianAccumulator: layer_or_geometry must be an nn.Linear, nn.Conv2d, transformers Conv1D "
        f"or Conv2dGeometry, got {type(layer).__name__}"
    )
