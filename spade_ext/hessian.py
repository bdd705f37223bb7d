"""Hessians X X^T of the inputs of linear and convolution layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from spade_ext import _C, _cuda
from spade_ext._checks import (
    check_device,
    check_finite,
    check_int,
    check_tensor,
    compute_dtype,
    resolve_threads,
    suffix,
)
from spade_ext._progress import Callback, reporting

_FORMS = {"auto": 0, "tap_offsets": 1, "direct": 2}
_MODES = ("zeros", "reflect", "replicate", "circular")
_PRECISIONS = ("default", "fast")


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

    def hessian(
        self,
        x: torch.Tensor,
        *,
        form: str = "auto",
        precision: str = "default",
        threads: int | None = None,
        progress: bool | Callback | None = None,
    ) -> torch.Tensor:
        """H of the inputs x [B, C, height, width] of this convolution; see spade_ext.hessian."""
        _check_input("hessian", x, self)
        _check_precision("hessian", precision)
        if form not in _FORMS:
            raise ValueError(f"hessian: form must be one of {', '.join(_FORMS)}, got {form!r}")
        cols = self.columns(x.shape[1])
        out = _sum_of((self.groups, cols, cols), x.device)
        _add_conv2d(x, self, form, precision, out, resolve_threads("hessian", threads), progress)
        return _converted(out if self.groups > 1 else out[0], compute_dtype(x))

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


def _empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Uninitialised tensor; a large one on huge pages, since first touch of small ones takes longer than a sum."""
    out = torch.empty(shape, dtype=dtype, device=device)
    if not out.is_cuda:
        _C.advise_huge_pages(out.data_ptr(), out.nbytes)
    return out


def _sum_of(shape: Sequence[int], device: torch.device) -> torch.Tensor:
    return _empty(shape, torch.float64, device).zero_()


