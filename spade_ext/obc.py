"""Exact OBC: the elimination order of every weight of a layer, and a layer pruned by it."""

import torch

from spade_ext import _C
from spade_ext._elimination import (
    Elimination,
    EliminationPattern,
    Outcome,
    check_layer,
    eliminate,
    native_errors,
    row_error,
)
from spade_ext._elimination_cuda import eliminate_cuda
from spade_ext._selection import count_steps, solve_weights
from spade_ext._trace import OBCTrace
from spade_ext.checks import (
    MOST_DAMP,
    check_finite,
    check_int,
    check_nm,
    check_range,
    compute_dtype,
    dense,
    narrowed,
    resolve_threads,
)
from spade_ext.inverse import warn_damping
from spade_ext.progress import Callback, reporting
from spade_ext.structured import prune_structured

__all__ = ["OBCTrace", "obc_prune", "obc_trace"]


def _check_block(function: str, block: int | None, cols: int) -> int:
    """Columns that go together."""
    if block is None:
        return 1
    if cols % check_int(function, "block", block, 1):
        raise ValueError(f"{function}: block must divide the {cols} columns, got {block}")
    return block


def _eliminate(
    function: str,
    weight: torch.Tensor,
    hessian: torch.Tensor,
    pattern: EliminationPattern,
    damp: float,
    threads: int,
    progress: bool | Callback | None,
    max_scratch: int | None = None,
) -> Elimination:
    """Eliminate a checked layer on its device; threads and progress are the CPU's, max_scratch CUDA's."""
    if weight.is_cuda:
        return eliminate_cuda(function, weight, hessian, pattern, damp, max_scratch)
    return eliminate(function, weight, hessian, pattern, damp, threads, progress)


def obc_trace(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    *,
    block: int | None = None,
    damp: float = 0.01,
    threads: int | None = None,
    progress: bool | Callback | None = None,
    max_scratch: int | None = None,
) -> OBCTrace:
    """Eliminate every weight of each row in exact OBC order.

    One step on row w: p = argmin_j w_j^2 / A_jj over the kept weights, A the inverse Hessian of the kept set;
    w -= A[:,p] w_p / A_pp; ties: lowest j. Zero weights and dead columns are removed first, at no loss.

    Args:
        weight: [R, D], or [G, R, D] of a layer of G groups; float32 or float64 (16-bit floats are computed in
            float32). Not modified.
        hessian: [D, D], H = X X^T, or one per group, [G, D, D]: only the lower triangle is read. Not modified.
        block: Weights are removed in blocks of so many consecutive columns, by w_b^T A_bb^-1 w_b; divides D.
        damp: Damping relative to the mean of the diagonal, in [0, 1e6]. Below 1e-3, or with a mean outside
            [1e-18, 1e18], the trace runs in float64.
        threads: CPU threads; None takes torch.get_num_threads(). The result does not depend on it.
        progress: None, True for a bar, or callback(done, total).
        max_scratch: Bytes of scratch memory that a native call on a CUDA device may take, if its work can be cut so
            far; None: half of what is available.

    Returns:
        OBCTrace of order [R, D] and losses [R, D], or [R, D / block], [G, R, D], [G, R, D / block].

    Raises:
        ValueError: Wrong shape or device, NaN or Inf.
        SingularHessianError: Not positive definite even at damp = 1; .index is the row or the group.

    Warns:
        DampingWarning: More damping than asked for was used.

    Source: Frantar, Singh, Alistarh, "Optimal Brain Compression" (NeurIPS 2022), Algorithm 1.
    Reference: reference.obc_trace.

    Example:
        >>> import torch, spade_ext
        >>> weight, h = torch.randn(32, 64), spade_ext.hessian(torch.randn(1000, 64))
        >>> trace = spade_ext.obc_trace(weight, h)
        >>> trace.order.shape  # the column that each row loses at each step
        torch.Size([32, 64])
        >>> half, most = trace.prune(0.5), trace.prune(0.95)  # one elimination serves both
        >>> int((half == 0).sum())
        1024
    """
    function = "obc_trace"
    cols = check_layer(function, weight, hessian)
    pattern = EliminationPattern(block=_check_block(function, block, cols))
    damp = check_range(function, "damp", damp, 0.0, MOST_DAMP)
    threads = resolve_threads(function, threads)
    made = _eliminate(function, weight, hessian, pattern, damp, threads, progress, max_scratch)
    warn_damping(function, damp, made.damp)
    return OBCTrace._of(made, pattern.block)


