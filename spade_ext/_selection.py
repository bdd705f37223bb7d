"""From the losses of an elimination to how many weights of each row go, and to the weights that stay."""

import math
from operator import itemgetter

import torch

from spade_ext import _C, _cuda
from spade_ext._elimination import Elimination, combined, each_group, row_error
from spade_ext.checks import dense
from spade_ext.errors import of_group
from spade_ext.progress import Callback, reporting


def count_steps(loss: torch.Tensor, sparsity: float) -> torch.Tensor:
    """Steps [..., R] int64 that each row takes when the ceil(sparsity * numel) least of loss [..., R, steps] go."""
    if loss.is_cuda:
        total = math.ceil((sparsity - 1e-9) * loss.numel())
        chosen = loss.flatten().argsort(stable=True)[: max(0, total)]
        gone = torch.zeros(loss.numel(), dtype=torch.bool, device=loss.device)
        gone.index_fill_(0, chosen, True)  # bincount would wait for the device
        return gone.reshape(loss.shape).sum(-1)
    loss = dense(loss, loss.dtype)
    counts = torch.empty(loss.shape[:-1], dtype=torch.int64)
    rows, steps = counts.numel(), loss.shape[-1]
    call = _C.obc_counts_f32 if loss.dtype == torch.float32 else _C.obc_counts_f64
    call(loss.data_ptr(), rows, steps, sparsity, counts.data_ptr())
    return counts


def solve_weights(
    function: str,
    made: Elimination,
    counts: torch.Tensor,
    block: int,
    threads: int,
    progress: bool | Callback | None = None,
    max_scratch: int | None = None,
) -> torch.Tensor:
    """Weights [R, D] after the first counts[r] steps (int64), of block columns, of each row, or of each group's."""
    weight = made.weight
    if weight.is_cuda:
        return _solve_cuda(function, made, counts, block, max_scratch)
    if weight.ndim == 3:

        def alone(one: Elimination, taken: torch.Tensor) -> torch.Tensor:
            return solve_weights(function, one, taken, block, threads)

        groups = [combined(itemgetter(g), made.damp, made) for g in range(len(weight))]
        return torch.stack(each_group("obc_weights", progress, alone, groups, counts))
    rows, cols = weight.shape
    out = torch.empty(rows, cols, dtype=weight.dtype)
    with reporting(progress, "obc_weights") as report:
        call = _C.obc_weights_f32 if weight.dtype == torch.float32 else _C.obc_weights_f64
        row, info = call(
            weight.data_ptr(), made.hessian.data_ptr(), made.hinv.data_ptr(), rows, cols, block,
            made.order.shape[1], made.order.data_ptr(), counts.data_ptr(), out.data_ptr(), threads, report,
        )  # fmt: skip
    if row >= 0:
        if info == 2:
            raise ValueError(
                f"{function}: the pruned weights must be in the range of {weight.dtype}, got larger ones in row {row}"
            )
        raise row_error(function, row, 0, made.damp)
    return out


def _solve_cuda(
    function: str, made: Elimination, counts: torch.Tensor, block: int, most: int | None
) -> torch.Tensor:
    """All groups at once; waits for the device once."""
    order, counts = made.order, counts.to(made.order.device)
    if block > 1:
        within = torch.arange(block, dtype=torch.int32, device=order.device)
        order = (order[..., None] * block + within).flatten(-2)
        counts = counts * block
    parts = [made.weight, made.hessian, made.hinv, order, counts]
    grouped = made.weight.ndim == 3
    out, info = _cuda.obc_weights(
        *(x.contiguous() if grouped else x[None] for x in parts), most=most
    )
    if info.any():
        group, row = info.nonzero()[0].tolist()
        error = row_error(function, row, 0, made.damp)
        raise of_group(error, group) if grouped else error
    return out if grouped else out[0]
