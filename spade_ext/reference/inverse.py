"""Damped inverse in plain PyTorch."""

import torch

__all__ = ["damped_inverse"]


def damped_inverse(hessian: torch.Tensor, damp: float = 0.01) -> tuple[torch.Tensor, float]:
    """Invert H + damp * mean(diag H) * I; dead columns get a unit diagonal. See spade_ext.damped_inverse.

    Example:
        >>> import torch
        >>> from spade_ext import reference
        >>> inverse, used = reference.damped_inverse(torch.eye(4), damp=0.01)
        >>> used
        0.01
    """
    h = hessian.double()
    live = torch.where(h.diagonal() == 0, torch.ones_like(h.diagonal()), h.diagonal())
    while True:
        damped = h.clone()
        damped.diagonal().copy_(live + damp * live.mean())
        factor, info = torch.linalg.cholesky_ex(damped)
        if not int(info):
            return torch.cholesky_inverse(factor).to(hessian.dtype), damp
        if damp >= 1:
            raise ArithmeticError("damped_inverse: not positive definite even at damp = 1")
        damp = min(1.0, damp * 10) if damp else 1e-6
