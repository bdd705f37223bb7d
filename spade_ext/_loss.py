"""What a change of a layer's weights costs: tr(E H E^T), in float64 and within little memory."""

import torch

_COLUMNS = 1024  # of H in float64 at once


def quadratic(change: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
    """tr(E H E^T) = ||E X||^2 for H = X X^T, summed over groups if there are any.

    By symmetry a block of columns of H is needed from its diagonal on: half the products. Of H no more than D x 1024
    is held in float64.

    Args:
        change: E, [..., R, D].
        hessian: [..., D, D]: only the lower triangle is read.

    Returns:
        [] float64.
    """
    e = change.double()
    total = e.new_zeros(())
    for begin in range(0, e.shape[-1], _COLUMNS):
        end = begin + _COLUMNS
        h = hessian[..., begin:, begin:end].double()
        on, below = h[..., : h.shape[-1], :], h[..., h.shape[-1] :, :]
        block = e[..., begin:end]
        product = block @ (on.tril() + on.tril(-1).mT) + 2 * (e[..., end:] @ below)
        total += (product * block).sum()
    return total


def pruning_loss(
    weight: torch.Tensor, pruned: torch.Tensor, hessian: torch.Tensor, damp: float
) -> torch.Tensor:
    """The loss that the published class prints: 1/2 tr((W - W') H (W - W')^T) with the damped H, in float64.

    It is the sum of SparseGPT's (w - q)^2 / (2 U_jj^2), as each of its steps is exact; weights of dead columns do not
    count.

    Args:
        weight: [R, D].
        pruned: [R, D].
        hessian: [D, D]: only the lower triangle is read.
        damp: Damping that was used, relative to the mean of the diagonal.

    Returns:
        [] float64.
    """
    diagonal = hessian.diagonal().double()
    dead = diagonal == 0
    change = (weight - pruned).double().masked_fill(dead, 0)
    added = damp * (diagonal + dead).mean()
    return 0.5 * (quadratic(change, hessian) + added * change.square().sum())
