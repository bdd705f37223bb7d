"""Drop-in classes with the interface of the published SparseGPT and Optimal Brain Compression code.

Same constructors, methods, counts and, to rounding, weights as the published recurrences, on the ops of
spade_ext. Layers: nn.Linear, nn.Conv2d (groups too) and transformers Conv1D.

Sources: Frantar, Alistarh, "SparseGPT" (ICML 2023); Frantar, Singh, Alistarh, "Optimal Brain Compression"
(NeurIPS 2022); Moakhar et al., "SPADE" (ICML 2024), for the batched class.
"""

from collections.abc import Sequence

import torch
from torch import nn

from spade_ext.hessian import HessianAccumulator
from spade_ext.obc import OBCTrace, obc_prune, obc_trace
from spade_ext.sparsegpt import sparsegpt_prune_batch

LEAST_BATCH_DAMP = 1e-6  # absolute floor of the damping in the batched class


class _LayerHessian:
    """Inputs of one layer summed as the published classes do: H = 2 / samples * X X^T."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self.accumulator = HessianAccumulator(layer)
        self.groups = int(getattr(layer, "groups", 1))
        self.transposed = type(layer).__name__ == "Conv1D"
        self.rows, self.columns = self.weight().shape
        self.samples = 0

    def weight(self) -> torch.Tensor:
        """[R, D] weights of the layer."""
        weight = self.layer.get_parameter("weight").data
        return weight.t() if self.transposed else weight.flatten(1)

    def add(self, inputs: torch.Tensor) -> None:
        self.accumulator.update(inputs)
        self.samples += 1 if inputs.ndim == 2 else inputs.shape[0]

    def hessians(self, function: str) -> torch.Tensor:
        """[groups, D, D] float32 or float64."""
        if not self.samples:
            raise RuntimeError(f"{function}: no inputs yet; call add_batch first")
        sums = self.accumulator.hessian
        return (sums if sums.ndim == 3 else sums[None]) * (2 / self.samples)

    def set_weight(self, layer: nn.Module, weight: torch.Tensor) -> None:
        """Give layer (of the kind of self.layer) the [R, D] weights."""
        parameter = layer.get_parameter("weight")
        shaped = (weight.t() if self.transposed else weight).reshape(parameter.shape)
        parameter.data = shaped.to(parameter.dtype)


def _fasterprune(
    weight: torch.Tensor,
    hessians: torch.Tensor,
    groups: int,
    sparsity: float,
    prunen: int,
    prunem: int,
    blocksize: int,
    damp: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prune [R, D] for hessians [S, groups, D, D]: weights [S, R, D] and failed [S]."""
    samples, cols = len(hessians), weight.shape[1]
    stacked = weight.float().reshape(1, groups, -1, cols).expand(samples, -1, -1, -1)
    batch = sparsegpt_prune_batch(
        stacked.flatten(0, 1), hessians.flatten(0, 1).float(), sparsity, block_size=blocksize,
        n=prunen or None, m=prunem or None, damp=damp, extra=1,
    )  # fmt: skip
    return batch.weights.reshape(samples, -1, cols), batch.failed.reshape(samples, groups).any(1)


