"""OBCTrace: the result of an elimination, and weights for any sparsity from it."""

import json
import math
import os
from dataclasses import dataclass, replace

import torch

from spade_ext import _C, _cuda
from spade_ext._checks import (
    check_int,
    check_range,
    check_shape,
    check_tensor,
    dense,
    resolve_threads,
    suffix,
)
from spade_ext._elimination import first_failed
from spade_ext._files import read_tensors, write_tensors
from spade_ext._progress import Callback, reporting
from spade_ext.errors import SingularHessianError

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
            row = first_failed(info)
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
        """Write the trace as safetensors: to a temporary file beside path, then renamed.

        Raises:
            OSError: It cannot be written there.
        """
        metadata = {
            "format": "spade_ext.OBCTrace",
            "damp": json.dumps(self.damp),
            "block": json.dumps(self.block),
        }
        tensors = {name: getattr(self, name) for name in _TENSORS}
        write_tensors("OBCTrace.save", path, tensors, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "OBCTrace":
        """Read a trace that save() wrote.

        Raises:
            FileNotFoundError: No such file.
            ValueError: Not a trace, or its tensors do not fit together.
        """
        function = "OBCTrace.load"
        tensors, metadata = read_tensors(function, path)
        if metadata.get("format") != "spade_ext.OBCTrace":
            raise ValueError(f"{function}: {path} holds no OBCTrace, got metadata {metadata}")
        try:
            damp, block = json.loads(metadata["damp"]), json.loads(metadata["block"])
            trace = cls(damp=damp, block=block, **tensors)
            _check_trace(function, trace)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{function}: {path} is damaged: {error}") from None
        return trace


def _check_trace(function: str, trace: OBCTrace) -> None:
    """Raise ValueError or TypeError if parts of a trace do not fit together: native code relies on that."""
    check_range(function, "damp", trace.damp, 0.0)
    weight = check_tensor(
        function, "weight", trace.weight, ndim=2, dtypes=(torch.float32, torch.float64)
    )
    rows, cols = weight.shape
    block = check_int(function, "block", trace.block, 1)
    if cols % block:
        raise ValueError(f"{function}: block must divide the {cols} columns, got {block}")
    steps = cols // block
    for name, shape in (("loss", (rows, steps)), ("hessian", (cols, cols)), ("hinv", (cols, cols))):
        value = check_tensor(function, name, getattr(trace, name), dtypes=(weight.dtype,))
        check_shape(function, name, value, shape)
    order = check_tensor(function, "order", trace.order, dtypes=(torch.int32,))
    check_shape(function, "order", order, (rows, steps))
    inside = ((order >= 0) & (order < steps)).all()
    if not inside or not order.new_zeros(order.shape).scatter_(1, order.long(), 1).all():
        raise ValueError(f"{function}: order must hold each of {steps} columns once in every row")
