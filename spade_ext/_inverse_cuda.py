"""Damped inverses of a batch of CUDA tensors, by torch.linalg in float64."""

import math
from typing import NamedTuple

import torch

from spade_ext import _C
from spade_ext.checks import all_finite, check_finite
from spade_ext.errors import SingularHessianError, of_group


class DampedInverse(NamedTuple):
    """What invert_cuda leaves of Hessians [G, D, D]; float64."""

    hinv: torch.Tensor
    hessian: torch.Tensor
    """Damped."""
    damp: list[float]
    """The damping used for each."""
    dead: torch.Tensor
    """[G, D] bool: H_jj = 0."""
    in_float32: list[bool]
    """Whether the elimination of each may run in float32."""


def invert_cuda(
    function: str,
    hessian: torch.Tensor,
    damp: float,
    dtype: torch.dtype,
    weight: torch.Tensor | None = None,
    grouped: bool = False,
) -> DampedInverse:
    """Inverses of checked Hessians [G, D, D], of which the lower triangles are read.

    Each walks the damping ladder of damped_inverse by itself. Waits for the device once, for whether hessian and
    weight are finite and what the factorisations gave, and once more for each further rung of the ladder.

    Raises:
        SingularHessianError: One is not positive definite even at damp = 1, or out of the range of dtype.
        ValueError: NaN or Inf in hessian or weight.
    """
    damped = hessian.double().tril()
    damped += damped.tril(-1).mT
    diagonal = damped.diagonal(dim1=1, dim2=2)
    dead = diagonal == 0
    live = diagonal.masked_fill(dead, 1.0)
    mean = live.mean(1) if live.numel() else live.new_ones(len(live))
    diagonal.copy_(live + damp * mean[:, None])
    hinv, state = _inverted(damped)
    count = len(hessian)
    finite = all_finite(hessian).double()[None]
    read = torch.cat([finite, largest(weight, hessian), mean, state.flatten()]).tolist()
    sizes, means = read[1 : count + 1], read[count + 1 : 2 * count + 1]
    if weight is not None and not all(map(math.isfinite, sizes)):
        check_finite(function, "weight", weight)
    if not read[0]:
        check_finite(function, "hessian", hessian)
    states = [read[i : i + 3] for i in range(2 * count + 1, len(read), 3)]
    used, rung = [damp] * count, damp
    while failed := [g for g, (info, _, _) in enumerate(states) if info]:
        next_rung = _C.next_damp(rung)
        if next_rung < 0:
            error = SingularHessianError(
                f"{function}: the Hessian is not positive definite, even with damp = {rung:g}"
            )
            raise of_group(error, failed[0]) if grouped else error
        rung = next_rung
        at = torch.tensor(failed, device=hessian.device)
        diagonal[at] = live[at] + rung * mean[at, None]
        hinv[at], state = _inverted(damped[at])
        for g, one in zip(failed, state.tolist(), strict=True):
            used[g], states[g] = rung, one
    limits = torch.finfo(dtype)
    for group, (_, least, most) in enumerate(states):
        if not (least >= limits.tiny and most <= limits.max):
            error = SingularHessianError(
                f"{function}: the damped Hessian and its inverse must be in the range of {dtype}, "
                f"[{limits.tiny:g}, {limits.max:g}], got [{least:g}, {most:g}] on the diagonals"
            )
            raise of_group(error, group) if grouped else error
    fits = [_C.obc_fits_float(*one) for one in zip(means, sizes, used, strict=True)]
    return DampedInverse(hinv, damped, used, dead, fits)


def largest(weight: torch.Tensor | None, hessian: torch.Tensor) -> torch.Tensor:
    """The largest |w| of each group [G, R, D] of Hessians [G, D, D], float64 [G]; 0 without weights."""
    if weight is None or not weight.numel():
        return hessian.new_zeros(len(hessian), dtype=torch.float64)
    low, high = torch.aminmax(weight.flatten(1), dim=1)
    return torch.maximum(low.abs(), high.abs()).double()


def _inverted(damped: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Inverses of [G, D, D], and of each: 0 if it was factorised, least and most of both diagonals, [G, 3]."""
    factor, info = torch.linalg.cholesky_ex(damped)
    identity = torch.eye(damped.shape[-1], dtype=damped.dtype, device=damped.device)
    root = torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)
    hinv = root.mT @ root
    if not damped.numel():
        return hinv, damped.new_ones(len(damped), 3).mul_(damped.new_tensor([0.0, 1.0, 1.0]))
    ends = torch.cat([x.diagonal(dim1=1, dim2=2) for x in (damped, hinv)], 1)
    return hinv, torch.stack([info.double(), ends.amin(1), ends.amax(1)], 1)
