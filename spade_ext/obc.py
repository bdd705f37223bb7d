"""Exact OBC: the elimination order of every weight of a layer, and weights for any sparsity from it."""

import json
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from spade_ext import _C, _cuda
from spade_ext._checks import (
    check_device,
    check_finite,
    check_int,
    check_nm,
    check_range,
    check_same_device,
    check_shape,
    check_tensor,
    compute_dtype,
    dense,
    resolve_threads,
    suffix,
)
from spade_ext._progress import Callback, reporting
from spade_ext.errors import SingularHessianError
from spade_ext.inverse import damped_inverse, invert, invert_cuda, warn_damping

FLOAT64_BELOW_DAMP = (
    1e-3  # less damping leaves rank-deficient Hessians too ill-conditioned for float32
)

_TENSORS = ("order", "loss", "weight", "hessian", "hinv")


@dataclass(frozen=True)
class OBCTrace:
    """Elimination order of every weight of a layer and what is needed to prune by it.

    Attributes:
        order: [R, D] int32, column of row r removed at step k; [R, D / block] blocks if block > 1.
        loss: as order, cost 0.5 * w_p^2 / A_pp of each step (0.5 * w_b^T A_bb^-1 w_b of a block).
        damp: Damping that was used, relative to the mean diagonal of H.
        weight: [R, D] dense weights, dead columns set to 0.
        hessian: [D, D] damped Hessian.
        hinv: [D, D] its inverse A.
        block: Columns that go together.
    """

    order: torch.Tensor
    loss: torch.Tensor
    damp: float
    weight: torch.Tensor
    hessian: torch.Tensor
    hinv: torch.Tensor
    block: int = 1

    def counts(self, sparsity: float) -> torch.Tensor:
        """Steps that each row takes when the ceil(sparsity * steps) least losses of the layer go.

        Row r loses as many weights (or blocks), in its own order, as it has entries among them; 0.3 of 10 counts
        as 3; ties: lowest row-major index.

        Returns:
            [R] int64.
        """
        sparsity = check_range("OBCTrace.counts", "sparsity", sparsity, 0.0, 1.0)
        rows, steps = self.loss.shape
        if self.loss.is_cuda:
            total = math.ceil((sparsity - 1e-9) * rows * steps)
            chosen = self.loss.flatten().argsort(stable=True)[: max(0, total)]
            return torch.bincount(chosen // max(1, steps), minlength=rows)
        loss = dense(self.loss, self.loss.dtype)
        counts = torch.empty(rows, dtype=torch.int64)
        getattr(_C, f"obc_counts_{suffix(loss)}")(
            loss.data_ptr(), rows, steps, sparsity, counts.data_ptr()
        )
        return counts

    def prune(self, sparsity: float, *, threads: int | None = None) -> torch.Tensor:
        """Weights [R, D] of the layer at this sparsity, in [0, 1], chosen by least loss over all rows."""
        return self.prune_rows(self.counts(sparsity), threads=threads)

    def prune_rows(
        self,
        counts: torch.Tensor,
        *,
        threads: int | None = None,
        progress: bool | Callback | None = None,
    ) -> torch.Tensor:
        """Weights with the first counts[r] eliminations of each row done.

        The least-squares optimum of the kept columns, w_K = H_KK^-1 (H w0)_K, solved in float64 over the kept or
        the pruned side, whichever is smaller. Pruned weights are exactly 0.

        Args:
            counts: [R] integers, steps of each row, in [0, D / block]. Not modified.
            threads: CPU threads; None takes torch.get_num_threads().
            progress: None, True for a bar, or callback(done, total).

        Returns:
            [R, D], dtype of the trace.

        Raises:
            ValueError: A count out of range.
            SingularHessianError: A kept set whose Hessian is not positive definite.
        """
        function = "OBCTrace.prune_rows"
        check_tensor(function, "counts", counts, ndim=1, dtypes=(torch.int32, torch.int64))
        rows, cols = self.weight.shape
        check_shape(function, "counts", counts, (rows,))
        threads = resolve_threads(function, threads)
        counts, order = dense(counts, torch.int64), self.order
        if self.block > 1:
            counts = counts * self.block
            within = torch.arange(self.block, dtype=torch.int32, device=order.device)
            order = (order[:, :, None] * self.block + within).flatten(1).contiguous()
        if self.weight.is_cuda and self.weight.dtype == torch.float32:
            out, info = _cuda.obc_weights(
                self.weight, self.hessian, self.hinv, order, counts.to(self.weight.device)
            )
            row = _first_failed(info)
        elif self.weight.is_cuda:
            host = self._on("cpu").prune_rows(counts.cpu(), threads=threads, progress=progress)
            return host.to(self.weight.device)
        else:
            out = torch.empty_like(self.weight)
            info = torch.empty(rows, dtype=torch.int32)
            with reporting(progress, "obc_weights") as report:
                row = getattr(_C, f"obc_weights_{suffix(self.weight)}")(
                    self.weight.data_ptr(), self.hessian.data_ptr(), self.hinv.data_ptr(),
                    rows, cols, order.shape[1], order.data_ptr(), counts.data_ptr(),
                    out.data_ptr(), info.data_ptr(), threads, report,
                )  # fmt: skip
        if row >= 0:
            raise SingularHessianError(
                f"{function}: the Hessian of the kept columns of row {row} is not positive definite "
                f"(damp={self.damp:g})",
                row,
            )
        return out

    def _on(self, device: torch.device | str) -> "OBCTrace":
        """The same trace on another device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in _TENSORS})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trace as safetensors: to a temporary file beside path, then renamed."""
        target = Path(path)
        part = target.with_name(f"{target.name}.part{os.getpid()}")
        try:
            save_file(
                {name: getattr(self, name).contiguous() for name in _TENSORS},
                part,
                {
                    "format": "spade_ext.OBCTrace",
                    "damp": json.dumps(self.damp),
                    "block": json.dumps(self.block),
                },
            )
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "OBCTrace":
        """Read a trace that save() wrote.

        Raises:
            FileNotFoundError: No such file.
            ValueError: Not a trace, or its shapes do not fit together.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except SafetensorError as error:
            raise ValueError(f"OBCTrace.load: {path} is not a safetensors file: {error}") from None
        if metadata.get("format") != "spade_ext.OBCTrace":
            raise ValueError(f"OBCTrace.load: {path} holds no OBCTrace, got metadata {metadata}")
        trace = cls(
            damp=json.loads(metadata["damp"]), block=json.loads(metadata["block"]), **tensors
        )
        rows, cols = trace.weight.shape
        for name in ("order", "loss"):
            check_shape("OBCTrace.load", name, getattr(trace, name), (rows, cols // trace.block))
        for name in ("hessian", "hinv"):
            check_shape("OBCTrace.load", name, getattr(trace, name), (cols, cols))
        return trace


@dataclass(frozen=True)
class _Problem:
    """Checked, contiguous inputs of an elimination."""

    weight: torch.Tensor  # [R, D], dead columns 0
    hessian: torch.Tensor  # [D, D], damped
    hinv: torch.Tensor  # [D, D]
    damp: float


def _prepare(
    function: str, weight: torch.Tensor, hessian: torch.Tensor, damp: float, threads: int
) -> _Problem:
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
    return _Problem(w, damped, hinv, used)


def _eliminate(
    function: str,
    problem: _Problem,
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
        return order, loss, info, _first_failed(info)
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


def _first_failed(info: torch.Tensor) -> int:
    """The first row whose info is not 0, or -1."""
    failed = info.nonzero()
    return int(failed[0, 0]) if len(failed) else -1


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
    problem = _prepare(function, weight, hessian, damp, threads)
    size = block or 1
    kind, pattern = ("", (cols,)) if size == 1 else ("_block", (size,))
    order, loss = _eliminate(function, problem, kind, pattern, cols // size, threads, progress)
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
    problem = _prepare(function, weight, hessian, damp, threads)
    steps = cols // pattern[1] * pattern[0]
    order, loss = _eliminate(function, problem, "_nm", pattern, steps, threads, progress)
    trace = OBCTrace(order, loss, problem.damp, problem.weight, problem.hessian, problem.hinv)
    counts = torch.full((weight.shape[0],), steps)
    return trace.prune_rows(counts, threads=threads).to(weight.dtype)
