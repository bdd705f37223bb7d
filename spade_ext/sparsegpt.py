"""SparseGPT, for one Hessian or a batch of them."""

from typing import NamedTuple

import torch

from spade_ext import _C, _cuda
from spade_ext._checks import (
    MOST_DAMP,
    check_all_finite,
    check_device,
    check_int,
    check_nm,
    check_range,
    check_same_device,
    check_shape,
    check_square,
    check_tensor,
    compute_dtype,
    dense,
    resolve_threads,
    suffix,
)
from spade_ext._memory import empty
from spade_ext._progress import Callback, reporting
from spade_ext.errors import SingularHessianError
from spade_ext.inverse import warn_damping


class SparseGPTBatch(NamedTuple):
    """Result of sparsegpt_prune_batch."""

    weights: torch.Tensor
    """[S, R, D]; dense where a sample failed."""
    damp: torch.Tensor
    """[S] float64, the damping really used."""
    failed: torch.Tensor
    """[S] bool: not positive definite even at damp = 1."""


def sparsegpt_prune_batch(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    sparsity: float = 0.0,
    *,
    block_size: int = 128,
    n: int | None = None,
    m: int | None = None,
    damp: float = 0.01,
    extra: int = 0,
    threads: int | None = None,
    progress: bool | Callback | None = None,
) -> SparseGPTBatch:
    """Prune one weight, or one a sample, for S Hessians; a sample that fails does not stop the others.

    Args:
        weight: [R, D] shared by the samples, or [S, R, D]. Not modified.
        hessian: [S, D, D]: only the lower triangles are read. Not modified.
        sparsity: As in sparsegpt_prune.
        block_size: As in sparsegpt_prune.
        n: As in sparsegpt_prune.
        m: As in sparsegpt_prune.
        damp: As in sparsegpt_prune.
        extra: Weights of each block that go beyond floor(sparsity * R * width), at most all.
        threads: As in sparsegpt_prune.
        progress: As in sparsegpt_prune.

    Returns:
        SparseGPTBatch(weights, damp, failed); nothing is raised or warned of for a sample that needed more
        damping or failed.

    Raises:
        ValueError: Wrong shape, device, pattern or range, NaN or Inf.
    """
    function = "sparsegpt_prune_batch"
    check_tensor(function, "weight", weight, ndim=(2, 3))
    check_tensor(function, "hessian", hessian, ndim=3)
    weights, used, info = _prune(
        function, weight, hessian, sparsity, block_size, n, m, damp, extra, threads, progress
    )
    return SparseGPTBatch(
        weights, torch.tensor(used, dtype=torch.float64), torch.tensor(info, dtype=torch.bool)
    )


def _prune(
    function: str,
    weight: torch.Tensor,
    hessian: torch.Tensor,
    sparsity: float,
    block_size: int,
    n: int | None,
    m: int | None,
    damp: float,
    extra: int,
    threads: int | None,
    progress: bool | Callback | None,
) -> tuple[torch.Tensor, list[float], list[int]]:
    """Weights [..., R, D], damping and info (0: success) of each sample of hessian [..., D, D]."""
    rows, cols = weight.shape[-2:]
    batch = hessian.shape[:-2]
    samples = batch[0] if batch else 1
    check_square(function, "hessian", hessian)
    check_shape(function, "hessian", hessian, (*batch, cols, cols))
    if weight.ndim == 3:
        check_shape(function, "weight", weight, (samples, rows, cols))
    check_device(function, "weight", weight)
    check_same_device(function, "hessian", hessian, "weight", weight)
    check_range(function, "sparsity", sparsity, 0.0, 1.0)
    check_int(function, "block_size", block_size, 1)
    check_int(function, "extra", extra, 0)
    pattern = check_nm(function, n, m, cols) or (0, 0)
    check_range(function, "damp", damp, 0.0, MOST_DAMP)
    threads = resolve_threads(function, threads)
    dtype = compute_dtype(weight, hessian)
    if weight.is_cuda or not weight.numel() or not hessian.numel():  # the native call checks others
        check_all_finite(function, weight=weight, hessian=hessian)
    w, h = dense(weight, dtype), dense(hessian, dtype)
    options = (float(sparsity), block_size, *pattern, float(damp), extra)
    if w.is_cuda and dtype == torch.float32:
        weights, damps, status = _cuda.sparsegpt_prune(w, h if batch else h[None], options)
        weights = weights.to(weight.dtype)
        used, info = torch.stack([damps, status.double()]).tolist()  # waits once
        return weights if batch else weights[0], used, [int(x) for x in info]
    if w.is_cuda:  # float64 has no CUDA kernels
        weights, used, info = _prune(
            function, w.cpu(), h.cpu(), sparsity, block_size, n, m, damp, extra, threads, progress
        )
        return weights.to(w.device), used, info
    out = empty((*batch, rows, cols), dtype, weight.device)
    try:
        with reporting(progress, function) as report:
            used, info = getattr(_C, f"sparsegpt_prune_{suffix(w)}")(
                w.data_ptr(), rows * cols if weight.ndim == 3 else 0, h.data_ptr(), samples, rows,
                cols, *options, out.data_ptr(), threads, report,
            )  # fmt: skip
    except ValueError:
        check_all_finite(function, weight=weight, hessian=hessian)  # says more than the native text
        raise
    return out if dtype == weight.dtype else out.to(weight.dtype), used, info


