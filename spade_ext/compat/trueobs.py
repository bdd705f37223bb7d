"""The published exact OBC class."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from spade_ext._checks import MOST_DAMP, check_int, check_nm, check_range
from spade_ext.compat.layer import LayerHessian
from spade_ext.obc import OBCTrace, obc_prune, obc_trace


class TrueOBS:
    """The published exact OBC class of one layer.

    prune_unstr and prune_blocked return weights for a list of sparsities; nmprune replaces the layer's weight.
    n:m groups and blocks of a convolution run over channels first, as published (taps outermost).

    Args:
        layer: nn.Linear, nn.Conv2d or transformers Conv1D.
        rel_damp: Damping relative to the mean of the diagonal.
    """

    def __init__(self, layer: nn.Module, rel_damp: float = 0.0) -> None:
        self.layer = layer
        self.rel_damp = check_range("TrueOBS", "rel_damp", rel_damp, 0.0, MOST_DAMP)
        self._inputs: LayerHessian | None = LayerHessian(layer)
        self.rows, self.columns = self._inputs.rows, self._inputs.columns
        self._trace: OBCTrace | None = None
        self._prepared = ""  # the method that made the trace
        self._inverse_order = torch.arange(self.columns)

    def add_batch(self, inp: torch.Tensor, out: object = None) -> None:
        """Add a batch of the layer's inputs; out is ignored. Every row of a matrix is a sample."""
        self._held().add("TrueOBS.add_batch", inp)

    def prepare_unstr(self, parallel: int = 32) -> None:
        """Compute the order of every weight; parallel is ignored."""
        self._prepare("prepare_unstr", None)

    def prepare_blocked(self, size: int = 4, parallel: int = 32) -> None:
        """Compute the order of blocks of `size` columns; parallel is ignored."""
        check_int("TrueOBS.prepare_blocked", "size", size, 1)
        if self.columns % size:
            raise ValueError(
                f"TrueOBS.prepare_blocked: size must divide the {self.columns} columns, got {size}"
            )
        self._prepare("prepare_blocked", size)

    def prune_unstr(self, sparsities: Sequence[float]) -> list[torch.Tensor]:
        """Weights [rows, columns] for each sparsity: the ceil(sparsity * numel) least losses of the layer go."""
        return self._prune("prune_unstr", "prepare_unstr", sparsities)

    def prune_blocked(self, sparsities: Sequence[float]) -> list[torch.Tensor]:
        """Weights [rows, columns] for each sparsity, in blocks."""
        return self._prune("prune_blocked", "prepare_blocked", sparsities)

    def nmprune(self, n: int = 2, m: int = 4, parallel: int = 32) -> None:
        """Prune the layer in place, n of each m weights; parallel is ignored."""
        check_nm("TrueOBS.nmprune", n, m, self.columns)
        weights, hessians, inverse = self._ordered(columns_last=True)
        pruned = obc_prune(weights, hessians, n=n, m=m, damp=0.0)
        self._held().set_weight(self.layer, pruned.flatten(0, 1)[:, inverse])

    def free(self) -> None:
        """Drop the sums and the trace."""
        self._inputs = self._trace = None

    def _held(self) -> LayerHessian:
        if self._inputs is None:
            raise RuntimeError("TrueOBS: free() was called")
        return self._inputs

    def _ordered(self, columns_last: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Weights and damped Hessians of the groups, and the permutation back to the layer's columns."""
        inputs = self._held()
        order = torch.arange(self.columns)
        if columns_last and isinstance(self.layer, nn.Conv2d):
            taps = order.reshape(self.layer.weight.shape[1:])
            order = taps.permute(1, 2, 0).flatten()
        hessians = inputs.hessians("TrueOBS").double()
        diagonal = hessians.diagonal(dim1=1, dim2=2)
        diagonal += self.rel_damp * diagonal.mean(1, keepdim=True)
        dead = diagonal == 0
        diagonal[dead] = 1
        singular = torch.linalg.cholesky_ex(hessians)[1] != 0
        diagonal += singular[:, None]  # as published: a singular H takes the identity
        weights = inputs.weight().float().reshape(inputs.groups, -1, self.columns)
        weights = weights.masked_fill(dead[:, None], 0)[:, :, order]
        return weights, hessians[:, order][:, :, order], order.argsort()

    def _prepare(self, method: str, block: int | None) -> None:
        weights, hessians, self._inverse_order = self._ordered(columns_last=block is not None)
        self._trace = obc_trace(weights, hessians, block=block, damp=0.0)
        self._prepared = method

    def _prune(
        self, method: str, preparation: str, sparsities: Sequence[float]
    ) -> list[torch.Tensor]:
        function = f"TrueOBS.{method}"
        self._held()
        trace = self._trace
        if trace is None or self._prepared != preparation:
            raise RuntimeError(f"{function}: no trace yet; call {preparation} first")
        if isinstance(sparsities, (float, int, str)) or not isinstance(sparsities, Iterable):
            raise TypeError(
                f"{function}: sparsities must be a list of numbers, got {type(sparsities).__name__}"
            )
        ratios = [check_range(function, "sparsities", s, 0.0, 1.0) for s in sparsities]
        loss = trace.loss
        order = loss.flatten().argsort(stable=True) // loss.shape[-1]  # row of each loss, ascending
        result = []
        for ratio in ratios:
            gone = order[: math.ceil(loss.numel() * ratio)]
            counts = gone.bincount(minlength=self.rows).reshape(loss.shape[:-1])
            pruned = trace.prune_rows(counts).flatten(0, 1)
            result.append(pruned[:, self._inverse_order].float())
        return result