def _converted(h: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return h if h.dtype == dtype else _empty(h.shape, dtype, h.device).copy_(h)


def _floating(x: torch.Tensor) -> torch.Tensor:
    """X without gradient, 16-bit floats widened to float32."""
    if x.dtype in (torch.float32, torch.float64):
        return x.detach() if x.requires_grad else x
    return x.detach().float()


def _on_cuda(x: torch.Tensor) -> bool:
    """Whether the CUDA kernels take x; float64 they do not."""
    return x.is_cuda and x.dtype != torch.float64


def _add_linear(
    x: torch.Tensor,
    precision: str,
    out: torch.Tensor,
    threads: int,
    progress: bool | Callback | None,
) -> None:
    rows = x.detach() if _on_cuda(x) else _floating(x)
    if rows.ndim != 2:
        rows = rows[None] if rows.ndim == 1 else rows.flatten(0, -2)
    samples, cols = rows.shape
    ldx = rows.stride(0) if samples > 1 else cols
    if (cols > 1 and rows.stride(1) != 1) or ldx < cols:  # strided columns, expanded rows
        rows = rows.contiguous()
        ldx = cols
    if _on_cuda(rows):
        return _cuda.add_hessian_linear(rows, out, precision)
    if rows.is_cuda:
        out += rows.T @ rows
        return None
    with reporting(progress, "hessian") as report:
        getattr(_C, f"hessian_linear_{suffix(rows)}")(
            rows.data_ptr(), samples, cols, ldx, out.data_ptr(), threads, report
        )


def _add_conv2d(
    x: torch.Tensor,
    geometry: Conv2dGeometry,
    form: str,
    precision: str,
    out: torch.Tensor,
    threads: int,
    progress: bool | Callback | None,
) -> None:
    images = x.detach() if _on_cuda(x) else _floating(x)
    if geometry.padding_mode != "zeros":
        top, bottom, left, right = geometry.padding
        images = nn.functional.pad(images, (left, right, top, bottom), mode=geometry.padding_mode)
        geometry = Conv2dGeometry(
            geometry.kernel_size, geometry.stride, (0, 0, 0, 0), geometry.dilation, geometry.groups
        )
    if _on_cuda(images):
        return _cuda.add_hessian_conv2d(images, geometry.fields(images), out, precision)
    if images.is_cuda:
        host = out.cpu()
        _add_conv2d(images.cpu(), geometry, form, precision, host, threads, progress)
        out.copy_(host)
        return None
    with reporting(progress, "hessian") as report:
        getattr(_C, f"hessian_conv2d_{suffix(images)}")(
            images.data_ptr(),
            geometry.fields(images),
            _FORMS[form],
            out.data_ptr(),
            threads,
            report,
        )


def _check_precision(function: str, precision: str) -> str:
    if precision not in _PRECISIONS:
        raise ValueError(
            f"{function}: precision must be one of {', '.join(_PRECISIONS)}, got {precision!r}"
        )
    return precision


def _check_input(function: str, x: torch.Tensor, geometry: Conv2dGeometry | None) -> torch.Tensor:
    check_tensor(function, "x", x)
    check_device(function, "x", x)
    if geometry is None:
        if x.ndim < 1:
            raise ValueError(f"{function}: x must have shape [..., D], got a scalar")
    else:
        check_tensor(function, "x", x, ndim=4)
        if x.shape[1] % geometry.groups:
            raise ValueError(
                f"{function}: groups must divide the {x.shape[1]} channels, got {geometry.groups}"
            )
    return check_finite(function, "x", x)


def hessian(
    x: torch.Tensor,
    *,
    kernel_size: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    form: str = "auto",
    precision: str = "default",
    threads: int | None = None,
    progress: bool | Callback | None = None,
) -> torch.Tensor:
    """Compute H = X X^T of a layer's inputs, the plain sum over samples (and positions).

    The inputs of a convolution are its patches; they are never materialised. H is summed in float64.

    Args:
        x: [..., D] of a linear layer, or [B, C, height, width] with kernel_size, in any memory format;
            float32 or float64, 16-bit floats are widened. Not modified.
        kernel_size: Taps of a 2-d convolution; None for a linear layer.
        stride: As nn.Conv2d.
        padding: As nn.Conv2d, also "same" and "valid".
        dilation: As nn.Conv2d.
        groups: As nn.Conv2d; one H a group if greater than 1.
        padding_mode: As nn.Conv2d.
        form: "auto", "tap_offsets" (grams of shifted inputs less their borders: digits are lost where an image's border
            is hundreds of times larger than its inside) or "direct" (unfolded in cache-sized pieces). CPU only; CUDA
            only adds and loses none.
        precision: Of float32 inputs on CUDA: "default" (three fp16 tensor-core products, the error of float32) or
            "fast" (one product, relative error about 1e-5). The CPU and float64 are always exact.
        threads: CPU threads; None takes torch.get_num_threads(). The result does not depend on it.
        progress: None, True for a bar, or callback(done, total).

    Returns:
        [D, D], or [groups, D, D] if groups > 1, with D = C / groups * taps in the order of
        weight.flatten(1); float32, or float64 for float64 input.

    Raises:
        TypeError: x is not a tensor of floats.
        ValueError: Wrong shape, device or option; NaN or Inf.

    Source: Frantar, Alistarh, "Optimal Brain Compression" (NeurIPS 2022), section 3: H = 2 X X^T up to the factor.
    Reference: reference.hessian.
    """
    if kernel_size is None:
        if torch.compiler.is_compiling():
            result: torch.Tensor = torch.ops.spade_ext.hessian(
                x, [], [], [], [], 1, padding_mode, form, precision, threads or 0
            )
            return result
        _check_input("hessian", x, None)
        _check_precision("hessian", precision)
        out = _sum_of((x.shape[-1], x.shape[-1]), x.device)
        _add_linear(x, precision, out, resolve_threads("hessian", threads), progress)
        return _converted(out, compute_dtype(x))
    geometry = Conv2dGeometry.of(
        kernel_size, stride, padding, dilation, groups, padding_mode, function="hessian"
    )
    if torch.compiler.is_compiling():
        result = torch.ops.spade_ext.hessian(
            x, geometry.kernel_size, geometry.stride, geometry.padding, geometry.dilation, groups,
            padding_mode, form, precision, threads or 0,
        )  # fmt: skip
        return result
    return geometry.hessian(x, form=form, precision=precision, threads=threads, progress=progress)


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
        self.precision = _check_precision("HessianAccumulator", precision)
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
        _check_input(function, x, self.geometry)
        threads = resolve_threads(function, self.threads)
        if self.geometry is None:
            groups, cols, samples = 1, x.shape[-1], x.shape[:-1].numel()
        else:
            groups, cols = self.geometry.groups, self.geometry.columns(x.shape[1])
            samples = x.shape[0]
        if self._sum is None:
            self._sum = _sum_of((groups, cols, cols), x.device)
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
            _add_linear(x, self.precision, self._sum, threads, None)
        else:
            _add_conv2d(x, self.geometry, "auto", self.precision, self._sum, threads, None)
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
