"""The Hessian X X^T of the inputs of a linear or convolution layer."""

import torch

from spade_ext._gram import check_form, check_input, check_precision, of_conv2d, of_linear
from spade_ext.checks import resolve_threads
from spade_ext.geometry import Conv2dGeometry
from spade_ext.progress import Callback


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

    The inputs of a convolution are its patches. They are never held in memory as a whole. H is summed in float64.

    Args:
        x: [..., D] of a linear layer, or [B, C, height, width] with kernel_size, in any memory format;
            float32 or float64, 16-bit floats are widened. Not modified.
        kernel_size: Taps of a 2-d convolution; None for a linear layer.
        stride: As nn.Conv2d.
        padding: As nn.Conv2d, also "same" and "valid".
        dilation: As nn.Conv2d.
        groups: As nn.Conv2d; one H per group if greater than 1.
        padding_mode: As nn.Conv2d.
        form: "auto", "tap_offsets" (products of shifted inputs, with their borders apart) or "direct" (unfolded in
            cache-sized pieces). On the CPU only.
        precision: How float32 inputs are multiplied on CUDA: "default" (three fp16 tensor-core products, with the error
            of float32) or "fast" (one product, with a relative error of about 1e-5). The CPU and float64 ignore it.
        threads: CPU threads; None takes torch.get_num_threads(). The result does not depend on it.
        progress: None, True for a bar, or callback(done, total).

    Returns:
        [D, D], or [groups, D, D] if groups > 1, with D = C / groups * taps in the order of
        weight.flatten(1); float32, or float64 for float64 input.

    Raises:
        TypeError: x is not a tensor of floats.
        ValueError: Wrong shape, device or option; a kernel larger than the padded image; NaN or Inf; H out of the
            range of its dtype.

    Source: Frantar, Alistarh, "Optimal Brain Compression" (NeurIPS 2022), section 3: H = 2 X X^T up to the factor.
    Reference: reference.hessian.

    Example:
        >>> import torch, spade_ext
        >>> spade_ext.hessian(torch.randn(1000, 64)).shape
        torch.Size([64, 64])
        >>> images = torch.randn(8, 16, 28, 28)
        >>> spade_ext.hessian(images, kernel_size=3, padding=1).shape  # 16 channels x 9 taps
        torch.Size([144, 144])
    """
    if kernel_size is None:
        if (stride, padding, dilation, groups, padding_mode, form) != (1, 0, 1, 1, "zeros", "auto"):
            raise ValueError(
                "hessian: stride, padding, dilation, groups, padding_mode and form need kernel_size, got None"
            )
        if torch.compiler.is_compiling():
            result: torch.Tensor = torch.ops.spade_ext.hessian(
                x, [], [], [], [], 1, padding_mode, form, precision, threads or 0
            )
            return result
        check_input("hessian", x, None)
        check_precision("hessian", precision)
        return of_linear("hessian", x, precision, resolve_threads("hessian", threads), progress)
    geometry = Conv2dGeometry.of(
        kernel_size, stride, padding, dilation, groups, padding_mode, function="hessian"
    )
    if torch.compiler.is_compiling():
        result = torch.ops.spade_ext.hessian(
            x, geometry.kernel_size, geometry.stride, geometry.padding, geometry.dilation, groups,
            padding_mode, form, precision, threads or 0,
        )  # fmt: skip
        return result
    return hessian_conv2d(
        x, geometry, form=form, precision=precision, threads=threads, progress=progress
    )


def hessian_conv2d(
    x: torch.Tensor,
    geometry: Conv2dGeometry,
    *,
    form: str = "auto",
    precision: str = "default",
    threads: int | None = None,
    progress: bool | Callback | None = None,
) -> torch.Tensor:
    """Compute hessian of the inputs x [B, C, height, width] of a convolution of this geometry."""
    function = "hessian"
    check_input(function, x, geometry)
    check_precision(function, precision)
    check_form(function, form)
    threads = resolve_threads(function, threads)
    h = of_conv2d(function, x, geometry, form, precision, threads, progress)
    return h if geometry.groups > 1 else h[0]
