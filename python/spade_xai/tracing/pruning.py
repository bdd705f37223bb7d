"""Pruning layers for one or several samples by exact OBC or SparseGPT."""

import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from spade_ext import (
    DampingWarning,
    OBCTrace,
    SingularHessianError,
    obc_trace,
    sparsegpt_prune_layers,
)
from spade_xai.models.layers import Layer

METHODS = ("obc", "sparsegpt")
T = TypeVar("T")
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


def _losses(weight: Tensor, pruned: Tensor, hessian: Tensor) -> Tensor:
    """||(W - W') X||^2 and ||W X||^2 [2] float64, by tr(D H D^T); scaled so that no H overflows."""
    w = weight.to(hessian.dtype)
    mean = hessian.diagonal(dim1=-2, dim2=-1).mean(dtype=torch.float64)
    scale = torch.ldexp(torch.ones_like(mean), torch.frexp(mean)[1] // 2)

    def square(d: Tensor) -> Tensor:
        d = d / scale
        return ((d @ hessian) * d).sum(dtype=torch.float64).clamp_min(0) * scale * scale

    return torch.stack([square(w - pruned.to(hessian.dtype)), square(w)])


@dataclass(frozen=True)
class Problem:
    """A layer to prune for each of some samples.

    Attributes:
        layer: The layer.
        weight: [G, R, D], shared by the samples. Not modified.
        hessians: [S, G, D, D]. Not modified.
        sparsity: In [0, 1].
    """

    layer: Layer
    weight: Tensor
    hessians: Tensor
    sparsity: float


def prune_layers(
    problems: Sequence[Problem], *, method: str, damp: float, progress: Report | None = None
) -> list[list[Pruned]]:
    """Prune layers for the Hessian of each of their samples: results by layer, then sample.

    Args:
        problems: On CUDA those of SparseGPT share launches.
        method: "obc" (SPADE) or "sparsegpt" (FastSPADE).
        damp: Damping relative to the mean diagonal.
        progress: Callback(done, total) of a long elimination.
    """
    if method == "sparsegpt":
        return _by_sparsegpt(problems, damp, progress)
    return [
        [_by_obc(x.weight, hessian, x.sparsity, damp, progress) for hessian in x.hessians]
        for x in problems
    ]


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
    return _pruned(pruned.to(weight.dtype), order.damp, _losses(weight, pruned, hessian).tolist())


def _pruned(weights: Tensor, damp: float, losses: Sequence[float]) -> Pruned:
    loss, whole = losses
    return Pruned(weights, damp, loss, loss / whole if whole > 0 else 0.0)


def _by_sparsegpt(
    problems: Sequence[Problem], damp: float, progress: Report | None
) -> list[list[Pruned]]:
    """All samples of all layers at once, in mask blocks of a convolution's kernel taps, of one column otherwise."""
    samples = [len(x.hessians) for x in problems]
    finite = all_finite([h for x in problems for h in x.hessians])
    batches = sparsegpt_prune_layers(
        [_of_groups(x) for x in problems],
        [
            _without(x.hessians, fine).flatten(0, 1)
            for x, fine in zip(problems, _split(finite, samples), strict=True)
        ],
        [x.sparsity for x in problems],
        block_size=[x.layer.taps for x in problems],
        damp=damp,
        progress=progress,
    )
    # From here on a list has an entry for each sample of each layer.
    weights: list[Tensor] = []
    losses: list[Tensor] = []
    damps: list[float] = []
    failed: list[bool] = []
    for x, batch in zip(problems, batches, strict=True):
        shape = x.hessians.shape[:2]
        weights += batch.weights.reshape(*shape, *x.weight.shape[1:]).unbind()
        damps += batch.damp.reshape(shape).amax(1).tolist()
        failed += batch.failed.reshape(shape).any(1).tolist()
        losses += [
            _losses(x.weight, w, h) for w, h in zip(weights[len(losses) :], x.hessians, strict=True)
        ]
    read = torch.stack(losses).tolist() if losses else []
    results = [
        _pruned(w, used, loss) if fine and not bad else _failed(used)
        for w, used, loss, fine, bad in zip(weights, damps, read, finite, failed, strict=True)
    ]
    return _split(results, samples)


def _split(values: Sequence[T], counts: Sequence[int]) -> list[list[T]]:
    """Values in lists of so many."""
    rest = iter(values)
    return [list(itertools.islice(rest, count)) for count in counts]


def _of_groups(x: Problem) -> Tensor:
    """[R, D] for all samples or, with groups, [S * G, R, D]."""
    return x.weight[0] if len(x.weight) == 1 else x.weight.repeat(len(x.hessians), 1, 1)


def _without(hessians: Tensor, fine: Sequence[bool]) -> Tensor:
    """Zeros, which prune everything, in place of those that are not finite."""
    if all(fine):
        return hessians
    keep = torch.tensor(fine, device=hessians.device)[:, None, None, None]
    return torch.where(keep, hessians, 0)
