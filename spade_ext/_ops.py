"""Registration with torch.library: schemas and fake kernels, so that torch.compile sees each op as one node.

In eager mode the public functions do their work directly; while torch.compile traces them they call these
ops. threads = 0 stands for torch.get_num_threads() at run time.
"""

import torch

from spade_ext.geometry import Conv2dGeometry
from spade_ext.hessian import hessian, hessian_conv2d
from spade_ext.inverse import damped_inverse
from spade_ext.obc import obc_prune, obc_trace
from spade_ext.sparsegpt import sparsegpt_prune


def _result_dtype(*tensors: torch.Tensor) -> torch.dtype:
    wide = any(t.dtype == torch.float64 for t in tensors)
    return torch.float64 if wide else torch.float32


@torch.library.custom_op("spade_ext::hessian", mutates_args=(), device_types=("cpu", "cuda"))
def hessian_op(
    x: torch.Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    padding_mode: str,
    form: str,
    precision: str,
    threads: int,
) -> torch.Tensor:
    """Compute spade_ext.hessian; kernel_size [] is a linear layer, padding is (top, bottom, left, right)."""
    if not kernel_size:
        return hessian(x, precision=precision, threads=threads or None)
    geometry = Conv2dGeometry(
        (kernel_size[0], kernel_size[1]), (stride[0], stride[1]),
        (padding[0], padding[1], padding[2], padding[3]), (dilation[0], dilation[1]),
        groups, padding_mode,
    )  # fmt: skip
    return hessian_conv2d(x, geometry, form=form, precision=precision, threads=threads or None)


@hessian_op.register_fake
def _(x, kernel_size, stride, padding, dilation, groups, padding_mode, form, precision, threads):  # type: ignore[no-untyped-def]
    cols = x.shape[-1]
    if kernel_size:
        cols = x.shape[1] // groups * kernel_size[0] * kernel_size[1]
    shape = (groups, cols, cols) if kernel_size and groups > 1 else (cols, cols)
    return x.new_empty(shape, dtype=_result_dtype(x))


@torch.library.custom_op("spade_ext::damped_inverse", mutates_args=(), device_types=("cpu", "cuda"))
def damped_inverse_op(
    hessian: torch.Tensor, damp: float, threads: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute spade_ext.damped_inverse; the damping comes as a float64 scalar tensor."""
    inverse, used = damped_inverse(hessian, damp, threads=threads or None)
    return inverse, torch.tensor(used, dtype=torch.float64)


@damped_inverse_op.register_fake
def _(hessian, damp, threads):  # type: ignore[no-untyped-def]
    inverse = hessian.new_empty(hessian.shape, dtype=_result_dtype(hessian))
    return inverse, hessian.new_empty((), dtype=torch.float64, device="cpu")


@torch.library.custom_op("spade_ext::obc_trace", mutates_args=(), device_types=("cpu", "cuda"))
def obc_trace_op(
    weight: torch.Tensor, hessian: torch.Tensor, block: int, damp: float, threads: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Order and losses of spade_ext.obc_trace, losses in float64."""
    trace = obc_trace(weight, hessian, block=block, damp=damp, threads=threads or None)
    return trace.order, trace.loss.double()


@obc_trace_op.register_fake
def _(weight, hessian, block, damp, threads):  # type: ignore[no-untyped-def]
    shape = (*weight.shape[:-1], weight.shape[-1] // block)
    return (
        weight.new_empty(shape, dtype=torch.int32),
        weight.new_empty(shape, dtype=torch.float64),
    )


@torch.library.custom_op("spade_ext::obc_prune", mutates_args=(), device_types=("cpu", "cuda"))
def obc_prune_op(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    sparsity: float,
    n: int | None,
    m: int | None,
    block: int | None,
    damp: float,
    threads: int,
) -> torch.Tensor:
    """Compute spade_ext.obc_prune."""
    return obc_prune(
        weight, hessian, sparsity, n=n, m=m, block=block, damp=damp, threads=threads or None
    )


@obc_prune_op.register_fake
def _(weight, hessian, sparsity, n, m, block, damp, threads):  # type: ignore[no-untyped-def]
    return weight.new_empty(weight.shape)


@torch.library.custom_op(
    "spade_ext::sparsegpt_prune", mutates_args=(), device_types=("cpu", "cuda")
)
def sparsegpt_prune_op(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    sparsity: float,
    block_size: int,
    n: int | None,
    m: int | None,
    damp: float,
    threads: int,
) -> torch.Tensor:
    """Compute spade_ext.sparsegpt_prune."""
    return sparsegpt_prune(
        weight,
        hessian,
        sparsity,
        block_size=block_size,
        n=n,
        m=m,
        damp=damp,
        threads=threads or None,
    )


@sparsegpt_prune_op.register_fake
def _(weight, hessian, sparsity, block_size, n, m, damp, threads):  # type: ignore[no-untyped-def]
    return weight.new_empty((*hessian.shape[:-2], *weight.shape[-2:]))
