"""Structured exact OBC: whole columns, or blocks of columns, that all rows of a layer lose together."""

import math

import torch

from spade_ext.errors import SingularHessianError
from spade_ext.inverse import damped_inverse


def structured_columns(
    weight: torch.Tensor, hinv: torch.Tensor, steps: int, block: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose the blocks of columns that cost a layer least.

    One step: b = argmin tr(A_bb^-1 W_b^T W_b) over the blocks that are left, A the inverse Hessian of what is left;
    W -= W_b A_bb^-1 A_b, A -= A_b^T A_bb^-1 A_b; ties: lowest block. A and W are never updated as a whole: with
    A_bb = L L^T, u = L^-1 A_b and c = L^-1 W_b^T of each step give any column of both at O(D (R + k))
    per step.

    Args:
        weight: [R, D] float64, dead columns 0. Not modified.
        hinv: [D, D] float64 inverse of the damped Hessian. Not modified.
        steps: Blocks to remove, at most D / block.
        block: Columns per block; divides D.

    Returns:
        order [steps] int64 of blocks, loss [steps] = half of each step's cost, summed over the rows.

    Raises:
        SingularHessianError: A block of A is not positive definite; .index is the step.

    Source: Frantar, Singh, Alistarh, "Optimal Brain Compression" (NeurIPS 2022), section 4.
    Reference: reference.structured_columns.
    """
    rows, cols = weight.shape
    count = cols // block
    u = weight.new_empty(steps * block, cols)
    c = weight.new_empty(steps * block, rows)
    index = torch.arange(count, device=weight.device)
    diagonal = hinv.reshape(count, block, count, block)[index, :, index].clone()  # A_bb: [n, c, c]
    parts = weight.reshape(rows, count, block).permute(1, 2, 0)
    gram = parts @ parts.transpose(1, 2)  # W_b^T W_b: [n, c, c]
    left = torch.ones(count, dtype=torch.bool, device=weight.device)
    order = torch.empty(steps, dtype=torch.int64, device=weight.device)
    loss = weight.new_empty(steps)
    eye = torch.eye(block, dtype=weight.dtype, device=weight.device)
    for step in range(steps):
        factors, info = torch.linalg.cholesky_ex(diagonal)
        if bool((info[left] != 0).any()):
            raise SingularHessianError(
                f"obc_prune: the Hessian loses definiteness at step {step}; use more damping", step
            )
        score = torch.cholesky_solve(gram, factors).diagonal(dim1=1, dim2=2).sum(1)
        b = score.masked_fill(~left, torch.inf).argmin()
        order[step], loss[step], left[b] = b, 0.5 * score[b], False
        taken = slice(int(b) * block, (int(b) + 1) * block)
        done, new = slice(0, step * block), slice(step * block, (step + 1) * block)
        across = torch.cat([hinv[taken], weight[:, taken].T], 1)
        across -= u[done, taken].T @ torch.cat([u[done], c[done]], 1)
        solved = torch.linalg.solve_triangular(factors[b], across, upper=False)
        u[new], c[new] = solved[:, :cols], solved[:, cols:]
        here = u[new].reshape(block, count, block).permute(1, 0, 2)  # of each block: [n, c, c]
        product = c[new] @ weight - (c[new] @ c[done].T) @ u[done]  # c W, with W as it was
        mixed = product.reshape(block, count, block).permute(1, 2, 0) @ here
        gram = gram - mixed - mixed.transpose(1, 2)
        gram += here.transpose(1, 2) @ (c[new] @ c[new].T) @ here
        diagonal = diagonal - here.transpose(1, 2) @ here
        diagonal[~left] = eye
    return order, loss


def least_squares(weight: torch.Tensor, hessian: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Weights [R, D] whose kept columns (bool [D]) are the optimum W_K = (W H)_K H_KK^-1, and whose others are 0."""
    result = torch.zeros_like(weight)
    if bool(kept.any()):
        factor = torch.linalg.cholesky(hessian[kept][:, kept])
        result[:, kept] = torch.cholesky_solve((weight @ hessian)[:, kept].T, factor).T
    return result


def prune_structured(
    weight: torch.Tensor, hessian: torch.Tensor, sparsity: float, block: int, damp: float
) -> tuple[torch.Tensor, float]:
    """Weights [R, D] without the ceil(sparsity * D / block) cheapest blocks of columns, and the damping used."""
    hinv, used = damped_inverse(hessian.double(), damp)
    diagonal = hessian.double().diagonal()
    dense = weight.double().masked_fill(diagonal == 0, 0)
    damped = hessian.double().tril() + hessian.double().tril(-1).T
    damped.diagonal()[diagonal == 0] = 1
    damped.diagonal().add_(used * damped.diagonal().mean())
    count = weight.shape[1] // block
    steps = max(0, math.ceil((sparsity - 1e-9) * count))  # 0.3 of 10 counts as 3
    order, _ = structured_columns(dense, hinv, steps, block)
    kept = torch.ones(count, dtype=torch.bool, device=weight.device)
    kept[order] = False
    return least_squares(dense, damped, kept.repeat_interleave(block)), used
