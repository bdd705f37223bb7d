"""Damped inverse of a Hessian."""

import warnings

import torch

from spade_ext import _C
from spade_ext._inverse_cuda import invert_cuda
from spade_ext.checks import (
    MOST_DAMP,
    check_device,
    check_finite,
    check_range,
    check_square,
    check_tensor,
    compute_dtype,
    dense,
    resolve_threads,
)
from spade_ext.errors import DampingWarning, SingularHessianError


def damped_inverse(
    hessian: torch.Tensor, damp: float = 0.01, *, threads: int | None = None
) -> tuple[torch.Tensor, float]:
    """Invert a damped Hessian, with more damping if that is needed.

    A = (H' + damp * mean(diag H') * I)^-1, factorised in float64. H' is H with a unit diagonal in every
    dead column (H_jj = 0). If the sum is not positive definite, damp grows tenfold up to 1.

    Args:
        hessian: [D, D], symmetric: only the lower triangle is read; float32 or float64 (16-bit floats are computed
            in float32). Not modified.
        damp: Damping relative to the mean of the diagonal, in [0, 1e6].
        threads: CPU threads; None takes torch.get_num_threads().

    Returns:
        A [D, D] and the damping that was used.

    Raises:
        SingularHessianError: Not positive definite even at damp = 1, or the inverse is out of the range of the dtype
            (H near 1e-39 or 1e38 in float32): scale H, or pass float64.
        ValueError: Not square, not finite, or damp out of range.

    Warns:
        DampingWarning: More damping than asked for was used.

    Source: Frantar and Alistarh, "SparseGPT" (ICML 2023), section 3.4 (damping).
    Reference: reference.damped_inverse.

    Example:
        >>> import torch, spade_ext
        >>> h = spade_ext.hessian(torch.randn(1000, 64))
        >>> inverse, used = spade_ext.damped_inverse(h, damp=0.01)
        >>> damped = h + used * h.diagonal().mean() * torch.eye(64)
        >>> torch.allclose(inverse @ damped, torch.eye(64), atol=1e-3)
        True
    """
    function = "damped_inverse"
    check_tensor(function, "hessian", hessian, ndim=2)
    check_square(function, "hessian", hessian)
    check_device(function, "hessian", hessian)
    damp = check_range(function, "damp", damp, 0.0, MOST_DAMP)
    threads = resolve_threads(function, threads)
    h = dense(hessian, compute_dtype(hessian))
    if h.is_cuda:
        inverse = invert_cuda(function, h[None], damp, h.dtype)
        out, used = inverse.hinv[0].to(h.dtype), inverse.damp[0]
    else:
        out = torch.empty(h.shape, dtype=h.dtype)
        try:
            wide = h.dtype == torch.float64
            call = _C.damped_inverse_f64 if wide else _C.damped_inverse_f32
            used = call(h.data_ptr(), len(h), damp, out.data_ptr(), threads)
        except ArithmeticError as error:
            raise SingularHessianError(f"{function}: {error}") from None
        except ValueError:
            check_finite(function, "hessian", hessian)  # says more than the native text
            raise
    warn_damping(function, damp, used)
    return out, used


def warn_damping(function: str, asked: float, used: float) -> None:
    """Say that more damping than asked for was used."""
    if used > asked:
        warnings.warn(
            f"{function}: the Hessian is not positive definite at damp={asked:g}, used {used:g}",
            DampingWarning,
            stacklevel=3,
        )
