"""Exact OBC step by step, in plain PyTorch: every row's inverse Hessian is updated at every step."""

import math

import torch

from spade_ext.reference.inverse import damped_inverse

__all__ = ["obc_eliminate", "obc_prune", "obc_trace", "structured_columns"]


def _prepared(
    weight: torch.Tensor, hessian: torch.Tensor, damp: float
) -> tuple[torch.Tensor, torch.Tensor]:
    return weight.masked_fill(hessian.diagonal() == 0, 0), damped_inverse(hessian, damp)[0]


def obc_eliminate(
    weight: torch.Tensor,
    hinv: torch.Tensor,
    steps: int,
    *,
    n: int | None = None,
    m: int | None = None,
    block: int = 1,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Eliminate `steps` blocks of each row, one at a time.

    Score of block b: w_b^T (A_bb)^-1 w_b; the least goes, w -= A[:,b] A_bb^-1 w_b, A -= A[:,b] A_bb^-1 A[b,:].
    With n:m, a group of m columns that has lost n keeps the others.

    Args:
        weight: [R, D].
        hinv: [D, D], shared by the rows.
        steps: Blocks to remove.
        n: With m: at most n of each m columns.
        m: See n.
        block: Columns a block.

    Returns:
        order [R, steps] int64, loss [R, steps] = half the score, weights [R, D] after the steps.

    Example:
        >>> import torch
        >>> from spade_ext import reference
        >>> weight, h = torch.randn(8, 16), reference.hessian(torch.randn(100, 16))
        >>> inverse, _ = reference.damped_inverse(h)
        >>> order, loss, pruned = reference.obc_eliminate(weight, inverse, steps=4)
        >>> order.shape, int((pruned == 0).sum())
        (torch.Size([8, 4]), 32)
    """
    rows, cols = weight.shape
    w = weight.clone()
    a = hinv.expand(rows, cols, cols).clone()
    row = torch.arange(rows, device=w.device)
    open_ = torch.ones(rows, cols // block, dtype=torch.bool, device=w.device)  # may still go
    gone = torch.zeros_like(w, dtype=torch.bool)
    order, loss = [], []
    for _ in range(steps):
        parts = w.view(rows, -1, block)
        diagonal = a.view(rows, cols // block, block, cols // block, block)
        diagonal = diagonal.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)  # [R, D/c, c, c]
        eye = torch.eye(block, dtype=w.dtype, device=w.device)
        safe = torch.where(open_[:, :, None, None], diagonal, eye)
        solved = torch.linalg.solve(safe, parts[..., None])[..., 0]
        score = (parts * solved).sum(-1).masked_fill(~open_, torch.inf)
        p = score.argmin(1)
        order.append(p)
        loss.append(0.5 * score[row, p])
        open_[row, p] = False
        columns = p[:, None] * block + torch.arange(block, device=w.device)  # [R, c]
        across = a[row[:, None], columns]  # [R, c, D]
        inverse = torch.linalg.inv(safe[row, p])  # [R, c, c]
        w = w - (across * solved[row, p][..., None]).sum(1)
        a = a - across.transpose(1, 2) @ inverse @ across
        gone[row[:, None], columns] = True
        w = w.masked_fill(gone, 0)
        if m:
            group = p // m
            full = gone.view(rows, -1, m)[row, group].sum(1) == n
            open_.view(rows, -1, m)[row[full], group[full]] = False
    empty = torch.empty(rows, 0, device=w.device)
    return (
        torch.stack(order, 1) if order else empty.long(),
        torch.stack(loss, 1) if loss else empty.to(w.dtype),
        w,
    )


def obc_trace(
    weight: torch.Tensor, hessian: torch.Tensor, *, damp: float = 0.01
) -> tuple[torch.Tensor, torch.Tensor]:
    """Order [R, D] and losses [R, D] of eliminating every weight. See spade_ext.obc_trace.

    Example:
        >>> import torch
        >>> from spade_ext import reference
        >>> weight, h = torch.randn(8, 16), reference.hessian(torch.randn(100, 16))
        >>> order, loss = reference.obc_trace(weight, h)
        >>> order.shape
        torch.Size([8, 16])
    """
    w, hinv = _prepared(weight, hessian, damp)
    return obc_eliminate(w, hinv, w.shape[1])[:2]


def obc_prune(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    sparsity: float = 0.0,
    *,
    n: int | None = None,
    m: int | None = None,
    block: int = 1,
    damp: float = 0.01,
) -> torch.Tensor:
    """Weights [R, D] after the steps that the pattern asks for. See spade_ext.obc_prune.

    Example:
        >>> import torch
        >>> from spade_ext import reference
        >>> weight, h = torch.randn(8, 16), reference.hessian(torch.randn(100, 16))
        >>> int((reference.obc_prune(weight, h, 0.5) == 0).sum())
        64
    """
    w, hinv = _prepared(weight, hessian, damp)
    rows, cols = w.shape
    if n is not None and m is not None:
        return obc_eliminate(w, hinv, cols // m * n, n=n, m=m)[2]
    loss = obc_eliminate(w, hinv, cols // block, block=block)[1]
    count = math.ceil(sparsity * loss.numel() - 1e-9 * loss.numel())
    chosen = loss.flatten().argsort(stable=True)[:count]
    counts = torch.bincount(chosen // max(1, cols // block), minlength=rows)
    pruned = [
        obc_eliminate(w[r : r + 1], hinv, int(counts[r]), block=block)[2] for r in range(rows)
    ]
    return torch.cat(pruned) if pruned else w


def structured_columns(
    weight: torch.Tensor, hinv: torch.Tensor, steps: int, block: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Blocks of columns that all rows lose together, one at a time. See spade_ext.structured.

    Returns:
        order [steps] int64, loss [steps], weights [R, D] after the steps.

    Example:
        >>> import torch
        >>> from spade_ext import reference
        >>> weight, h = torch.randn(8, 16), reference.hessian(torch.randn(100, 16))
        >>> inverse, _ = reference.damped_inverse(h)
        >>> order, loss, pruned = reference.structured_columns(weight, inverse, steps=4)
        >>> int((pruned == 0).all(0).sum())
        4
    """
    w, a = weight.clone(), hinv.clone()
    left = list(range(w.shape[1] // block))
    gone = torch.zeros(w.shape[1], dtype=torch.bool)
    order, loss = [], []
    for _ in range(steps):
        parts = [slice(b * block, (b + 1) * block) for b in left]
        costs = [float((w[:, p] @ torch.linalg.inv(a[p, p]) * w[:, p]).sum()) for p in parts]
        least = min(range(len(left)), key=costs.__getitem__)
        order.append(left.pop(least))
        loss.append(0.5 * costs[least])
        part = parts[least]
        solved = torch.linalg.solve(a[part, part], a[part])
        w = w - w[:, part] @ solved
        a = a - a[:, part] @ solved
        gone[part] = True
        w[:, gone] = 0
    return torch.tensor(order), torch.tensor(loss, dtype=w.dtype), w
