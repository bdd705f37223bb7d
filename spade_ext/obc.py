"""Exact OBC: the elimination order of every weight of a layer, and a layer pruned by it."""

import torch

from spade_ext._checks import check_int, check_nm, check_range, check_tensor, resolve_threads
from spade_ext._elimination import eliminate, prepare
from spade_ext._progress import Callback
from spade_ext._trace import OBCTrace

__all__ = ["OBCTrace", "obc_prune", "obc_trace"]


def obc_trace(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    *,
    block: int | None = None,
    damp: float = 0.01,
    threads: int | None = None,
    progress: bool | Callback | None = None,
) -> OBCTrace:
    """Eliminate every weight of each row in exact OBC order.

    One step on row w: p = argmin_j w_j^2 / A_jj over the kept weights, A the inverse Hessian of the kept set;
    w -= A[:,p] w_p / A_pp; ties: lowest j. Already-zero weights and dead columns go first, at no loss.

    Args:
        weight: [R, D]; float32 or float64 (16-bit floats are computed in float32). Not modified.
        hessian: [D, D], H = X X^T. Not modified.
        block: Weights go in blocks of so many consecutive columns, by w_b^T A_bb^-1 w_b; divides D.
        damp: Damping relative to the mean of the diagonal. Below 1e-3 the trace runs in float64.
        threads: CPU threads; None takes torch.get_num_threads(). The result does not depend on it.
        progress: None, True for a bar, or callback(done, total).

    Returns:
        OBCTrace of order [R, D] and losses [R, D], or [R, D / block].

    Raises:
        ValueError: Wrong shape or device, NaN or Inf.
        SingularHessianError: Not positive definite even at damp = 1.

    Warns:
        DampingWarning: More damping than asked for was used.

    Source: Frantar, Singh, Alistarh, "Optimal Brain Compression" (NeurIPS 2022), Algorithm 1.
    Reference: reference.obc_trace.
    """
    function = "obc_trace"
    check_tensor(function, "weight", weight, ndim=2)
    cols = weight.shape[1]
    if block is not None and cols % check_int(function, "block", block, 1):
        raise ValueError(f"{function}: block must divide the {cols} columns, got {block}")
    threads = resolve_threads(function, threads)
    problem = prepare(function, weight, hessian, damp, threads)
    size = block or 1
    kind, pattern = ("", (cols,)) if size == 1 else ("_block", (size,))
    order, loss = eliminate(function, problem, kind, pattern, cols // size, threads, progress)
    return OBCTrace(order, loss, problem.damp, problem.weight, problem.hessian, problem.hinv, size)


def obc_prune(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    sparsity: float = 0.0,
    *,
    n: int | None = None,
    m: int | None = None,
    block: int | None = None,
    damp: float = 0.01,
    threads: int | None = None,
    progress: bool | Callback | None = None,
) -> torch.Tensor:
    """Prune a layer with exact OBC: unstructured, n:m, or in blocks of consecutive columns.

    Args:
        weight: [R, D]. Not modified.
        hessian: [D, D], H = X X^T. Not modified.
        sparsity: In [0, 1]; the ceil(sparsity R D) weights (blocks) of least loss go. Ignored for n:m.
        n: With m: n weights of each m consecutive ones of a row go.
        m: Divides D.
        block: Weights go in blocks of so many consecutive columns; divides D. Not with n and m.
        damp: As in obc_trace.
        threads: As in obc_trace.
        progress: As in obc_trace.

    Returns:
        [R, D], dtype of weight; pruned weights are exactly 0, kept ones the least-squares optimum.

    Raises:
        ValueError: Wrong shape, device, pattern or range, NaN or Inf.
        SingularHessianError: Not positive definite even at damp = 1.

    Source: Frantar, Singh, Alistarh, "Optimal Brain Compression" (NeurIPS 2022), Algorithms 1 and 2, section 4.
    Reference: reference.obc_prune.
    """
    function = "obc_prune"
    if torch.compiler.is_compiling():
        result: torch.Tensor = torch.ops.spade_ext.obc_prune(
            weight, hessian, sparsity, n, m, block, damp, threads or 0
        )
        return result
    check_tensor(function, "weight", weight, ndim=2)
    sparsity = check_range(function, "sparsity", sparsity, 0.0, 1.0)
    cols = weight.shape[1]
    pattern = check_nm(function, n, m, cols)
    if pattern is None:
        trace = obc_trace(
            weight, hessian, block=block, damp=damp, threads=threads, progress=progress
        )
        return trace.prune(sparsity, threads=threads).to(weight.dtype)
    if block is not None:
        raise ValueError(f"{function}: block does not go with n:m, got block={block}, {n}:{m}")
    threads = resolve_threads(function, threads)
    problem = prepare(function, weight, hessian, damp, threads)
    steps = cols // pattern[1] * pattern[0]
    order, loss = eliminate(function, problem, "_nm", pattern, steps, threads, progress)
    trace = OBCTrace(order, loss, problem.damp, problem.weight, problem.hessian, problem.hinv)
    counts = torch.full((weight.shape[0],), steps)
    return trace.prune_rows(counts, threads=threads).to(weight.dtype)
