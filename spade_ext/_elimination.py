"""The elimination of a layer by exact OBC: damped inverse, order and losses, on the layer's device."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from spade_ext import _C, _cuda
from spade_ext._checks import (
    check_device,
    check_finite,
    check_same_device,
    check_shape,
    check_tensor,
    compute_dtype,
    dense,
    suffix,
)
from spade_ext._progress import Callback, reporting
from spade_ext.errors import SingularHessianError
from spade_ext.inverse import invert_cuda

# Scales of H (means of its diagonal) at which squares of weights over entries of its inverse are in float32's range.
_FLOAT32_SCALES = (1e-18, 1e18)
# dtypes to try, and the damping each needs: less leaves rank-deficient Hessians too ill-conditioned for float32
_ATTEMPTS = ((torch.float32, 1e-3), (torch.float64, 0.0))


class Pattern(NamedTuple):
    """What goes together: n of each m columns if m > 0, otherwise `block` consecutive ones."""

    n: int = 0
    m: int = 0
    block: int = 1

    def steps(self, cols: int) -> int:
        """Steps of a full elimination."""
        return cols // self.m * self.n if self.m else cols // self.block


class Elimination(NamedTuple):
    """What an elimination leaves; shapes and meanings of spade_ext.OBCTrace."""

    order: torch.Tensor
    loss: torch.Tensor
    damp: float
    weight: torch.Tensor
    hessian: torch.Tensor
    hinv: torch.Tensor


def check_layer(function: str, weight: torch.Tensor, hessian: torch.Tensor) -> int:
    """D of weight [R, D] and hessian [D, D] on one device."""
    check_tensor(function, "weight", weight, ndim=2)
    check_tensor(function, "hessian", hessian, ndim=2)
    cols = weight.shape[1]
    check_shape(function, "hessian", hessian, (cols, cols))
    check_device(function, "weight", weight)
    check_same_device(function, "hessian", hessian, "weight", weight)
    return cols


def attempts(weight: torch.Tensor, hessian: torch.Tensor) -> Sequence[tuple[torch.dtype, float]]:
    """The dtypes to try in turn, with the least damping that each may be used at."""
    return _ATTEMPTS[1:] if compute_dtype(weight, hessian) == torch.float64 else _ATTEMPTS


def run_native(
    function: str,
    call: str,
    weight: torch.Tensor,
    hessian: torch.Tensor,
    dtype: torch.dtype,
    *arguments: object,
    progress: bool | Callback | None,
) -> tuple[float, int, int]:
    """Run a native call on a checked layer: the damping used, the row that failed or -1, and its step."""
    w, h = dense(weight, dtype), dense(hessian, dtype)
    rows, cols = w.shape
    try:
        with reporting(progress, function) as report:
            result: tuple[float, int, int] = getattr(_C, f"{call}_{suffix(w)}")(
                w.data_ptr(), h.data_ptr(), rows, cols, *arguments, report
            )
    except ArithmeticError as error:
        raise SingularHessianError(f"{function}: {error}") from None
    except ValueError:  # these say more than the native texts
        check_finite(function, "weight", weight)
        check_finite(function, "hessian", hessian)
        raise
    return result


def indefinite(function: str, row: int, step: int, damp: float) -> SingularHessianError:
    """What to raise for a row that was given up: at a step, or (0) in the solve of its kept columns."""
    if step:
        what = f"the Hessian of row {row} loses definiteness at step {step}"
    else:
        what = f"the Hessian of the kept columns of row {row} is not positive definite"
    return SingularHessianError(f"{function}: {what} (damp={damp:g}); use more damping", row)


def first_failure(info: torch.Tensor) -> int:
    """The first row whose info is not 0, or -1."""
    failed = info.nonzero()
    return int(failed[0, 0]) if len(failed) else -1


def eliminate(
    function: str,
    weight: torch.Tensor,
    hessian: torch.Tensor,
    pattern: Pattern,
    damp: float,
    threads: int,
    progress: bool | Callback | None,
) -> Elimination:
    """Eliminate all steps of a checked layer; in float64 if the damping is small or float32 does not do."""
    if weight.is_cuda:
        return _eliminate_cuda(function, weight, hessian, pattern, damp, threads, progress)
    rows, cols = weight.shape
    steps = pattern.steps(cols)
    for dtype, least_damp in attempts(weight, hessian):
        w = torch.empty(rows, cols, dtype=dtype)
        damped = torch.empty(cols, cols, dtype=dtype)
        hinv = torch.empty(cols, cols, dtype=dtype)
        loss = torch.empty(rows, steps, dtype=dtype)
        order = torch.empty(rows, steps, dtype=torch.int32)
        used, row, step = run_native(
            function, "obc_eliminate", weight, hessian, dtype, *pattern, damp, least_damp,
            order.data_ptr(), loss.data_ptr(), w.data_ptr(), damped.data_ptr(), hinv.data_ptr(),
            threads, progress=progress,
        )  # fmt: skip
        if row < 0 and used >= least_damp:
            return Elimination(order, loss, used, w, damped, hinv)
    raise indefinite(function, row, step, used)


def _eliminate_cuda(
    function: str,
    weight: torch.Tensor,
    hessian: torch.Tensor,
    pattern: Pattern,
    damp: float,
    threads: int,
    progress: bool | Callback | None,
) -> Elimination:
    if pattern.block > _cuda.MOST_BLOCK:  # has no CUDA kernel
        host = eliminate(function, weight.cpu(), hessian.cpu(), pattern, damp, threads, progress)
        device = weight.device
        return Elimination(
            host.order.to(device), host.loss.to(device), host.damp, host.weight.to(device),
            host.hessian.to(device), host.hinv.to(device),
        )  # fmt: skip
    check_finite(function, "weight", weight)
    for dtype, least_damp in attempts(weight, hessian):
        h, w = dense(hessian, dtype), dense(weight, dtype)
        if dtype == torch.float32 and not _in_range(h):
            continue
        hinv, damped, used, dead = invert_cuda(function, h, damp)
        if used < least_damp:
            continue
        w = w.masked_fill(h.diagonal() == 0, 0) if dead else w.clone()
        order, loss, info = _queue(w, hinv, pattern)
        row = first_failure(info)
        if row < 0:
            return Elimination(order, loss, used, w, damped, hinv)
    raise indefinite(function, row, int(info[row]), used)


def _in_range(h: torch.Tensor) -> bool:
    """Whether float32 does for h, as in csrc/python/obc.cpp."""
    diagonal = h.diagonal().double()
    mean = float(diagonal.masked_fill(diagonal == 0, 1.0).mean()) if len(h) else 1.0
    return _FLOAT32_SCALES[0] <= mean <= _FLOAT32_SCALES[1]


def _queue(
    w: torch.Tensor, hinv: torch.Tensor, pattern: Pattern
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Order, losses and info by the kernel for the pattern: the fast ones in float32, or that in double."""
    cols = w.shape[1]
    if w.dtype == torch.float32 and cols <= _cuda.MOST_COLUMNS and pattern.block == 1:
        if pattern.m:
            return _cuda.obc_trace_nm(w, hinv, pattern.n, pattern.m)
        return _cuda.obc_trace(w, hinv, cols)
    return _cuda.obc_trace_pattern(w, hinv, pattern.steps(cols), *pattern)
