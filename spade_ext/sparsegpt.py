"""SparseGPT, for one Hessian, a batch of them, or several layers."""

import warnings
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeVar, overload

import torch

from spade_ext._loss import pruning_loss
from spade_ext._preserve import prune_preserving
from spade_ext._sparsegpt import (
    SparseGPTOptions,
    SparseGPTProblem,
    SparseGPTResult,
    check_problem,
    prune,
)
from spade_ext.checks import check_finite, check_nm, check_shape, check_tensor
from spade_ext.errors import DampingWarning, SingularHessianError
from spade_ext.inverse import warn_damping
from spade_ext.progress import Callback

T = TypeVar("T")


class SparseGPTBatch(NamedTuple):
    """Result of sparsegpt_prune_batch.

    Example:
        >>> import torch, spade_ext
        >>> h = torch.stack([spade_ext.hessian(torch.randn(200, 64)) for _ in range(3)])
        >>> batch = spade_ext.sparsegpt_prune_batch(torch.randn(32, 64), h, 0.9)
        >>> batch.damp.tolist(), batch.failed.tolist()
        ([0.01, 0.01, 0.01], [False, False, False])
    """

    weights: torch.Tensor
    """[S, R, D]; dense where a sample failed."""
    damp: torch.Tensor
    """[S] float64, the damping really used."""
    failed: torch.Tensor
    """[S] bool: not positive definite even at damp = 1."""

    def loss(self, weight: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
        """The loss of each sample, [S] float64: 1/2 tr((W - W') H (W - W')^T) with the damped H.

        It is what the published class prints as its error when H is 2 / samples * X X^T. It costs 2 R D^2 operations
        per sample. A sample that failed has loss 0, as it is dense.

        Args:
            weight: [R, D] or [S, R, D], the dense weights.
            hessian: [S, D, D], as given to the op.
        """
        dense = weight.expand(self.weights.shape)
        parts = zip(dense, self.weights, hessian, self.damp.tolist(), strict=True)
        return torch.stack([pruning_loss(*part) for part in parts])


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
    preserve: torch.Tensor | None = None,
    threads: int | None = None,
    progress: bool | Callback | None = None,
) -> SparseGPTBatch:
    """Prune one weight, or one per sample, for S Hessians. A sample that fails does not stop the others.

    Args:
        weight: [R, D] shared by the samples, or [S, R, D]. Not modified.
        hessian: [S, D, D]: only the lower triangles are read. Not modified.
        sparsity: As in sparsegpt_prune.
        block_size: As in sparsegpt_prune.
        n: As in sparsegpt_prune.
        m: As in sparsegpt_prune.
        damp: As in sparsegpt_prune.
        extra: As in sparsegpt_prune.
        preserve: As in sparsegpt_prune, [R, D] for all samples or [S, R, D].
        threads: As in sparsegpt_prune.
        progress: As in sparsegpt_prune.

    Returns:
        SparseGPTBatch(weights, damp, failed); its `loss(weight, hessian)` gives the losses. Nothing is raised or
        warned of for a sample that needed more damping or failed.

    Raises:
        ValueError: Wrong shape, device, pattern or range, NaN or Inf.

    Example:
        >>> import torch, spade_ext
        >>> h = torch.stack([spade_ext.hessian(torch.randn(200, 64)) for _ in range(3)])
        >>> weights, damp, failed = spade_ext.sparsegpt_prune_batch(torch.randn(32, 64), h, 0.9)
        >>> weights.shape
        torch.Size([3, 32, 64])
    """
    function = "sparsegpt_prune_batch"
    check_tensor(function, "weight", weight, ndim=(2, 3))
    check_tensor(function, "hessian", hessian, ndim=3)
    pattern = SparseGPTOptions(sparsity, block_size, n, m, damp, extra)
    problem = check_problem(function, weight, hessian, pattern)
    if preserve is not None:
        return _batch(_preserving(function, weight, problem, pattern, preserve))
    return _batch(prune(function, [problem], threads, progress)[0])


