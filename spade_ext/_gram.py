"""Adding X X^T of a batch of inputs to a sum, by kind of layer, device and dtype."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from spade_ext import _C, _cuda
from spade_ext._memory import empty
from spade_ext.checks import (
    all_finite,
    check_device,
    check_finite,
    check_tensor,
    compute_dtype,
)
from spade_ext.errors import HessianRangeError
from spade_ext.geometry import Conv2dGeometry
from spade_ext.progress import Callback, reporting

_FORMS = {"auto": 0, "tap_offsets": 1, "direct": 2}
_PRECISIONS = ("default", "fast")
_PATCH_BYTES = 2**28


def check_form(function: str, form: str) -> str:
    """Return form if it is one that Hessians of convolutions have."""
    if form not in _FORMS:
        raise ValueError(f"{function}: form must be one of {', '.join(_FORMS)}, got {form!r}")
    return form


def check_precision(function: str, precision: str) -> str:
    """Return precision if it is one that CUDA kernels have."""
    if precision not in _PRECISIONS:
        raise ValueError(
            f"{function}: precision must be one of {', '.join(_PRECISIONS)}, got {precision!r}"
        )
    return precision


def check_input(function: str, x: torch.Tensor, geometry: Conv2dGeometry | None) -> torch.Tensor:
    """Return x if it is a batch of inputs of a linear layer (geometry None) or of the convolution.

    Whether it is finite the sums tell.
    """
    check_tensor(function, "x", x)
    check_device(function, "x", x)
    if geometry is None:
        if x.ndim < 1:
            raise ValueError(f"{function}: x must have shape [..., D], got a scalar")
        groups, cols = 1, x.shape[-1]
    else:
        check_tensor(function, "x", x, ndim=4)
        if x.shape[1] % geometry.groups:
            raise ValueError(
                f"{function}: groups must divide the {x.shape[1]} channels, got {geometry.groups}"
            )
        _check_padding(function, x, geometry)
        _check_reach(function, x, geometry)
        groups, cols = geometry.groups, geometry.columns(x.shape[1])
    if groups * cols * cols >= 2**60:  # bytes of a sum fit in an int64
        raise ValueError(
            f"{function}: H must have fewer than 2^60 entries, got {groups} x {cols} x {cols}"
        )
    return x


def _check_padding(function: str, x: torch.Tensor, geometry: Conv2dGeometry) -> None:
    """Raise ValueError if the images x are too small for what a mode pads with."""
    mode = geometry.padding_mode
    if mode == "zeros":
        return
    if not x.shape[1:].numel():
        raise ValueError(
            f"{function}: padding_mode {mode} needs images with pixels, got shape {tuple(x.shape)}"
        )
    for sides, size in zip((geometry.padding[:2], geometry.padding[2:]), x.shape[2:], strict=True):
        most = {"reflect": size - 1, "circular": size}.get(mode, max(sides))
        if max(sides) > most:
            raise ValueError(
                f"{function}: padding of mode {mode} must be at most {most} on a side of {size} pixels, "
                f"got {max(sides)}"
            )


def _check_reach(function: str, x: torch.Tensor, geometry: Conv2dGeometry) -> None:
    """Raise ValueError if the kernel is larger than the padded images x."""
    top, bottom, left, right = geometry.padding
    padded = (x.shape[2] + top + bottom, x.shape[3] + left + right)
    steps = zip(geometry.kernel_size, geometry.dilation, strict=True)
    reach = tuple(dilation * (kernel - 1) + 1 for kernel, dilation in steps)
    if padded[0] < reach[0] or padded[1] < reach[1]:
        raise ValueError(
            f"{function}: the kernel with its dilation must be at most the padded image {padded}, got {reach}"
        )


def new_sum(shape: Sequence[int], device: torch.device) -> torch.Tensor:
    """A sum of no samples: zeros in float64, the dtype all Hessians are summed in."""
    return empty(shape, torch.float64, device).zero_()


def are_sums_right(x: torch.Tensor) -> torch.Tensor:
    """Whether the CUDA kernels can sum x, as a tensor on its device: nothing waits for it.

    x must be finite. bfloat16, which they take as it is, must not leave the range where squares are numbers of float32.
    """
    if x.dtype != torch.bfloat16 or not x.numel():
        return all_finite(x)
    most = torch.stack(torch.aminmax(x)).abs().amax().float()
    return (most == 0) | ((most >= 1e-15) & (most <= 1e15))  # False for NaN


def rounded(
    function: str, h: torch.Tensor, dtype: torch.dtype, right: torch.Tensor | None = None
) -> torch.Tensor:
    """A copy of the float64 sum in the dtype of the result; waits for the device once.

    Args:
        function: Named in errors.
        h: The sum.
        dtype: The dtype of the result.
        right: What are_sums_right said of the inputs.

    Raises:
        ValueError: An input could not be summed, or the largest entry of H, which is on a diagonal, is no normal
            number of the dtype.
    """
    limits = torch.finfo(dtype)
    numbers = [] if right is None else [right.double()]
    if h.dtype != dtype and h.numel():
        numbers.append(h.diagonal(dim1=-2, dim2=-1).amax())
    read = torch.stack(numbers).tolist() if numbers else []
    if right is not None and not read.pop(0):
        raise ValueError(
            f"{function}: inputs must be finite, got NaN or Inf (or bfloat16 ones on CUDA out of [1e-15, 1e15])"
        )
    for most in read:
        if most > limits.max or 0 < most < limits.tiny:
            raise HessianRangeError(
                f"{function}: H must be in the range of {dtype}, [{limits.tiny:g}, {limits.max:g}], "
                f"got {most:g} on its diagonal; pass float64 inputs"
            )
    return empty(h.shape, dtype, h.device).copy_(h)


@contextmanager
def finite_input(function: str, x: torch.Tensor) -> Iterator[None]:
    """Errors of a native sum over x, as those of the function."""
    try:
        yield
    except ValueError as error:
        check_finite(function, "x", x)  # says more than the native text
        what = str(error).partition(": ")[2]
        raise ValueError(f"{function}: {what}; pass float64 inputs or scale x") from None


def _floating(x: torch.Tensor) -> torch.Tensor:
    """X without gradient, 16-bit floats widened to float32."""
    if x.dtype in (torch.float32, torch.float64):
        return x.detach() if x.requires_grad else x
    return x.detach().float()


def _on_cuda(x: torch.Tensor) -> bool:
    """Whether the CUDA kernels take x; float64 they do not."""
    return x.is_cuda and x.dtype != torch.float64


def add_linear(
    function: str,
    x: torch.Tensor,
    precision: str,
    out: torch.Tensor,
    threads: int,
    progress: bool | Callback | None,
) -> None:
    """Add X X^T of the checked inputs x [..., D] to out [1, D, D] or [D, D]."""
    if not x.is_cuda:
        wide = compute_dtype(x) == torch.float64
        call = _C.hessian_linear_f64 if wide else _C.hessian_linear_f32
        return _call_linear(function, call, x, out, threads, progress)
    rows, _ = _matrix(x)
    if _on_cuda(rows):
        return _cuda.add_hessian_linear(rows, out, precision)
    out += rows.T @ rows
    return None


def of_linear(
    function: str, x: torch.Tensor, precision: str, threads: int, progress: bool | Callback | None
) -> torch.Tensor:
    """X X^T of the checked inputs x [..., D]: [D, D] in the result's dtype."""
    cols = x.shape[-1]
    if x.is_cuda:
        out = new_sum((cols, cols), x.device)
        add_linear(function, x, precision, out, threads, progress)
        return rounded(function, out, compute_dtype(x), are_sums_right(x))
    out = empty((cols, cols), compute_dtype(x), x.device)
    call = _C.hessian_linear_set_f32 if out.dtype == torch.float32 else _C.hessian_linear_set_f64
    _call_linear(function, call, x, out, threads, progress)
    return out


