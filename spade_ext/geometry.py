"""What a convolution reads of its input."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from spade_ext.checks import check_int

_MODES = ("zeros", "reflect", "replicate", "circular")


def _pair(function: str, name: str, value: object, low: int) -> tuple[int, int]:
    """(rows, columns) of an int or a pair of ints."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(values) != 2:
        raise ValueError(f"{function}: {name} must be an int or a pair of ints, got {value!r}")
    return check_int(function, name, values[0], low), check_int(function, name, values[1], low)


@dataclass(frozen=True)
class Conv2dGeometry:
    """What a 2-d convolution reads of its input.

    Attributes:
        kernel_size: (rows, columns).
        stride: (rows, columns).
        padding: (top, bottom, left, right).
        dilation: (rows, columns).
        groups: Channel groups.
        padding_mode: "zeros", "reflect", "replicate" or "circular".

    Example:
        >>> from spade_ext import Conv2dGeometry
        >>> geometry = Conv2dGeometry.of(3, stride=2, padding="valid")
        >>> geometry.columns(16), geometry.output_size(28, 28)
        (144, (13, 13))
    """

    kernel_size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    padding_mode: str = "zeros"

    @classmethod
    def of(
        cls,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] | str = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
        *,
        function: str = "Conv2dGeometry",
    ) -> Conv2dGeometry:
        """Geometry from the arguments of nn.Conv2d; padding also "same" or "valid"."""
        kernel = _pair(function, "kernel_size", kernel_size, 1)
        steps = _pair(function, "stride", stride, 1)
        spread = _pair(function, "dilation", dilation, 1)
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(
                    f'{function}: padding must be ints, "same" or "valid", got {padding!r}'
                )
            if padding == "same" and steps != (1, 1):
                raise ValueError(f'{function}: padding "same" needs stride 1, got {steps}')
            total = (0, 0)
            if padding == "same":
                total = (spread[0] * (kernel[0] - 1), spread[1] * (kernel[1] - 1))
            top, left = total[0] // 2, total[1] // 2
            sides = (top, total[0] - top, left, total[1] - left)
        else:
            rows, columns = _pair(function, "padding", padding, 0)
            sides = (rows, rows, columns, columns)
        if padding_mode not in _MODES:
            raise ValueError(
                f"{function}: padding_mode must be one of {', '.join(_MODES)}, got {padding_mode!r}"
            )
        count = check_int(function, "groups", groups, 1)
        return cls(kernel, steps, sides, spread, count, padding_mode)

    def columns(self, channels: int) -> int:
        """D of one group: channels of the group times taps."""
        return channels // self.groups * self.kernel_size[0] * self.kernel_size[1]

    def fields(self, x: torch.Tensor) -> list[int]:
        """The fields of spade_conv2d_t for the input x."""
        return [
            *x.shape, *x.stride(), *self.kernel_size, *self.stride, *self.padding,
            *self.dilation, self.groups,
        ]  # fmt: skip

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the convolution's output."""
        top, bottom, left, right = self.padding
        sizes = []
        for i, padded in enumerate((height + top + bottom, width + left + right)):
            reach = self.dilation[i] * (self.kernel_size[i] - 1) + 1
            sizes.append((padded - reach) // self.stride[i] + 1 if padded >= reach else 0)
        return sizes[0], sizes[1]
