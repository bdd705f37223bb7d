"""Sums of X X^T over batches of a layer's inputs."""

from __future__ import annotations

import torch
from torch import nn

from spade_ext._gram import (
    add_conv2d,
    add_linear,
    are_sums_right,
    check_input,
    check_precision,
    new_sum,
    rounded,
)
from spade_ext.checks import compute_dtype, resolve_threads
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

    Example:
        >>> import torch, spade_ext
        >>> layer = torch.nn.Conv2d(16, 32, 3, padding=1)
        >>> accumulator = spade_ext.HessianAccumulator(layer)
        >>> for _ in range(4):
        ...     accumulator.update(torch.randn(8, 16, 28, 28))
        >>> accumulator.count, accumulator.hessian.shape
        (32, torch.Size([144, 144]))
    """

    def __init__(
        self,
        layer_or_geometry: nn.Module | Conv2dGeometry | None,
        *,
        precision: str = "default",
        threads: int | None = None,
    ) -> None:
        self.geometry, self._columns = _geometry_of(layer_or_geometry)
        self.precision = check_precision("HessianAccumulator", precision)
        if threads is not None:
            resolve_threads("HessianAccumulator", threads)
        self.threads = threads
        self.count = 0
        """How many samples were added, which are rows of a linear layer's inputs or images of a convolution's."""
        self._sum: torch.Tensor | None = None
        self._dtype = torch.float32
        self._right: torch.Tensor | None = None  # of all inputs on CUDA, see are_sums_right

    def update(self, x: torch.Tensor) -> None:
        """Add a batch of the layer's inputs: [..., D], [B, C, height, width] or [C, height, width].

        Args:
            x: Float tensor. Not modified.

        Raises:
            TypeError: x is not a tensor of floats.
            ValueError: Wrong shape or device, NaN or Inf; the sum is as before. On CUDA NaN and Inf are found when
                `hessian` is read, so that nothing waits for the device here.
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
        if self._columns not in (None, cols):
            raise ValueError(f"{function}: x must give {self._columns} columns of H, got {cols}")
        total = self._sum
        if total is None:
            with torch.inference_mode(False):  # else merge could not add to it outside that mode
                total = new_sum((groups, cols, cols), x.device)
        elif total.device != x.device:
            raise ValueError(
                f"{function}: x must be on the device of the sum, {total.device}, got {x.device}"
            )
        if self.geometry is None:
            add_linear(function, x, self.precision, total, threads, None)
        else:
            add_conv2d(function, x, self.geometry, "auto", self.precision, total, threads, None)
        if x.is_cuda:
            right = are_sums_right(x)
            self._right = right if self._right is None else self._right & right
        self._sum, self._columns = total, cols
        self._dtype = torch.promote_types(self._dtype, compute_dtype(x))
        self.count += samples

    def merge(self, other: HessianAccumulator) -> None:
        """Add the sum and the count of another accumulator of the same layer.

        Args:
            other: Not modified.

        Raises:
            TypeError: other is not a HessianAccumulator.
            ValueError: other belongs to another kind or size of layer.
        """
        function = "HessianAccumulator.merge"
        if not isinstance(other, HessianAccumulator):
            raise TypeError(
                f"{function}: other must be a HessianAccumulator, got {type(other).__name__}"
            )
        if other.geometry != self.geometry:
            raise ValueError(
                f"{function}: other must have geometry {self.geometry}, got {other.geometry}"
            )
        if None not in (self._columns, other._columns) and self._columns != other._columns:
            raise ValueError(
                f"{function}: other must give {self._columns} columns of H, got {other._columns}"
            )
        if other._sum is not None:
            if self._sum is None:
                self._sum, self._columns = other._sum.clone(), other._columns
            else:
                self._sum += other._sum.to(self._sum.device)
            self._dtype = torch.promote_types(self._dtype, other._dtype)
            if other._right is not None:
                mine = self._right
                self._right = other._right if mine is None else mine & other._right.to(mine.device)
        self.count += other.count

    @property
    def hessian(self) -> torch.Tensor:
        """H so far, [D, D] or [groups, D, D]; float64 if any input was, otherwise float32.

        Raises:
            RuntimeError: Before the first update.
            ValueError: Inputs on CUDA held NaN or Inf, or H is out of the range of its dtype.
        """
        if self._sum is None:
            raise RuntimeError("HessianAccumulator.hessian: no update yet, so the size is unknown")
        function = "HessianAccumulator.hessian"
        total = self._sum if len(self._sum) > 1 else self._sum[0]
        return rounded(function, total, self._dtype, self._right)


def _geometry_of(
    layer: nn.Module | Conv2dGeometry | None,
) -> tuple[Conv2dGeometry | None, int | None]:
    """Geometry of a convolution, None for a linear layer; and columns of H, None if not known yet."""
    if layer is None or isinstance(layer, Conv2dGeometry):
        return layer, None
    if isinstance(layer, nn.Conv2d):
        geometry = Conv2dGeometry.of(
            layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups,
            layer.padding_mode,
        )  # fmt: skip
        return geometry, geometry.columns(layer.in_channels)
    if isinstance(layer, nn.Linear):
        return None, layer.in_features
    weight = getattr(layer, "weight", None)
    if type(layer).__name__ == "Conv1D" and isinstance(weight, torch.Tensor):
        return None, weight.shape[0]  # transformers stores [inputs, outputs]
    raise TypeError(
        "HessianAccumulator: layer_or_geometry must be an nn.Linear, nn.Conv2d, transformers Conv1D "
        f"or Conv2dGeometry, got {type(layer).__name__}"
    )
