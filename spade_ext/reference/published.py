"""The recurrence of the published SparseGPT class, written from the paper: the oracle of spade_ext.compat.

Those of the published TrueOBS class are reference.obc_eliminate.
"""

import torch


def fasterprune(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    sparsity: float,
    prunen: int = 0,
    prunem: int = 0,
    blocksize: int = 128,
    percdamp: float = 0.01,
) -> torch.Tensor:
    """Prune weight [R, D] block by block, every column in a loop of its own.

    A block loses the weights of score w^2 / U_jj^2 up to the int(sparsity * numel)-th in ascending order from
    0, one more than the sparsity says. With prunen:prunem the group that starts at column j loses prunen of
    each row's prunem weights, chosen when the columns before j are done.

    Source: Frantar, Alistarh, "SparseGPT" (ICML 2023), Algorithm 1.
    """
    w, h = weight.clone(), hessian.clone()
    diagonal = h.diagonal()
    dead = diagonal == 0
    diagonal[dead] = 1
    w[:, dead] = 0
    diagonal += percdamp * diagonal.mean()
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