class SparseGPT:
    """The published class of one layer.

    Args:
        layer: nn.Linear, nn.Conv2d or transformers Conv1D. fasterprune replaces its weight.
    """

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self._inputs: _LayerHessian | None = _LayerHessian(layer)
        self.rows, self.columns = self._inputs.rows, self._inputs.columns

    def add_batch(self, inp: torch.Tensor, out: object = None, blocksize: int = 1024) -> None:
        """Add a batch of the layer's inputs; out and blocksize are ignored."""
        self._held().add(inp)

    def fasterprune(
        self,
        sparsity: float,
        prunen: int = 0,
        prunem: int = 0,
        blocksize: int = 128,
        percdamp: float = 0.01,
    ) -> None:
        """Prune the layer in place: int(sparsity * numel) + 1 weights of each block go, or prunen of prunem.

        Raises:
            ArithmeticError: H is not positive definite even at damp = 1; the layer is as before.
        """
        inputs = self._held()
        hessians = inputs.hessians("SparseGPT.fasterprune")
        weights, failed = _fasterprune(
            inputs.weight(),
            hessians[None],
            inputs.groups,
            sparsity,
            prunen,
            prunem,
            blocksize,
            percdamp,
        )
        if bool(failed.any()):
            raise ArithmeticError("SparseGPT.fasterprune: the Hessian is not positive definite")
        inputs.set_weight(self.layer, weights[0])

    def free(self) -> None:
        """Drop the sums."""
        self._inputs = None

    def _held(self) -> _LayerHessian:
        if self._inputs is None:
            raise RuntimeError("SparseGPT: free() was called")
        return self._inputs


