"""Hessian of a layer's inputs in plain PyTorch, with the unfolded inputs in memory."""

import torch
from torch.nn import functional as F

__all__ = ["hessian"]


def hessian(
    x: torch.Tensor,
    *,
    kernel_size: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> torch.Tensor:
    """H = X X^T in the dtype of x; padding by ints only. See spade_ext.hessian.

    Example:
        >>> import torch
        >>> from spade_ext import reference
        >>> x = torch.randn(1000, 64)
        >>> torch.allclose(reference.hessian(x), x.T @ x, rtol=1e-3, atol=1e-3)
        True
    """
    if kernel_size is None:
        rows = x.reshape(-1, x.shape[-1])
        return rows.T @ rows
    patches = F.unfold(x, kernel_size, dilation, padding, stride)  # [B, C taps, positions]
    grouped = patches.reshape(len(x), groups, -1, patches.shape[2])
    columns = grouped.permute(1, 2, 0, 3).flatten(2)
    result = torch.bmm(columns, columns.transpose(1, 2))
    return result if groups > 1 else result[0]
