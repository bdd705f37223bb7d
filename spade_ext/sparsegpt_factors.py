"""SparseGPT of one layer at several sparsities, on the CPU: each Hessian is factorised once."""

import torch

from spade_ext import _C
from spade_ext._memory import empty
from spade_ext.checks import (
    MOST_DAMP,
    check_device,
    check_finite,
    check_int,
    check_range,
    check_same_device,
    check_shape,
    check_square,
    check_tensor,
    compute_dtype,
    dense,
    narrowed,
    resolve_threads,
)

LEAST_SHARE = 1e-3
"""Of what damping adds to a loss: a smaller loss would be left with few digits of their difference."""


class SparseGPTFactors:
    """Hessians with their factors, from which weights are pruned to any sparsity.

    Args:
        hessian: [S, D, D] on the CPU: only the lower triangles are read. Not modified, and not to be modified.
        damp: Damping relative to the mean of the diagonal, in [0, 1e6].
        threads: CPU threads; None takes torch.get_num_threads().

    Attributes:
        damp: The damping that each took.
        failed: Whether any is not positive definite even at damp = 1; then nothing can be pruned.

    Raises:
        ValueError: Wrong shape or device, NaN or Inf.

    Example:
        >>> import torch, spade_ext
        >>> from spade_ext.sparsegpt_factors import SparseGPTFactors
        >>> weight, h = torch.randn(32, 64), spade_ext.hessian(torch.randn(200, 64))
        >>> factors = SparseGPTFactors(h[None])
        >>> pruned, losses = factors.prune(weight, 0.75, block_size=128)
        >>> torch.equal(pruned[0], spade_ext.sparsegpt_prune(weight, h, 0.75))
        True
    """

    def __init__(
        self, hessian: torch.Tensor, damp: float = 0.01, *, threads: int | None = None
    ) -> None:
        function = "SparseGPTFactors"
        check_tensor(function, "hessian", hessian, ndim=3)
        samples, cols, _ = check_square(function, "hessian", hessian).shape
        check_device(function, "hessian", hessian)
        if not hessian.is_cpu:
            raise ValueError(f"{function}: hessian must be on the CPU, got {hessian.device}")
        check_finite(function, "hessian", hessian)
        damp = check_range(function, "damp", damp, 0.0, MOST_DAMP)
        self._hessian = dense(hessian, compute_dtype(hessian))
        diagonal = self._hessian.diagonal(dim1=-2, dim2=-1).double()
        self._mean = torch.where(diagonal == 0, 1.0, diagonal).mean(-1)  # as damping takes it
        size = _C.sparsegpt_factor_size(cols)
        self._factors = empty((samples, size), self._hessian.dtype, hessian.device)
        wide = self._hessian.dtype == torch.float64
        self.damp, info = (_C.sparsegpt_factor_f64 if wide else _C.sparsegpt_factor_f32)(
            self._hessian.data_ptr(), samples, cols, damp, self._factors.data_ptr(),
            resolve_threads(function, threads), None,
        )  # fmt: skip
        self.failed = any(info)

    def prune(
        self, weight: torch.Tensor, sparsity: float, *, block_size: int, threads: int | None = None
    ) -> tuple[torch.Tensor, list[float]]:
        """Prune as sparsegpt_prune does, with the same bits.

        Args:
            weight: [R, D] shared by the samples, or [S, R, D]. Not modified.
            sparsity: As in sparsegpt_prune.
            block_size: As in sparsegpt_prune.
            threads: CPU threads; None takes torch.get_num_threads().

        Returns:
            Weights [S, R, D], and of each sample tr((W - W') H (W - W')^T) with the H that was given, not damped.

        Raises:
            ValueError: Wrong shape, device or range, NaN or Inf; the factors have failed.

        Source: Frantar, Alistarh, "SparseGPT" (ICML 2023), Algorithm 1.
        """
        function = "SparseGPTFactors.prune"
        if self.failed:
            raise ValueError(
                f"{function}: the Hessians must be positive definite, got one that is not"
            )
        samples, cols, _ = self._hessian.shape
        check_tensor(function, "weight", weight, ndim=(2, 3))
        rows = weight.shape[-2]
        check_shape(function, "weight", weight, (*weight.shape[:-2], rows, cols))
        if weight.ndim == 3:
            check_shape(function, "weight", weight, (samples, rows, cols))
        check_same_device(function, "weight", weight, "hessian", self._hessian)
        check_range(function, "sparsity", sparsity, 0.0, 1.0)
        check_int(function, "block_size", block_size, 1)
        check_finite(function, "weight", weight)
        w = dense(weight, self._hessian.dtype)
        out = empty((samples, rows, cols), w.dtype, w.device)
        wide = w.dtype == torch.float64
        losses = (_C.sparsegpt_sweep_f64 if wide else _C.sparsegpt_sweep_f32)(
            w.data_ptr(), rows * cols if w.ndim == 3 else 0, self._hessian.data_ptr(),
            self._factors.data_ptr(), self.damp, samples, rows, cols, float(sparsity), block_size,
            out.data_ptr(), resolve_threads(function, threads), None,
        )  # fmt: skip
        return narrowed(function, out, weight.dtype), self._precise(losses, w - out)

    def _precise(self, losses: list[float], change: torch.Tensor) -> list[float]:
        """Losses, computed by definition where damping is so large that little is left of them beside it."""
        damping = torch.tensor(self.damp, dtype=torch.float64) * self._mean
        damped = torch.linalg.vector_norm(change.double(), dim=(1, 2)).square() * damping
        for k, (loss, added) in enumerate(zip(losses, damped.tolist(), strict=True)):
            if loss < LEAST_SHARE * added:
                h, d = self._hessian[k], change[k].double()
                full = (h.tril() + h.tril(-1).mT).double()
                losses[k] = float(((d @ full) * d).sum().clamp_min(0))
        return losses
