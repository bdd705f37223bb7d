"""What a convolution of one to three dimensions, or a transposed one, reads: the input of an equal 2-d convolution.

Every kind is mapped onto `spade_ext.hessian` of a 2-d convolution, whose patches are those of the layer:

* 1-d: the input is an image of one row.
* 3-d: the kernel's slices in depth become channels, [B depth, C k_d, H, W].
* transposed: y[o] = sum of x[i] W[t] over o = i s - p + t d. Between the entries of x lie s - 1 zeros; then it is a
  convolution of stride 1 with the taps in reverse order, padded by d (k - 1) - p, at the end by output_padding more.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from spade_ext.geometry import Conv2dGeometry

_LARGEST = 2**26  # entries of an unfolded part: 256 MB in float32


@dataclass(frozen=True)
class Reading:
    """What one call of a function multiplies with a layer's weight.

    Attributes:
        x: The function's input.
        geometry: The geometry of the 2-d convolution whose patches are read; None for rows of a linear layer.
        unfold: Makes that convolution's input of some of x; None where it is x itself.
        growth: Entries of unfold's result for one entry of x.
    """

    x: Tensor
    geometry: Conv2dGeometry | None = None
    unfold: Callable[[Tensor], Tensor] | None = None
    growth: int = 1

    def parts(self) -> Iterator[Tensor]:
        """The inputs of the 2-d convolution or linear layer, in parts that stay within a fixed size."""
        if self.unfold is None:
            yield self.x
            return
        count = max(1, _LARGEST // max(1, self.x[0].numel() * self.growth))
        for part in self.x.split(count):
            yield self.unfold(part)


def convolution(arguments: dict[str, Any]) -> Reading:
    """What torch.conv1d, conv2d or conv3d reads.

    Args:
        arguments: The arguments of the function, by name.
    """
    x, weight = arguments["input"], arguments["weight"]
    sizes = tuple(weight.shape[2:])
    x = x[None] if x.ndim == len(sizes) + 1 else x
    stride, dilation = (_each(arguments.get(k, 1), sizes) for k in ("stride", "dilation"))
    padding = _padding(arguments.get("padding", 0), sizes, dilation)
    groups = arguments.get("groups", 1)
    if len(sizes) == 2:
        return Reading(x, _geometry(sizes, stride, padding, dilation, groups))
    if len(sizes) == 1:
        geometry = _geometry((1, *sizes), (1, *stride), [(0, 0), *padding], (1, *dilation), groups)
        return Reading(x, geometry, _as_row)
    geometry = _geometry(sizes[1:], stride[1:], padding[1:], dilation[1:], groups)
    return Reading(x, geometry, _slices(sizes[0], stride[0], padding[0], dilation[0]), sizes[0])


def transposed_convolution(arguments: dict[str, Any]) -> Reading:
    """What torch.conv_transpose1d, conv_transpose2d or conv_transpose3d reads, its taps in reverse order.

    Args:
        arguments: The arguments of the function, by name.
    """
    x, weight = arguments["input"], arguments["weight"]
    sizes = tuple(weight.shape[2:])
    x = x[None] if x.ndim == len(sizes) + 1 else x
    stride, dilation = (_each(arguments.get(k, 1), sizes) for k in ("stride", "dilation"))
    padding, more = (_each(arguments.get(k, 0), sizes) for k in ("padding", "output_padding"))
    reach = [d * (k - 1) for k, d in zip(sizes, dilation, strict=True)]
    sides = [(r - p, r - p + m) for r, p, m in zip(reach, padding, more, strict=True)]
    ones = (1,) * len(sizes)
    groups = arguments.get("groups", 1)

    def spread(part: Tensor) -> Tensor:
        lengths = [s * (n - 1) + 1 for n, s in zip(part.shape[2:], stride, strict=True)]
        wide = part.new_zeros(*part.shape[:2], *lengths)
        places: Any = (..., *(slice(None, None, s) for s in stride))
        wide[places] = part
        wide = F.pad(wide, [side for pair in reversed(sides) for side in pair])
        if len(sizes) == 1:
            return _as_row(wide)
        return wide if len(sizes) == 2 else _slices(sizes[0], 1, (0, 0), dilation[0])(wide)

    growth = sizes[0] if len(sizes) == 3 else 1
    for step in stride:
        growth *= step
    none = [(0, 0)] * 2
    if len(sizes) == 1:
        geometry = _geometry((1, *sizes), (1, 1), none, (1, *dilation), groups)
    else:
        geometry = _geometry(sizes[-2:], ones[-2:], none, dilation[-2:], groups)
    return Reading(x, geometry, spread, growth)


def _each(value: Any, sizes: Sequence[int]) -> tuple[int, ...]:
    """One value per dimension."""
    if isinstance(value, int):
        return (value,) * len(sizes)
    values = tuple(value)
    return values * len(sizes) if len(values) == 1 else values


def _padding(value: Any, sizes: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    """(before, after) in each dimension, as torch pads."""
    if value == "same":
        total = [d * (k - 1) for k, d in zip(sizes, dilation, strict=True)]
        return [(t // 2, t - t // 2) for t in total]
    return [(p, p) for p in _each(0 if value == "valid" else value, sizes)]


def _geometry(
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int,
) -> Conv2dGeometry:
    (k0, k1), (s0, s1), (d0, d1) = kernel, stride, dilation
    (top, bottom), (left, right) = padding
    return Conv2dGeometry((k0, k1), (s0, s1), (top, bottom, left, right), (d0, d1), groups)


def _as_row(x: Tensor) -> Tensor:
    """[B, C, T] as images of one row."""
    return x[:, :, None]


def _slices(
    taps: int, stride: int, padding: tuple[int, int], dilation: int
) -> Callable[[Tensor], Tensor]:
    """[B, C, D, H, W] as [B D', C taps, H, W]: the slices that each position in depth reads."""

    def unfold(x: Tensor) -> Tensor:
        padded = F.pad(x, (0, 0, 0, 0, *padding))
        windows = padded.unfold(2, dilation * (taps - 1) + 1, stride)[..., ::dilation]
        moved = torch.movedim(windows, (2, 5), (1, 3))  # [B, D', C, taps, H, W]
        return moved.flatten(2, 3).flatten(0, 1)

    return unfold