def obc_prune(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    sparsity: float = 0.0,
    *,
    n: int | None = None,
    m: int | None = None,
    block: int | None = None,
    structured: bool = False,
    damp: float = 0.01,
    threads: int | None = None,
    progress: bool | Callback | None = None,
) -> torch.Tensor:
    """Prune a layer with exact OBC: unstructured, n:m, in blocks of consecutive columns, or whole columns.

    Args:
        weight: [R, D], or [G, R, D] of a layer of G groups. Not modified.
        hessian: As in obc_trace. Not modified.
        sparsity: In [0, 1]; the ceil(sparsity numel) weights (blocks) of least loss of the whole layer are removed.
            Ignored for n:m.
        n: With m: of each m consecutive weights of a row n are removed.
        m: Divides D.
        block: Weights are removed in blocks of so many consecutive columns; divides D. Not with n and m.
        structured: All rows lose the same ceil(sparsity D / block) blocks of columns, one after another those of least
            tr(A_bb^-1 W_b^T W_b); with block = taps of a kernel these are input channels. Computed in float64 by torch,
            so that threads and progress are not used. Not with n and m, nor for a layer of groups.
        damp: As in obc_trace.
        threads: As in obc_trace.
        progress: As in obc_trace.

    Returns:
        A tensor of weight's shape and dtype. Pruned weights are exactly 0, kept ones the least-squares optimum.

    Raises:
        ValueError: Wrong shape, device, pattern or range, NaN or Inf.
        SingularHessianError: Not positive definite even at damp = 1.

    Source: Frantar, Singh, Alistarh, "Optimal Brain Compression" (NeurIPS 2022), Algorithms 1 and 2, section 4.
    Reference: reference.obc_prune.

    Example:
        >>> import torch, spade_ext
        >>> weight, h = torch.randn(32, 64), spade_ext.hessian(torch.randn(1000, 64))
        >>> int((spade_ext.obc_prune(weight, h, 0.5) == 0).sum())
        1024
        >>> two_of_four = spade_ext.obc_prune(weight, h, n=2, m=4)
        >>> bool(((two_of_four.view(32, 16, 4) == 0).sum(2) == 2).all())
        True
    """
    function = "obc_prune"
    if torch.compiler.is_compiling() and not structured:
        result: torch.Tensor = torch.ops.spade_ext.obc_prune(
            weight, hessian, sparsity, n, m, block, damp, threads or 0
        )
        return result
    cols = check_layer(function, weight, hessian)
    sparsity = check_range(function, "sparsity", sparsity, 0.0, 1.0)
    n_of_m = check_nm(function, n, m, cols)
    if n_of_m and block is not None:
        raise ValueError(f"{function}: block does not go with n:m, got block={block}, {n}:{m}")
    pattern = EliminationPattern(*(n_of_m or (0, 0)), _check_block(function, block, cols))
    damp = check_range(function, "damp", damp, 0.0, MOST_DAMP)
    threads = resolve_threads(function, threads)
    if structured:
        if n_of_m or weight.ndim == 3:
            what = f"{n}:{m}" if n_of_m else f"weight of shape {tuple(weight.shape)}"
            raise ValueError(f"{function}: structured needs no n:m and one group, got {what}")
        check_finite(function, "weight", weight)
        check_finite(function, "hessian", hessian)
        out, used = prune_structured(weight, hessian, sparsity, pattern.block, damp)
        warn_damping(function, damp, used)
        return out.to(weight.dtype)
    task = function, weight, hessian, pattern, damp
    out, used = (
        _prune_by_trace(*task, sparsity, threads, progress)
        if weight.is_cuda or weight.ndim == 3
        else _prune_cpu(*task, sparsity, threads, progress)
    )
    warn_damping(function, damp, used)
    return narrowed(function, out, weight.dtype)


def _prune_cpu(
    function: str,
    weight: torch.Tensor,
    hessian: torch.Tensor,
    pattern: EliminationPattern,
    damp: float,
    sparsity: float,
    threads: int,
    progress: bool | Callback | None,
) -> tuple[torch.Tensor, float]:
    """Pruned weights and the damping used, by one native call."""
    dtype = compute_dtype(weight, hessian)
    rows, cols = weight.shape
    w, h, out = dense(weight, dtype), dense(hessian, dtype), torch.empty(weight.shape, dtype=dtype)
    call = _C.obc_prune_f32 if dtype == torch.float32 else _C.obc_prune_f64
    with native_errors(function, weight, hessian), reporting(progress, function) as report:
        outcome = Outcome(*call(
            w.data_ptr(), h.data_ptr(), rows, cols, *pattern, damp, sparsity, out.data_ptr(), threads, report
        ))  # fmt: skip
    if outcome.row >= 0:
        raise row_error(function, outcome.row, outcome.step, outcome.damp)
    return out, outcome.damp


def _prune_by_trace(
    function: str,
    weight: torch.Tensor,
    hessian: torch.Tensor,
    pattern: EliminationPattern,
    damp: float,
    sparsity: float,
    threads: int,
    progress: bool | Callback | None,
) -> tuple[torch.Tensor, float]:
    made = _eliminate(function, weight, hessian, pattern, damp, threads, progress)
    loss = made.loss
    if pattern.m:
        counts = torch.full(loss.shape[:-1], loss.shape[-1], device=loss.device)
    else:
        counts = count_steps(loss, sparsity)
    return solve_weights(function, made, counts, pattern.block, threads), made.damp
