"""Pruning one layer of one or several samples by exact OBC or SparseGPT."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spade_ext import (
    DampingWarning,
    OBCTrace,
    SingularHessianError,
    obc_trace,
    sparsegpt_prune_batch,
)
from spade_xai.layers import Layer

METHODS = ("obc", "sparsegpt")
Report = Callable[[int, int], object]


@dataclass(frozen=True)
class Pruned:
    """A layer pruned for one sample.

    Attributes:
        weights: [groups, rows / groups, cols]; None if no damping made the Hessian positive definite.
        damp: Damping that was used, the largest of the groups.
        loss: ||(W - W') X||^2 over the augmentations.
        relative_loss: loss / ||W X||^2.
    """

    weights: Tensor | None
    damp: float
    loss: float
    relative_loss: float


def order_layer(
    weight: Tensor, hessian: Tensor, damp: float, progress: Report | None = None
) -> list[OBCTrace]:
    """Exact OBC order of each group of a layer: weight [G, R, D], hessian [G, D, D].

    Raises:
        SingularHessianError: Not positive definite even at damp = 1.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DampingWarning)  # reported with the layer instead
        report = progress if len(weight) == 1 else None
        return [
            obc_trace(w, h, damp=damp, progress=report)
            for w, h in zip(weight, hessian, strict=True)
        ]


def weights_at(orders: list[OBCTrace], sparsity: float) -> Tensor:
    """Weights [G, R, D] of a layer at a sparsity: the least losses over all its groups and rows go."""
    if len(orders) == 1:
        return orders[0].prune(sparsity)[None]
    whole = replace(orders[0], loss=torch.cat([order.loss for order in orders]))
    counts = whole.counts(sparsity).chunk(len(orders))
    return torch.stack([o.prune_rows(c) for o, c in zip(orders, counts, strict=True)])


def measure(weight: Tensor, pruned: Tensor, hessian: Tensor) -> tuple[float, float]:
    """||(W - W') X||^2 and its ratio to ||W X||^2, by tr(D H D^T)."""
    w = weight.to(hessian.dtype)

    def square(d: Tensor) -> float:
        return float(((d @ hessian) * d).sum(dtype=torch.float64).clamp_min(0))

    loss, whole = square(w - pruned.to(hessian.dtype)), square(w)
    return loss, loss / whole if whole > 0 else 0.0


def prune_layer(
    layer: Layer,
    weight: Tensor,
    hessians: list[Tensor],
    *,
    method: str,
    sparsity: float,
    damp: float,
    progress: Report | None = None,
) -> list[Pruned]:
    """Prune a layer for the Hessian of each sample.

    Args:
        layer: The layer.
        weight: [G, R, D], shared by the samples. Not modified.
        hessians: [G, D, D] a sample. Not modified.
        method: "obc" (SPADE) or "sparsegpt" (FastSPADE: all samples at once, mask blocks of a convolution's kernel
            taps, of one column otherwise).
        sparsity: In [0, 1].
        damp: Damping relative to the mean diagonal.
        progress: Callback(done, total) of a long elimination.
    """
    if method == "obc":
        results = []
        for hessian in hessians:
            try:
                orders = order_layer(weight, hessian, damp, progress)
                pruned = weights_at(orders, sparsity)
            except SingularHessianError:
                results.append(Pruned(None, max(1.0, damp), 0.0, 0.0))
                continue
            used = max(order.damp for order in orders)
            results.append(Pruned(pruned.to(weight.dtype), used, *measure(weight, pruned, hessian)))
        return results
    samples, groups = len(hessians), layer.groups
    batch = sparsegpt_prune_batch(
        weight.repeat(samples, 1, 1) if groups > 1 else weight[0],
        torch.cat(hessians),
        sparsity,
        block_size=layer.taps,
        damp=damp,
        progress=progress,
    )
    shape = (samples, groups)
    weights = batch.weights.reshape(*shape, *weight.shape[1:])
    damps = batch.damp.reshape(shape).amax(1).tolist()
    failed = batch.failed.reshape(shape).any(1).tolist()
    return [
        Pruned(None, damps[i], 0.0, 0.0)
        if failed[i]
        else Pruned(weights[i], damps[i], *measure(weight, weights[i], hessians[i]))
        for i in range(samples)
    ]