def sparsegpt_prune_layers(
    weights: Sequence[torch.Tensor],
    hessians: Sequence[torch.Tensor],
    sparsity: float | Sequence[float] = 0.0,
    *,
    block_size: int | Sequence[int] = 128,
    n: int | None = None,
    m: int | None = None,
    damp: float = 0.01,
    threads: int | None = None,
    progress: bool | Callback | None = None,
    max_scratch: int | None = None,
) -> list[SparseGPTBatch]:
    """Prune L layers, each for a batch of Hessians: on CUDA all in the launches that the widest takes.

    Args:
        weights: For each layer [R, D] shared by its samples, or [S, R, D]. Not modified.
        hessians: For each layer [S, D, D]: only the lower triangles are read. Not modified.
        sparsity: As in sparsegpt_prune, for all layers or of each.
        block_size: As in sparsegpt_prune, for all layers or of each.
        n: As in sparsegpt_prune.
        m: As in sparsegpt_prune, divides D of all layers.
        damp: As in sparsegpt_prune.
        threads: As in sparsegpt_prune.
        progress: As in sparsegpt_prune, over all layers by their cost; never called on CUDA.
        max_scratch: As in obc_trace.

    Returns:
        What sparsegpt_prune_batch gives for each layer.

    Raises:
        ValueError: As sparsegpt_prune_batch, naming weights[i] or hessians[i]; lengths that differ, different devices.

    Example:
        >>> import torch, spade_ext
        >>> weights = [torch.randn(32, 64), torch.randn(16, 32)]
        >>> hessians = [spade_ext.hessian(torch.randn(200, w.shape[1]))[None] for w in weights]
        >>> first, second = spade_ext.sparsegpt_prune_layers(weights, hessians, [0.9, 0.5])
        >>> second.weights.shape
        torch.Size([1, 16, 32])
    """
    function = "sparsegpt_prune_layers"
    count = len(weights)
    matrices: Sequence[torch.Tensor] = _of_each(function, "hessians", hessians, count)
    ratios: Sequence[float] = _of_each(function, "sparsity", sparsity, count)
    widths: Sequence[int] = _of_each(function, "block_size", block_size, count)
    layers = zip(weights, matrices, ratios, widths, strict=True)
    problems = []
    for i, (weight, hessian, ratio, width) in enumerate(layers):
        names = f"weights[{i}]", f"hessians[{i}]"
        check_tensor(function, names[0], weight, ndim=(2, 3))
        check_tensor(function, names[1], hessian, ndim=3)
        pattern = SparseGPTOptions(ratio, width, n, m, damp)
        problems.append(check_problem(function, weight, hessian, pattern, names))
    return [_batch(x) for x in prune(function, problems, threads, progress, max_scratch)]


def _of_each(function: str, name: str, value: T | Sequence[T], layers: int) -> Sequence[T]:
    """A value for each layer, from one for all or a sequence of them."""
    if not isinstance(value, Sequence):
        return [value] * layers
    if len(value) != layers:
        raise ValueError(
            f"{function}: {name} must have one entry for each of {layers} weights, got {len(value)}"
        )
    return value


def _batch(pruned: SparseGPTResult) -> SparseGPTBatch:
    return SparseGPTBatch(
        pruned.weights,
        torch.tensor(pruned.damp, dtype=torch.float64),
        torch.tensor(pruned.info, dtype=torch.bool),
    )


@overload
def sparsegpt_prune(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    sparsity: float = ...,
    *,
    block_size: int = ...,
    n: int | None = ...,
    m: int | None = ...,
    damp: float = ...,
    extra: int = ...,
    preserve: torch.Tensor | None = ...,
    return_loss: Literal[False] = ...,
    threads: int | None = ...,
    progress: bool | Callback | None = ...,
) -> torch.Tensor: ...


@overload
def sparsegpt_prune(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    sparsity: float = ...,
    *,
    block_size: int = ...,
    n: int | None = ...,
    m: int | None = ...,
    damp: float = ...,
    extra: int = ...,
    preserve: torch.Tensor | None = ...,
    return_loss: Literal[True],
    threads: int | None = ...,
    progress: bool | Callback | None = ...,
) -> tuple[torch.Tensor, torch.Tensor]: ...


