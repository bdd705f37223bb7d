"""SparseGPT that keeps the zeros that a layer has already, in torch: as fast as the published code, not as ours."""

import torch

from spade_ext.inverse import damped_inverse


def prune_preserving(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    zeros: torch.Tensor,
    sparsity: float,
    block_size: int,
    n_of_m: tuple[int, int] | None,
    damp: float,
    extra: int,
) -> tuple[torch.Tensor, float]:
    """Prune a layer so that the weights in `zeros` are 0 in the result.

    As sparsegpt_prune, but the weights of `zeros` are in the mask from the start, and count for the sparsity of their
    block. They take compensation like every weight whose turn has not come, and pass it on when it comes: only so is
    each step exact. (llm-compressor drops what would reach them from earlier blocks.)

    Args:
        weight: [R, D] float32 or float64.
        hessian: [D, D].
        zeros: [R, D] bool, weights that are to stay 0.
        sparsity: As in sparsegpt_prune.
        block_size: As in sparsegpt_prune.
        n_of_m: (n, m), or None.
        damp: As in sparsegpt_prune.
        extra: Weights of each block that go beyond floor(sparsity * R * width).

    Returns:
        [R, D], and the damping used.

    Source: llm-compressor's `preserve_sparsity_mask`.
    """
    hinv, used = damped_inverse(hessian.to(weight.dtype), damp)
    u = torch.linalg.cholesky(hinv, upper=True)
    w = weight.masked_fill(zeros | (hessian.diagonal() == 0), 0)
    cols = w.shape[1]
    if n_of_m is not None:
        block_size += -block_size % n_of_m[1]  # a group lies in one block
    for begin in range(0, cols, block_size):
        end = min(begin + block_size, cols)
        errors = torch.zeros_like(w[:, begin:end])
        gone = zeros[:, begin:end].clone()
        if n_of_m is None:
            score = (w[:, begin:end] / u.diagonal()[begin:end]).square()
            score = score.masked_fill(zeros[:, begin:end], -1).flatten()
            count = min(int(sparsity * score.numel() + 1e-9) + extra, score.numel())
            gone.view(-1)[score.argsort(stable=True)[:count]] = True
        for j in range(begin, end):
            if n_of_m is not None and j % n_of_m[1] == 0:
                n, m = n_of_m
                score = (w[:, j : j + m] / u.diagonal()[j : j + m]).square()
                score = score.masked_fill(zeros[:, j : j + m], -1)
                least = score.argsort(dim=1, stable=True)[:, :n]
                gone[:, j - begin : j - begin + m].scatter_(1, least, True)
            error = w[:, j] / u[j, j] * gone[:, j - begin]
            errors[:, j - begin] = error
            w[:, j:end] -= torch.outer(error, u[j, j:end])
            w[gone[:, j - begin], j] = 0
        w[:, end:] -= errors @ u[begin:end, end:]
    return w, used
