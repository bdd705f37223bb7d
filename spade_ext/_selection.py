"""From the losses of an elimination to how many weights of each row go, and to the weights that stay."""

import math

import torch

from spade_ext import _C, _cuda
from spade_ext._checks import dense, suffix
from spade_ext._elimination import first_failure, indefinite
from spade_ext._progress import Callback, reporting


def count_steps(loss: torch.Tensor, sparsity: float) -> torch.Tensor:
    """Steps [R] int64 that each row takes when the ceil(sparsity * R * steps) least of loss [R, steps] go."""
    rows, steps = loss.shape
    if loss.is_cuda:
        total = math.ceil((sparsity - 1e-9) * rows * steps)
        chosen = loss.flatten().argsort(stable=True)[: max(0, total)]
        return torch.bincount(chosen // max(1, steps), minlength=rows)
    loss = dense(loss, loss.dtype)
    counts = torch.empty(rows, dtype=torch.int64)
    getattr(_C, f"obc_counts_{suffix(loss)}")(
        loss.data_ptr(), rows, steps, sparsity, counts.data_ptr()
    )
    return counts


def solve_weights(
    function: str,
    weight: torch.Tensor,
    damped: torch.Tensor,
    hinv: torch.Tensor,
    order: torch.Tensor,
    counts: torch.Tensor,
    block: int,
    damp: float,
    threads: int,
    progress: bool | Callback | None = None,
) -> torch.Tensor:
    """Weights [R, D] after the first counts[r] steps (int64) of order [R, steps] of each row.

    weight, damped, hinv and order are an Elimination's, of block columns a step.
    """
    rows, cols = weight.shape
    if weight.is_cuda:
        if block > 1:
            within = torch.arange(block, dtype=torch.int32, device=order.device)
            order = (order[:, :, None] * block + within).flatten(1)
            counts = counts * block
        out, info = _cuda.obc_weights(weight, damped, hinv, order, counts.to(weight.device))
        row = first_failure(info)
    else:
        out = torch.empty(rows, cols, dtype=weight.dtype)
        with reporting(progress, "obc_weights") as report:
            row = getattr(_C, f"obc_weights_{suffix(weight)}")(
                weight.data_ptr(), damped.data_ptr(), hinv.data_ptr(), rows, cols, block,
                order.shape[1], order.data_ptr(), counts.data_ptr(), out.data_ptr(), threads, report,
            )  # fmt: skip
    if row >= 0:
        raise indefinite(function, row, 0, damp)
    return out