def sparsegpt_prune(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    sparsity: float = 0.0,
    *,
    block_size: int = 128,
    n: int | None = None,
    m: int | None = None,
    damp: float = 0.01,
    extra: int = 0,
    preserve: torch.Tensor | None = None,
    return_loss: bool = False,
    threads: int | None = None,
    progress: bool | Callback | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Prune a layer with SparseGPT, with one Cholesky a Hessian.

    In each block of block_size columns the floor(sparsity * R * width) weights of least w^2 / U_jj^2 over all
    rows are removed (U: upper Cholesky factor of H^-1; ties: lowest row-major index of the block), and the columns to
    the right compensate: W[:, k] -= (W - Q)[:, j] / U_jj * U_jk. Dead columns (H_jj = 0) are removed first.

    Args:
        weight: [R, D], or [S, R, D]; float32 or float64 (16-bit floats are computed in float32). Not modified.
        hessian: [D, D], or [S, D, D] for S samples at once: only the lower triangle is read. Its scale does not matter,
            up to the limits of its dtype. Not modified.
        sparsity: In [0, 1]; 0.95 of 20 weights counts as 19. Ignored for n:m.
        block_size: Columns of a mask block, any number >= 1.
        n: With m: of each m consecutive weights of a row n are removed.
        m: Divides D.
        damp: Damping relative to the mean of the diagonal, in [0, 1e6].
        extra: Weights of each block that go beyond floor(sparsity * R * width), at most all; published: 1.
        preserve: [R, D] (or [S, R, D]) bool, weights that are to be 0 in the result: they go first and count for
            the sparsity. Such a call is computed by torch, about as fast as the published code.
        return_loss: Whether to return the loss too.
        threads: CPU threads; None takes torch.get_num_threads(). The result does not depend on it.
        progress: None, True for a bar, or callback(done, total).

    Returns:
        [R, D], or [S, R, D] if hessian has three dimensions; dtype of weight. With return_loss a pair of that and
        the loss, [] or [S] float64; see SparseGPTBatch.loss.

    Raises:
        ValueError: Wrong shape, device, pattern or range, NaN or Inf.
        SingularHessianError: Not positive definite even at damp = 1; .index is the sample.

    Warns:
        DampingWarning: More damping than asked for was used.

    Source: Frantar, Alistarh, "SparseGPT" (ICML 2023), Algorithm 1.
    Reference: reference.sparsegpt_prune.

    Example:
        >>> import torch, spade_ext
        >>> weight, h = torch.randn(32, 64), spade_ext.hessian(torch.randn(200, 64))
        >>> int((spade_ext.sparsegpt_prune(weight, h, 0.75) == 0).sum())
        1536
        >>> samples = torch.stack([spade_ext.hessian(torch.randn(200, 64)) for _ in range(5)])
        >>> spade_ext.sparsegpt_prune(weight, samples, 0.75).shape
        torch.Size([5, 32, 64])
    """
    function = "sparsegpt_prune"
    plain = not (extra or return_loss or preserve is not None)
    if torch.compiler.is_compiling() and plain:
        result: torch.Tensor = torch.ops.spade_ext.sparsegpt_prune(
            weight, hessian, sparsity, block_size, n, m, damp, threads or 0
        )
        return result
    check_tensor(function, "hessian", hessian, ndim=(2, 3))
    single = hessian.ndim == 2
    check_tensor(function, "weight", weight, ndim=2 if single else (2, 3))
    pattern = SparseGPTOptions(sparsity, block_size, n, m, damp, extra)
    problem = check_problem(function, weight, hessian, pattern)
    pruned = (
        prune(function, [problem], threads, progress)[0]
        if preserve is None
        else _preserving(function, weight, problem, pattern, preserve)
    )
    if any(pruned.info):
        index = next(i for i, status in enumerate(pruned.info) if status)
        which = "hessian" if single else f"hessian[{index}]"
        raise SingularHessianError(
            f"{function}: {which} is not positive definite, even with damp = {max(damp, 1.0):g}",
            None if single else index,
        )
    for one in pruned.damp:
        warn_damping(function, damp, one)
    weights = pruned.weights[0] if single else pruned.weights
    if not return_loss:
        return weights
    loss = _batch(pruned).loss(weight, hessian[None] if single else hessian)
    return weights, loss[0] if single else loss


def _preserving(
    function: str,
    weight: torch.Tensor,
    problem: SparseGPTProblem,
    pattern: SparseGPTOptions,
    preserve: torch.Tensor,
) -> SparseGPTResult:
    """Prune each sample of a checked problem so that some weights stay 0."""
    check_tensor(function, "preserve", preserve, ndim=(2, 3), dtypes=(torch.bool,))
    rows, cols = weight.shape[-2:]
    samples = len(problem.hessian)
    own = preserve.ndim == 3
    check_shape(function, "preserve", preserve, (samples, rows, cols) if own else (rows, cols))
    check_finite(function, problem.names[0], problem.weight)
    check_finite(function, problem.names[1], problem.hessian)
    n_of_m = check_nm(function, pattern.n, pattern.m, cols)
    parts = zip(
        problem.weight.expand(samples, rows, cols),
        problem.hessian,
        preserve.expand(samples, rows, cols),
        strict=True,
    )
    weights, damps, info = [], [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DampingWarning)  # the caller says it for all samples
        for w, h, zeros in parts:
            try:
                pruned, used = prune_preserving(
                    w, h, zeros, pattern.sparsity, pattern.block_size, n_of_m, pattern.damp, pattern.extra
                )  # fmt: skip
            except SingularHessianError:
                pruned, used, failed = w, max(pattern.damp, 1.0), 1
            else:
                failed = 0
            weights.append(pruned.to(problem.dtype))
            damps.append(used)
            info.append(failed)
    return SparseGPTResult(torch.stack(weights), damps, info)