def _matrix(x: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Rows [N, D] of x [..., D], of consecutive entries, and the distance of rows."""
    rows = x.detach() if _on_cuda(x) else _floating(x)
    if rows.ndim != 2:
        rows = rows[None] if rows.ndim == 1 else rows.flatten(0, -2)
    cols = rows.shape[1]
    if rows.is_contiguous():
        return rows, cols
    step, within = rows.stride()
    if (cols > 1 and within != 1) or step < cols:  # strided columns, expanded rows
        return rows.contiguous(), cols
    return rows, step


def _call_linear(
    function: str,
    call: Callable[..., None],
    x: torch.Tensor,
    out: torch.Tensor,
    threads: int,
    progress: bool | Callback | None,
) -> None:
    rows, distance = _matrix(x)
    samples, cols = rows.shape
    with finite_input(function, x), reporting(progress, "hessian") as report:
        call(rows.data_ptr(), samples, cols, distance, out.data_ptr(), threads, report)


def add_conv2d(
    function: str,
    x: torch.Tensor,
    geometry: Conv2dGeometry,
    form: str,
    precision: str,
    out: torch.Tensor,
    threads: int,
    progress: bool | Callback | None,
) -> None:
    """Add X X^T of the patches of the checked images x [B, C, height, width] to out [groups, D, D]."""
    images, geometry = _padded(x.detach() if _on_cuda(x) else _floating(x), geometry)
    if _on_cuda(images):
        return _cuda.add_hessian_conv2d(images, geometry.fields(images), out, precision)
    if images.is_cuda:
        return _add_unfolded(images, geometry, out)
    call = _C.hessian_conv2d_f64 if images.dtype == torch.float64 else _C.hessian_conv2d_f32
    return _call_conv2d(function, call, images, geometry, form, out, threads, progress)


def _add_unfolded(images: torch.Tensor, geometry: Conv2dGeometry, out: torch.Tensor) -> None:
    """Add X X^T of patches to out [groups, D, D] by torch alone (float64 on CUDA), some images at a time."""
    rows, columns = geometry.output_size(*images.shape[2:])
    of_image = geometry.groups * out.shape[1] * rows * columns * images.itemsize
    if not len(images) * of_image:
        return
    top, bottom, left, right = geometry.padding
    images = nn.functional.pad(images, (left, right, top, bottom))
    for part in torch.split(images, max(1, _PATCH_BYTES // of_image)):
        patches = nn.functional.unfold(
            part, geometry.kernel_size, geometry.dilation, stride=geometry.stride
        )  # [B, groups * D, pixels]
        x = patches.reshape(len(part), *out.shape[:2], -1).permute(1, 2, 0, 3).flatten(2)
        out.baddbmm_(x, x.mT)


def of_conv2d(
    function: str,
    x: torch.Tensor,
    geometry: Conv2dGeometry,
    form: str,
    precision: str,
    threads: int,
    progress: bool | Callback | None,
) -> torch.Tensor:
    """X X^T of the patches of the checked images x [B, C, height, width]: [groups, D, D] in the result's dtype."""
    cols = geometry.columns(x.shape[1])
    shape = (geometry.groups, cols, cols)
    if x.is_cuda:
        out = new_sum(shape, x.device)
        add_conv2d(function, x, geometry, form, precision, out, threads, progress)
        return rounded(function, out, compute_dtype(x), are_sums_right(x))
    images, geometry = _padded(_floating(x), geometry)
    out = empty(shape, images.dtype, x.device)
    call = _C.hessian_conv2d_set_f32 if out.dtype == torch.float32 else _C.hessian_conv2d_set_f64
    _call_conv2d(function, call, images, geometry, form, out, threads, progress)
    return out


def _padded(images: torch.Tensor, geometry: Conv2dGeometry) -> tuple[torch.Tensor, Conv2dGeometry]:
    """Images and geometry with no padding but of zeros."""
    if geometry.padding_mode == "zeros":
        return images, geometry
    top, bottom, left, right = geometry.padding
    images = nn.functional.pad(images, (left, right, top, bottom), mode=geometry.padding_mode)
    return images, Conv2dGeometry(
        geometry.kernel_size, geometry.stride, (0, 0, 0, 0), geometry.dilation, geometry.groups
    )


def _call_conv2d(
    function: str,
    call: Callable[..., None],
    images: torch.Tensor,
    geometry: Conv2dGeometry,
    form: str,
    out: torch.Tensor,
    threads: int,
    progress: bool | Callback | None,
) -> None:
    fields = geometry.fields(images)
    with finite_input(function, images), reporting(progress, "hessian") as report:
        call(images.data_ptr(), fields, _FORMS[form], out.data_ptr(), threads, report)
