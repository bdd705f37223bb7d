"""SparseGPT of some layers: checked arguments, and the calls on the CPU and on CUDA."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from spade_ext import _C, _cuda
from spade_ext._memory import empty
from spade_ext.checks import (
    MOST_DAMP,
    check_all_finite,
    check_device,
    check_finite,
    check_int,
    check_nm,
    check_range,
    check_same_device,
    check_shape,
    check_square,
    compute_dtype,
    dense,
    narrowed,
    resolve_threads,
)
from spade_ext.progress import Callback, reporting


class SparseGPTOptions(NamedTuple):
    """What goes from a layer; see sparsegpt_prune."""

    sparsity: float
    block_size: int
    n: int | None
    m: int | None
    damp: float
    extra: int = 0


class SparseGPTProblem(NamedTuple):
    """A layer and its samples, checked but for NaN and Inf."""

    weight: torch.Tensor
    """[R, D] or [S, R, D], contiguous, of the dtype that is computed in."""
    hessian: torch.Tensor
    """[S, D, D], likewise."""
    options: tuple[float, int, int, int, float, int]
    """The fields of spade_sparsegpt_t."""
    dtype: torch.dtype
    """Of the result."""
    names: tuple[str, str]
    """Of weight and hessian in errors."""

    @property
    def cost(self) -> int:
        """Multiplications, about."""
        rows, cols = self.weight.shape[-2:]
        return len(self.hessian) * cols * cols * (rows + cols // 3) + 1


class SparseGPTResult(NamedTuple):
    """A layer's result: weights [S, R, D], and of each sample the damping used and 0 or why it failed."""

    weights: torch.Tensor
    damp: list[float]
    info: list[int]


def check_problem(
    function: str,
    weight: torch.Tensor,
    hessian: torch.Tensor,
    pattern: SparseGPTOptions,
    names: tuple[str, str] = ("weight", "hessian"),
) -> SparseGPTProblem:
    """The problem of weight [R, D] or [S, R, D] and hessian [D, D] or [S, D, D]."""
    rows, cols = weight.shape[-2:]
    batch = hessian.shape[:-2]
    samples = batch[0] if batch else 1
    check_square(function, names[1], hessian)
    check_shape(function, names[1], hessian, (*batch, cols, cols))
    if weight.ndim == 3:
        check_shape(function, names[0], weight, (samples, rows, cols))
    check_device(function, names[0], weight)
    check_same_device(function, names[1], hessian, names[0], weight)
    check_range(function, "sparsity", pattern.sparsity, 0.0, 1.0)
    check_int(function, "block_size", pattern.block_size, 1)
    check_int(function, "extra", pattern.extra, 0)
    n, m = check_nm(function, pattern.n, pattern.m, cols) or (0, 0)
    check_range(function, "damp", pattern.damp, 0.0, MOST_DAMP)
    options = (
        float(pattern.sparsity),
        pattern.block_size,
        n,
        m,
        float(pattern.damp),
        pattern.extra,
    )
    dtype = compute_dtype(weight, hessian)
    w, h = dense(weight, dtype), dense(hessian, dtype)
    return SparseGPTProblem(w, h if batch else h[None], options, weight.dtype, names)


def prune(
    function: str,
    problems: Sequence[SparseGPTProblem],
    threads: int | None,
    progress: bool | Callback | None,
    max_scratch: int | None = None,
) -> list[SparseGPTResult]:
    """Prune all problems, of one device.

    Raises:
        ValueError: Different devices, NaN or Inf.
    """
    threads = resolve_threads(function, threads)
    if not problems:
        return []
    first = problems[0]
    for x in problems[1:]:
        check_same_device(function, x.names[0], x.weight, first.names[0], first.weight)
    if first.weight.is_cuda:
        return _prune_cuda(function, problems, max_scratch)
    total, done = sum(x.cost for x in problems), 0
    results = []
    with reporting(progress, function) as report:
        for x in problems:
            part = _part(report, done, x.cost, total) if report and len(problems) > 1 else report
            results.append(_prune_cpu(function, x, threads, part))
            done += x.cost
    return results


def _part(report: Callback, before: int, cost: int, total: int) -> Callback:
    """Progress of one problem as that of all."""

    def of_all(done: int, whole: int) -> object:
        return report(before + cost * done // max(1, whole), total)

    return of_all


def _prune_cpu(
    function: str, x: SparseGPTProblem, threads: int, report: Callback | None
) -> SparseGPTResult:
    samples, (rows, cols) = len(x.hessian), x.weight.shape[-2:]
    inputs = dict(zip(x.names, (x.weight, x.hessian), strict=True))
    if not x.weight.numel() or not x.hessian.numel():  # the native call checks others
        check_all_finite(function, **inputs)
    out = empty((samples, rows, cols), x.weight.dtype, x.weight.device)
    try:
        wide = x.weight.dtype == torch.float64
        used, info = (_C.sparsegpt_prune_f64 if wide else _C.sparsegpt_prune_f32)(
            x.weight.data_ptr(), rows * cols if x.weight.ndim == 3 else 0, x.hessian.data_ptr(),
            samples, rows, cols, *x.options, out.data_ptr(), threads, report,
        )  # fmt: skip
    except ValueError as error:
        check_all_finite(function, **inputs)  # says more than the native text
        raise ValueError(f"{function}: {str(error).partition(': ')[2]}") from None
    return SparseGPTResult(narrowed(function, out, x.dtype), used, info)


def _scale(most: float) -> float:
    """The power of two that brings the largest weight so near 1 that errors over U are numbers of its dtype."""
    exponent = math.frexp(most)[1] if most else 0
    return math.ldexp(1.0, max(-60, min(60, exponent)) - exponent)


def _prune_cuda(
    function: str, problems: Sequence[SparseGPTProblem], most_scratch: int | None
) -> list[SparseGPTResult]:
    """One call for all problems of a dtype; the host waits twice, for NaN and Inf and for dampings and statuses."""
    most = check_all_finite(
        function,
        **{
            name: value
            for x in problems
            for name, value in zip(x.names, (x.weight, x.hessian), strict=True)
        },
    )
    results: dict[int, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}
    for dtype in {x.weight.dtype for x in problems}:
        some = [i for i, x in enumerate(problems) if x.weight.dtype == dtype]
        layers = [(problems[i].weight, problems[i].hessian, problems[i].options) for i in some]
        scales = [_scale(most[problems[i].names[0]]) for i in some]
        layers = [
            (w * scale if scale != 1 else w, h, options)
            for (w, h, options), scale in zip(layers, scales, strict=True)
        ]
        pruned_layers = _cuda.sparsegpt_prune(layers, most=most_scratch)
        for i, scale, (weights, damp, info) in zip(some, scales, pruned_layers, strict=True):
            if scale != 1:
                weights = weights / scale
                check_finite(function, "the pruned weight", weights)
            results[i] = (weights, damp, info)
    found = [results[i] for i in range(len(problems))]
    numbers = torch.cat([torch.stack([damp, info.double()]) for _, damp, info in found], 1)
    damps, statuses = numbers.tolist()  # waits once
    pruned, start = [], 0
    for x, (weights, damp, _) in zip(problems, found, strict=True):
        part = slice(start, start + len(damp))
        narrow = narrowed(function, weights, x.dtype)
        pruned.append(SparseGPTResult(narrow, damps[part], [int(i) for i in statuses[part]]))
        start = part.stop
    return pruned
