"""Pruning one layer of one or several samples by exact OBC or SparseGPT."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
        weights: [groups, rows / groups, cols]; None if no damping made the Hessian positive definite, or it is out of
            the range of its dtype.
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
) -> OBCTrace:
    """Exact OBC order of a layer: weight [G, R, D], hessian [G, D, D]; of one group without that dimension.

    Raises:
        SingularHessianError: Not positive definite even at damp = 1, or out of the range of its dtype.
    """
    if not all_finite([hessian])[0]:
        raise SingularHessianError("order_layer: the Hessian is out of the range of its dtype")
    if len(weight) == 1:
        weight, hessian = weight[0], hessian[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DampingWarning)  # reported with the layer instead
        return obc_trace(weight, hessian, damp=damp, progress=progress)


def all_finite(hessians: Sequence[Tensor]) -> list[bool]:
    """Whether finite inputs have overflowed no entry of each; the largest are on the diagonal."""
    finite = [h.diagonal(dim1=-2, dim2=-1).isfinite().all() for h in hessians]
    found: list[bool] = torch.stack(finite).tolist() if finite else []
    return found


def weights_at(order: OBCTrace, sparsity: float) -> Tensor:
    """Weights [G, R, D] of a layer at a sparsity: the least losses over all its groups and rows go."""
    pruned = order.prune(sparsity)
    return pruned if pruned.ndim == 3 else pruned[None]


def measure(weight: Tensor, pruned: Tensor, hessian: Tensor) -> tuple[float, float]:
    """||(W - W') X||^2 and its ratio to ||W X||^2, by tr(D H D^T); scaled so that no H overflows."""
    w = weight.to(hessian.dtype)
    mean = hessian.diagonal(dim1=-2, dim2=-1).mean(dtype=torch.float64)
    scale = torch.ldexp(torch.ones_like(mean), torch.frexp(mean)[1] // 2)

    def square(d: Tensor) -> Tensor:
        d = d / scale
        return ((d @ hessian) * d).sum(dtype=torch.float64).clamp_min(0) * scale * scale

    loss, whole = torch.stack([square(w - pruned.to(hessian.dtype)), square(w)]).tolist()
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
        method: "obc" (SPADE) or "sparsegpt" (FastSPADE).
        sparsity: In [0, 1].
        damp: Damping relative to the mean diagonal.
        progress: Callback(done, total) of a long elimination.
    """
    if method == "obc":
        return [_by_obc(weight, h, sparsity, damp, progress) for h in hessians]
    finite = all_finite(hessians)
    ready = [h for h, fine in zip(hessians, finite, strict=True) if fine]
    pruned = iter(_by_sparsegpt(layer, weight, ready, sparsity, damp, progress) if ready else ())
    return [next(pruned) if fine else _failed(damp) for fine in finite]


def _failed(damp: float) -> Pruned:
    return Pruned(None, max(1.0, damp), 0.0, 0.0)


def _by_obc(
    weight: Tensor, hessian: Tensor, sparsity: float, damp: float, progress: Report | None
) -> Pruned:
    try:
        order = order_layer(weight, hessian, damp, progress)
        pruned = weights_at(order, sparsity)
    except SingularHessianError:
        return _failed(damp)
    return Pruned(pruned.to(weight.dtype), order.damp, *measure(weight, pruned, hessian))


def _by_sparsegpt(
    layer: Layer,
    weight: Tensor,
    hessians: list[Tensor],
    sparsity: float,
    damp: float,
    progress: Report | None,
) -> list[Pruned]:
    """All samples at once, in mask blocks of a convolution's kernel taps, of one column otherwise."""
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
        _failed(damps[i])
        if failed[i]
        else Pruned(weights[i], damps[i], *measure(weight, weights[i], hessians[i]))
        for i in range(samples)
    ]
