"""OBCTrace: the result of an elimination, and weights for any sparsity from it."""

import json
import os
from dataclasses import dataclass

import torch

from spade_ext._elimination import Elimination
from spade_ext._selection import count_steps, solve_weights
from spade_ext.checks import (
    check_device,
    check_int,
    check_range,
    check_same_device,
    check_shape,
    check_tensor,
    compute_dtype,
    dense,
    resolve_threads,
)
from spade_ext.files import parse_json, read_tensors, write_tensors
from spade_ext.progress import Callback

_FORMAT = "spade_ext.OBCTrace.1"
_TENSORS = ("order", "loss", "weight", "hessian", "hinv")


@dataclass(frozen=True)
class OBCTrace:
    """Elimination order of every weight of a layer and what is needed to prune by it.

    Tensors of a layer of groups have those as their first dimension, G. What a trace is made of is checked: all on one
    device, order every block once per row. Tensors become contiguous and of one dtype, float64 if any of them is,
    otherwise float32; order becomes int32.

    Attributes:
        order: [R, D] int32: the column that row r loses at step k; [R, D / block] blocks if block > 1.
        loss: In the shape of order, the cost 0.5 * w_p^2 / A_pp of each step (0.5 * w_b^T A_bb^-1 w_b of a block).
        damp: The damping that was used, relative to the mean diagonal of H; the largest of any group.
        weight: [R, D] dense weights, dead columns set to 0.
        hessian: [D, D] damped Hessian.
        hinv: [D, D] its inverse A.
        block: The number of columns that are removed together.

    Example:
        >>> import torch, spade_ext
        >>> weight, h = torch.randn(32, 64), spade_ext.hessian(torch.randn(1000, 64))
        >>> trace = spade_ext.obc_trace(weight, h)
        >>> trace.save("layer.safetensors")
        >>> again = spade_ext.OBCTrace.load("layer.safetensors")
        >>> torch.equal(again.prune(0.9), trace.prune(0.9))
        True
        >>> rows = again.prune_rows(torch.full((32,), 16))  # 16 weights of each row go
        >>> int((rows == 0).sum())
        512
    """

    order: torch.Tensor
    loss: torch.Tensor
    damp: float
    weight: torch.Tensor
    hessian: torch.Tensor
    hinv: torch.Tensor
    block: int = 1

    def __post_init__(self) -> None:
        """Take what the trace is made of as native code reads it.

        Raises:
            TypeError: A part is no tensor or has another kind of dtype.
            ValueError: Parts do not fit together, order is no order, or a part is on another device.
        """
        for name, value in _checked("OBCTrace", self).items():
            object.__setattr__(self, name, value)

    @classmethod
    def _of(cls, made: Elimination, block: int) -> "OBCTrace":
        """A trace of what an op has made, which needs no check (of order, the check would wait for the device)."""
        trace = object.__new__(cls)
        for name, value in (*made._asdict().items(), ("block", block)):
            object.__setattr__(trace, name, value)
        return trace

    def counts(self, sparsity: float) -> torch.Tensor:
        """Steps that each row takes when the ceil(sparsity * steps) least losses of the layer go.

        Row r loses as many weights (or blocks), in its own order, as it has entries among them; 0.3 of 10 counts
        as 3; ties: lowest row-major index.

        Returns:
            [R] int64, [G, R] of a layer of groups.
        """
        sparsity = check_range("OBCTrace.counts", "sparsity", sparsity, 0.0, 1.0)
        return count_steps(self.loss, sparsity)

    def prune(
        self, sparsity: float, *, threads: int | None = None, max_scratch: int | None = None
    ) -> torch.Tensor:
        """Weights of the layer at this sparsity, in [0, 1], chosen by least loss over all rows and groups.

        threads and max_scratch are those of obc_trace.
        """
        function = "OBCTrace.prune"
        counts, threads = self.counts(sparsity), resolve_threads(function, threads)
        return self._solved(function, counts, threads, max_scratch=max_scratch)

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
            counts: [R], or [G, R], integers: steps of each row, in [0, D / block]. Not modified.
            threads: CPU threads; None takes torch.get_num_threads().
            progress: None, True for a bar, or callback(done, total).

        Returns:
            [R, D], or [G, R, D], dtype of the trace.

        Raises:
            ValueError: A count out of range.
            SingularHessianError: A kept set whose Hessian is not positive definite.
        """
        function = "OBCTrace.prune_rows"
        check_tensor(function, "counts", counts, dtypes=(torch.int32, torch.int64))
        check_shape(function, "counts", counts, self.weight.shape[:-1])
        if not counts.is_cpu:
            check_same_device(function, "counts", counts, "the trace", self.weight)
        threads = resolve_threads(function, threads)
        counts = dense(counts, torch.int64)
        steps = self.order.shape[-1]
        outside = (counts < 0) | (counts > steps)
        if outside.any():
            at = outside.nonzero()[0].tolist()
            group = f" of group {at[0]}" if len(at) > 1 else ""
            raise ValueError(
                f"{function}: counts must be in [0, {steps}], got {int(counts[tuple(at)])} for row {at[-1]}{group}"
            )
        return self._solved(function, counts, threads, progress)

    def _solved(
        self,
        function: str,
        counts: torch.Tensor,
        threads: int,
        progress: bool | Callback | None = None,
        max_scratch: int | None = None,
    ) -> torch.Tensor:
        made = Elimination(self.order, self.loss, self.damp, self.weight, self.hessian, self.hinv)
        return solve_weights(function, made, counts, self.block, threads, progress, max_scratch)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trace as safetensors: to a temporary file beside path, then renamed.

        Raises:
            OSError: It cannot be written there.
        """
        metadata = {
            "damp": json.dumps(self.damp),
            "block": json.dumps(self.block),
        }
        tensors = {name: getattr(self, name) for name in _TENSORS}
        write_tensors("OBCTrace.save", path, _FORMAT, tensors, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "OBCTrace":
        """Read a trace that save() wrote.

        Raises:
            FileNotFoundError: No such file.
            ValueError: Not a trace, changed after it was written, or its tensors do not fit together.
        """
        function = "OBCTrace.load"
        tensors, metadata = read_tensors(function, path, _FORMAT)
        try:
            damp, block = parse_json(metadata["damp"]), parse_json(metadata["block"])
            _check_dtypes(function, tensors)
            return cls(damp=damp, block=block, **tensors)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{function}: {path} is damaged: {error}") from None


def _check_dtypes(function: str, tensors: dict[str, torch.Tensor]) -> None:
    """Raise TypeError or KeyError if the tensors of a file are not those that save() writes."""
    floats = (torch.float32, torch.float64)
    dtype = check_tensor(function, "weight", tensors["weight"], dtypes=floats).dtype
    for name in _TENSORS:
        own = torch.int32 if name == "order" else dtype
        check_tensor(function, name, tensors[name], dtypes=(own,))


def _checked(function: str, trace: OBCTrace) -> dict[str, torch.Tensor]:
    """The tensors of a trace as native code reads them; ValueError or TypeError if they do not fit together."""
    check_range(function, "damp", trace.damp, 0.0)
    floats = ("loss", "weight", "hessian", "hinv")
    check_tensor(function, "weight", trace.weight, ndim=(2, 3))
    *groups, rows, cols = trace.weight.shape
    block = check_int(function, "block", trace.block, 1)
    if cols % block:
        raise ValueError(f"{function}: block must divide the {cols} columns, got {block}")
    steps, square = cols // block, (*groups, cols, cols)
    shapes = dict(
        zip(floats, ((*groups, rows, steps), trace.weight.shape, square, square), strict=True)
    )
    for name, shape in shapes.items():
        check_shape(function, name, check_tensor(function, name, getattr(trace, name)), shape)
    integers = (torch.int32, torch.int64, torch.int16, torch.uint8)
    order = check_tensor(function, "order", trace.order, dtypes=integers)
    check_shape(function, "order", order, shapes["loss"])
    check_device(function, "weight", trace.weight)
    for name in ("order", *floats):
        check_same_device(function, name, getattr(trace, name), "weight", trace.weight)
    inside = ((order >= 0) & (order < steps)).all()
    seen = torch.zeros(order.shape, dtype=torch.bool, device=order.device)
    if not inside or not seen.scatter_(-1, order.long(), True).all():
        raise ValueError(f"{function}: order must hold each of {steps} columns once in every row")
    dtype = compute_dtype(*(getattr(trace, name) for name in floats))
    tensors = {name: dense(getattr(trace, name), dtype) for name in floats}
    return {"order": dense(order, torch.int32), **tensors}
