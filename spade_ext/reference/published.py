"""The recurrences of the published classes, written from the papers: the oracle of spade_ext.compat.

SparseGPT: Frantar, Alistarh (ICML 2023), Algorithm 1. Optimal Brain Compression: Frantar, Singh, Alistarh
(NeurIPS 2022), Algorithms 1 and 2. Batches of samples: Moakhar et al., "SPADE" (ICML 2024).
"""

import math
from collections.abc import Iterable, Sequence

import torch

__all__ = ["fasterprune"]

LEAST_BATCH_DAMP = 1e-6  # absolute floor of the damping in the batched class


def running_hessian(batches: Iterable[tuple[torch.Tensor, int]]) -> torch.Tensor:
    """H = 2 / n * sum X X^T of batches (X [D, N], samples in it), kept as a running mean."""
    h, seen = torch.zeros(()), 0
    for x, samples in batches:
        h = h * (seen / (seen + samples))
        seen += samples
        h = h + 2 / seen * (x @ x.T)
    return h


def fasterprune(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    sparsity: float,
    prunen: int = 0,
    prunem: int = 0,
    blocksize: int = 128,
    percdamp: float = 0.01,
) -> torch.Tensor:
    """Prune weight [R, D] as SparseGPT.fasterprune: dead columns go, then H += percdamp * mean(diag H).

    Example:
        >>> import torch
        >>> from spade_ext import reference
        >>> weight, h = torch.randn(8, 16), reference.hessian(torch.randn(100, 16))
        >>> int((reference.fasterprune(weight, h, 0.5) == 0).sum())  # as published, one more than half
        65
    """
    w, h = weight.clone(), hessian.clone()
    diagonal = h.diagonal()
    dead = diagonal == 0
    diagonal[dead] = 1
    w[:, dead] = 0
    diagonal += percdamp * diagonal.mean()
    return _columns(w, h, sparsity, prunen, prunem, blocksize)


def batch_fasterprune(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    sparsity: float,
    prunen: int = 0,
    prunem: int = 0,
    blocksize: int = 128,
    percdamp: float = 0.01,
) -> torch.Tensor:
    """Prune weight [R, D] for one sample as BatchSparseGPT.fasterprune.

    Dead columns are not treated apart, the damping is at least LEAST_BATCH_DAMP, and a Hessian that is still not
    positive definite is replaced by the identity.
    """
    h = hessian.clone()
    diagonal = h.diagonal()
    diagonal += (percdamp * diagonal.mean()).clamp(min=LEAST_BATCH_DAMP)
    if int(torch.linalg.cholesky_ex(h)[1]):
        h = torch.eye(len(h), dtype=h.dtype, device=h.device)
    return _columns(weight.clone(), h, sparsity, prunen, prunem, blocksize)


def _columns(
    w: torch.Tensor, h: torch.Tensor, sparsity: float, prunen: int, prunem: int, blocksize: int
) -> torch.Tensor:
    """SparseGPT of w [R, D], in place, block by block, every column in a loop of its own.

    A block loses the weights of score w^2 / U_jj^2 up to the int(sparsity * numel)-th in ascending order from
    0, one more than the sparsity says. With prunen:prunem the group that starts at column j loses prunen of
    each row's prunem weights, chosen when the columns before j are done.
    """
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
    upper = torch.linalg.cholesky(inverse, upper=True)
    scale = upper.diagonal()
    for first in range(0, w.shape[1], blocksize):
        last = min(first + blocksize, w.shape[1])
        errors = torch.zeros_like(w[:, first:last])
        gone = torch.zeros_like(errors, dtype=torch.bool)
        if not prunen:
            score = (w[:, first:last] / scale[first:last]) ** 2
            gone = score <= score.flatten().sort()[0][int(score.numel() * sparsity)]
        for j in range(first, last):
            if prunen and (j - first) % prunem == 0:
                group = slice(j, min(j + prunem, last))
                score = (w[:, group] / scale[group]) ** 2
                least = score.topk(prunen, dim=1, largest=False)[1]
                gone.scatter_(1, j - first + least, True)
            error = torch.where(gone[:, j - first], w[:, j], 0) / upper[j, j]
            w[:, j:last] -= error[:, None] * upper[j, j:last]
            w[:, j] = torch.where(gone[:, j - first], 0, w[:, j])
            errors[:, j - first] = error
        w[:, last:] -= errors @ upper[first:last, last:]
    return w