def sparsegpt_prune(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    sparsity: float = 0.0,
    *,
    block_size: int = 128,
    n: int | None = None,
    m: int | None = None,
    damp: float = 0.01,
    threads: int | None = None,
    progress: bool | Callback | None = None,
) -> torch.Tensor:
    """Prune a layer with SparseGPT, with one Cholesky a Hessian.

    In each block of block_size columns the floor(sparsity * R * width) weights of least w^2 / U_jj^2 over all
    rows go (U: upper Cholesky factor of H^-1; ties: lowest row-major index of the block), and the columns to
    the right compensate: W[:, k] -= (W - Q)[:, j] / U_jj * U_jk. Dead columns (H_jj = 0) go first.

    Args:
        weight: [R, D], or [S, R, D]; float32 or float64 (16-bit floats are computed in float32). Not modified.
        hessian: [D, D], or [S, D, D] for S samples at once: only the lower triangle is read. Its scale does not matter,
            up to the limits of its dtype. Not modified.
        sparsity: In [0, 1]; 0.95 of 20 weights counts as 19. Ignored for n:m.
        block_size: Columns of a mask block, any number >= 1.
        n: With m: n weights of each m consecutive ones of a row go.
        m: Divides D.
        damp: Damping relative to the mean of the diagonal, in [0, 1e6].
        threads: CPU threads; None takes torch.get_num_threads(). The result does not depend on it.
        progress: None, True for a bar, or callback(done, total).

    Returns:
        [R, D], or [S, R, D] if hessian has three dimensions; dtype of weight.

    Raises:
        ValueError: Wrong shape, device, pattern or range, NaN or Inf.
        SingularHessianError: Not positive definite even at damp = 1; .index is the sample.

    Warns:
        DampingWarning: More damping than asked for was used.

    Source: Frantar, Alistarh, "SparseGPT" (ICML 2023), Algorithm 1.
    Reference: reference.sparsegpt_prune.
    """
    function = "sparsegpt_prune"
    if torch.compiler.is_compiling():
        result: torch.Tensor = torch.ops.spade_ext.sparsegpt_prune(
            weight, hessian, sparsity, block_size, n, m, damp, threads or 0
        )
        return result
    check_tensor(function, "hessian", hessian, ndim=(2, 3))
    single = hessian.ndim == 2
    check_tensor(function, "weight", weight, ndim=2 if single else (2, 3))
    weights, used, info = _prune(
        function, weight, hessian, sparsity, block_size, n, m, damp, 0, threads, progress
    )
    if any(info):
        index = next(i for i, status in enumerate(info) if status)
        which = "hessian" if single else f"hessian[{index}]"
        raise SingularHessianError(
            f"{function}: {which} is not positive definite, even with damp = {max(damp, 1.0):g}",
            None if single else index,
        )
    for one in used:
        warn_damping(function, damp, one)
    return weights
