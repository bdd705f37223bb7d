"""The elimination of exact OBC: its checked inputs, the damped inverse, and the native call."""

from dataclasses import dataclass

import torch

from spade_ext import _C, _cuda
from spade_ext._checks import (
    check_device,
    check_finite,
    check_range,
    check_same_device,
    check_shape,
    check_tensor,
    compute_dtype,
    dense,
    suffix,
)
from spade_ext._progress import Callback, reporting
from spade_ext.errors import SingularHessianError
from spade_ext.inverse import damped_inverse, invert, invert_cuda, warn_damping

FLOAT64_BELOW_DAMP = (
    1e-3  # less damping leaves rank-deficient Hessians too ill-conditioned for float32
)


@dataclass(frozen=True)
class Problem:
    """Checked, contiguous inputs of an elimination."""

    weight: torch.Tensor  # [R, D], dead columns 0
    hessian: torch.Tensor  # [D, D], damped
    hinv: torch.Tensor  # [D, D]
    damp: float


def prepare(
    function: str, weight: torch.Tensor, hessian: torch.Tensor, damp: float, threads: int
) -> Problem:
    """Check weight and hessian, and damp and invert the Hessian: in float64 if the damping is small."""
    check_tensor(function, "weight", weight, ndim=2)
    check_tensor(function, "hessian", hessian, ndim=2)
    check_shape(function, "hessian", hessian, (weight.shape[1], weight.shape[1]))
    check_device(function, "weight", weight)
    check_same_device(function, weight=weight, hessian=hessian)
    damp = check_range(function, "damp", damp, 0.0)
    check_finite(function, "weight", weight)
    check_finite(function, "hessian", hessian)
    dtype = compute_dtype(weight, hessian)
    for wide in (dtype, torch.float64):
        h = dense(hessian, wide)
        if h.is_cuda:
            hinv, damped, used, dead = invert_cuda(function, h, damp)
        else:
            hinv, damped = torch.empty_like(h), torch.empty_like(h)
            used, dead = invert(function, h, damp, hinv, damped, threads)
        if used >= FLOAT64_BELOW_DAMP or wide == torch.float64:
            break
    warn_damping(function, damp, used)
    w = dense(weight, h.dtype)
    w = w.masked_fill(h.diagonal() == 0, 0) if dead else w.clone()
    return Problem(w, damped, hinv, used)


def eliminate(
    function: str,
    problem: Problem,
    kind: str,
    pattern: tuple[int, ...],
    steps: int,
    threads: int,
    progress: bool | Callback | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run a native elimination; in float64 if it lost definiteness in float32."""
    weight, hinv = problem.weight, problem.hinv
    for dtype in dict.fromkeys((weight.dtype, torch.float64)):
        w, a = weight.to(dtype), hinv.to(dtype)
        if dtype != weight.dtype:
            a, _ = damped_inverse(problem.hessian.double(), 0.0, threads=threads)
        order, loss, info, row = _run(function, w, a, kind, pattern, steps, threads, progress)
        if row < 0:
            return order, loss if loss.dtype == weight.dtype else loss.to(weight.dtype)
    raise SingularHessianError(
        f"{function}: the Hessian of row {row} loses definiteness at step {int(info[row])} "
        f"(damp={problem.damp:g}); use more damping",
        row,
    )


def _run(
    function: str,
    w: torch.Tensor,
    a: torch.Tensor,
    kind: str,
    pattern: tuple[int, ...],
    steps: int,
    threads: int,
    progress: bool | Callback | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """Order, losses and info of an elimination, and the first row that failed or -1."""
    if w.is_cuda and kind == "" and w.dtype == torch.float32:
        order, loss, info = _cuda.obc_trace(w, a, steps)
        return order, loss, info, first_failed(info)
    if w.is_cuda:  # float64, n:m and blocks have no CUDA kernels
        order, loss, info, row = _run(
            function, w.cpu(), a.cpu(), kind, pattern, steps, threads, progress
        )
        return order.to(w.device), loss.to(w.device), info, row
    rows, cols = w.shape
    order = torch.empty(rows, steps, dtype=torch.int32)
    loss = torch.empty(rows, steps, dtype=w.dtype)
    info = torch.empty(rows, dtype=torch.int32)
    with reporting(progress, function) as report:
        row = getattr(_C, f"obc_trace{kind}_{suffix(w)}")(
            w.data_ptr(), a.data_ptr(), rows, cols, *pattern,
            order.data_ptr(), loss.data_ptr(), info.data_ptr(), threads, report,
        )  # fmt: skip
    return order, loss, info, row


def first_failed(info: torch.Tensor) -> int:
    """The first row whose info is not 0, or -1."""
    failed = info.nonzero()
    return int(failed[0, 0]) if len(failed) else -1