def trueobs_prepare(
    weight: torch.Tensor, hessian: torch.Tensor, rel_damp: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights [R, D] and inverse Hessian of TrueOBS: damping first, then dead columns; + I if H is singular."""
    w, h = weight.clone(), hessian.clone()
    diagonal = h.diagonal()
    diagonal += rel_damp * diagonal.mean()
    dead = diagonal == 0
    diagonal[dead] = 1
    w[:, dead] = 0
    if int(torch.linalg.cholesky_ex(h)[1]):
        diagonal += 1
    return w, torch.cholesky_inverse(torch.linalg.cholesky(h))


def trueobs_row(
    w: torch.Tensor, hinv: torch.Tensor, size: int = 1, n: int = 1, m: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Optimal Brain Surgeon on one row, block by block of `size` weights.

    Step: the block b of least w_b^T (A_bb)^-1 w_b goes, w -= A[:,b] (A_bb)^-1 w_b, A -= A[:,b] (A_bb)^-1 A[b,:].
    Of each m blocks n go.

    Returns:
        The row after 0, 1, ... steps [K + 1, D] and half the score of each step [K].
    """
    w, a = w.clone(), hinv.clone()
    blocks = len(w) // size
    left = list(range(blocks))
    taken = [0] * (blocks // m)
    gone = torch.zeros(len(w), dtype=torch.bool, device=w.device)
    trace, losses = [w.clone()], []
    for _ in range(blocks // m * n):
        columns = {b: slice(b * size, (b + 1) * size) for b in left if taken[b // m] < n}
        solved = {b: torch.linalg.solve(a[c, c], w[c]) for b, c in columns.items()}
        scores = {b: float(w[columns[b]] @ x) for b, x in solved.items()}
        best = min(scores, key=lambda b: scores[b])
        c = columns[best]
        losses.append(scores[best] / 2)
        gone[c] = True
        w = (w - a[:, c] @ solved[best]).masked_fill(gone, 0)
        a -= a[:, c] @ torch.linalg.solve(a[c, c], a[c, :])
        left.remove(best)
        taken[best // m] += 1
        trace.append(w)
    return torch.stack(trace), torch.tensor(losses, dtype=w.dtype)


def trueobs_prune(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    sparsities: Sequence[float],
    size: int = 1,
    rel_damp: float = 0.0,
) -> list[torch.Tensor]:
    """Weights [R, D] for each sparsity: the ceil(R * blocks * sparsity) least losses of all rows go."""
    w, hinv = trueobs_prepare(weight, hessian, rel_damp)
    rows = [trueobs_row(row, hinv, size) for row in w]
    losses = torch.stack([loss for _, loss in rows])
    order = losses.flatten().argsort(stable=True)
    result = []
    for sparsity in sparsities:
        chosen = order[: math.ceil(losses.numel() * sparsity)] // losses.shape[1]
        counts = chosen.bincount(minlength=len(rows))
        result.append(torch.stack([t[k] for (t, _), k in zip(rows, counts, strict=True)]))
    return result


def trueobs_nm(
    weight: torch.Tensor, hessian: torch.Tensor, n: int = 2, m: int = 4, rel_damp: float = 0.0
) -> torch.Tensor:
    """Weights [R, D] with n of each m consecutive ones of a row gone."""
    w, hinv = trueobs_prepare(weight, hessian, rel_damp)
    return torch.stack([trueobs_row(row, hinv, n=n, m=m)[0][-1] for row in w])