class BatchSparseGPT:
    """The class of the published SPADE code: one layer, model_num samples pruned together.

    Args:
        layer: nn.Linear, nn.Conv2d or transformers Conv1D with the dense weight. Not modified.
        model_num: Samples.
    """

    def __init__(self, layer: nn.Module, model_num: int) -> None:
        self.layer = layer
        self._samples = [_LayerHessian(layer) for _ in range(model_num)]
        self.rows, self.columns = _LayerHessian(layer).weight().shape
        self.model_counter = 0

    def inc_model_counter(self) -> None:
        """The following batches belong to the next sample."""
        self.model_counter += 1

    def add_batch(self, inp: torch.Tensor, out: object = None, blocksize: int = 1024) -> None:
        """Add a batch of the current sample's inputs; out and blocksize are ignored."""
        if self.model_counter >= len(self._samples):
            raise RuntimeError(
                f"BatchSparseGPT.add_batch: model_counter must be below {len(self._samples)}, "
                f"got {self.model_counter}"
            )
        self._samples[self.model_counter].add(inp)

    def fasterprune(
        self,
        sparsity: float,
        layers: Sequence[nn.Module],
        prunen: int = 0,
        prunem: int = 0,
        blocksize: int = 128,
        percdamp: float = 0.01,
    ) -> None:
        """Give layers[i] the weight pruned for sample i; by magnitude where its Hessian is singular.

        Raises:
            ValueError: Not one layer a sample.
        """
        if len(layers) != len(self._samples):
            raise ValueError(
                f"BatchSparseGPT.fasterprune: layers must hold {len(self._samples)} layers, "
                f"got {len(layers)}"
            )
        first = self._samples[0]
        hessians = torch.stack([s.hessians("BatchSparseGPT.fasterprune") for s in self._samples])
        identity = torch.eye(hessians.shape[-1], dtype=hessians.dtype)
        silent = hessians.diagonal(dim1=-2, dim2=-1).mean(-1) * percdamp < LEAST_BATCH_DAMP
        hessians = hessians + silent[..., None, None] * LEAST_BATCH_DAMP * identity
        options = (first.groups, sparsity, prunen, prunem, blocksize, percdamp)
        weights, failed = _fasterprune(first.weight(), hessians, *options)
        if bool(failed.any()):
            plain = identity.expand(1, first.groups, -1, -1)
            weights[failed] = _fasterprune(first.weight(), plain, *options)[0]
        for layer, weight in zip(layers, weights, strict=True):
            first.set_weight(layer, weight)

    def free(self) -> None:
        """Drop the sums."""
        self._samples = []


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
        self.rel_damp = rel_damp
        self._inputs: _LayerHessian | None = _LayerHessian(layer)
        self.rows, self.columns = self._inputs.rows, self._inputs.columns
        self._traces: list[OBCTrace] = []
        self._inverse_order: torch.Tensor | None = None

    def add_batch(self, inp: torch.Tensor, out: object = None) -> None:
        """Add a batch of the layer's inputs; out is ignored."""
        self._held().add(inp)

    def prepare_unstr(self, parallel: int = 32) -> None:
        """Compute the order of every weight; parallel is ignored."""
        self._prepare(None)

    def prepare_blocked(self, size: int = 4, parallel: int = 32) -> None:
        """Compute the order of blocks of `size` columns; parallel is ignored."""
        self._prepare(size)

    def prune_unstr(self, sparsities: Sequence[float]) -> list[torch.Tensor]:
        """Weights in the layer's shape for each sparsity: the ceil(sparsity * numel) least losses go."""
        return self._prune("TrueOBS.prune_unstr", sparsities)

    def prune_blocked(self, sparsities: Sequence[float]) -> list[torch.Tensor]:
        """Weights in the layer's shape for each sparsity, in blocks."""
        return self._prune("TrueOBS.prune_blocked", sparsities)

    def nmprune(self, n: int = 2, m: int = 4, parallel: int = 32) -> None:
        """Prune the layer in place, n of each m weights; parallel is ignored."""
        weights, hessians, inverse = self._ordered(columns_last=True)
        pruned = [
            obc_prune(w, h, n=n, m=m, damp=0.0) for w, h in zip(weights, hessians, strict=True)
        ]
        self._held().set_weight(self.layer, torch.cat(pruned)[:, inverse])

    def free(self) -> None:
        """Drop the sums and the traces."""
        self._inputs = None
        self._traces = []

    def _held(self) -> _LayerHessian:
        if self._inputs is None:
            raise RuntimeError("TrueOBS: free() was called")
        return self._inputs

    def _ordered(
        self, columns_last: bool
    ) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
        """Weights and damped Hessians of each group, and the permutation back to the layer's columns."""
        inputs = self._held()
        order = torch.arange(self.columns)
        if columns_last and isinstance(self.layer, nn.Conv2d):
            taps = order.reshape(self.layer.weight.shape[1:])
            order = taps.permute(1, 2, 0).flatten()
        hessians = []
        for h in inputs.hessians("TrueOBS"):
            damped = h.double()
            diagonal = damped.diagonal()
            diagonal += self.rel_damp * diagonal.mean()
            diagonal[diagonal == 0] = 1
            if int(torch.linalg.cholesky_ex(damped)[1]):
                diagonal += 1  # as published: a singular H takes the identity
            hessians.append(damped[order][:, order])
        dead = inputs.hessians("TrueOBS").diagonal(dim1=-2, dim2=-1) == 0
        per_group = inputs.weight().float().reshape(inputs.groups, -1, self.columns)
        if self.rel_damp == 0:
            per_group = per_group.masked_fill(dead[:, None, :], 0)
        return [w[:, order] for w in per_group], hessians, order.argsort()

    def _prepare(self, block: int | None) -> None:
        weights, hessians, self._inverse_order = self._ordered(columns_last=block is not None)
        self._traces = [
            obc_trace(w, h, block=block, damp=0.0) for w, h in zip(weights, hessians, strict=True)
        ]

    def _prune(self, function: str, sparsities: Sequence[float]) -> list[torch.Tensor]:
        if not self._traces or self._inverse_order is None:
            raise RuntimeError(f"{function}: no trace yet; call the prepare method first")
        first = self._traces[0]
        loss = torch.cat([trace.loss for trace in self._traces])
        layer = OBCTrace(loss, loss, first.damp, loss, first.hessian, first.hinv)
        shape = self.layer.get_parameter("weight").shape
        result = []
        for sparsity in sparsities:
            counts = layer.counts(sparsity).chunk(len(self._traces))
            rows = [t.prune_rows(c) for t, c in zip(self._traces, counts, strict=True)]
            weight = torch.cat(rows)[:, self._inverse_order].float()
            result.append((weight.t() if self._held().transposed else weight).reshape(shape))
        return result
