"""SparseGPT column by column in plain PyTorch, from the upper Cholesky factor of the inverse Hessian."""

import math

import torch

from spade_ext.reference.inverse import damped_inverse

__all__ = ["sparsegpt_prune"]


def select(
    scores: torch.Tensor, sparsity: float, n: int | None = None, m: int | None = None
) -> torch.Tensor:
    """Mask of the weights of one block [R, width] that go: the least scores, or n of each m of a row."""
    if m:
        order = scores.view(len(scores), -1, m).argsort(dim=2, stable=True)
        groups = torch.zeros_like(order, dtype=torch.bool)
        return groups.scatter(2, order[:, :, :n], True).flatten(1)
    count = math.floor(sparsity * scores.numel() + 1e-6)
    gone = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    gone[scores.flatten().argsort(stable=True)[:count]] = True
    return gone.view_as(scores)


def sparsegpt_prune(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    sparsity: float = 0.0,
    *,
    block_size: int = 128,
    n: int | None = None,
    m: int | None = None,
    damp: float = 0.01,
) -> torch.Tensor:
    """Prune weight [R, D] for one hessian [D, D]. See spade_ext.sparsegpt_prune.

    Example:
        >>> import torch
        >>> from spade_ext import reference
        >>> weight, h = torch.randn(8, 16), reference.hessian(torch.randn(100, 16))
        >>> int((reference.sparsegpt_prune(weight, h, 0.5) == 0).sum())
        64
    """
    hinv, _ = damped_inverse(hessian, damp)
    upper = torch.linalg.cholesky(hinv, upper=True)
    w = weight.masked_fill(hessian.diagonal() == 0, 0)
    width = m or block_size
    for first in range(0, w.shape[1], width):
        last = min(first + width, w.shape[1])
        scores = (w[:, first:last] / upper.diagonal()[first:last]) ** 2
        gone = select(scores, sparsity, n, m)
        for j in range(first, last):
            error = torch.where(gone[:, j - first], w[:, j], 0) / upper[j, j]
            w[:, j + 1 :] -= error[:, None] * upper[j, j + 1 :]
            w[:, j] = torch.where(gone[:, j - first], 0, w[:, j])
    return w
