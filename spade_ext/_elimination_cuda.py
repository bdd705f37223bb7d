"""The elimination of a layer by exact OBC on a CUDA device: few launches and waits, however many groups it has."""

from collections.abc import Sequence

import torch

from spade_ext import _cuda
from spade_ext._elimination import (
    Elimination,
    EliminationPattern,
    combined,
    dtypes_to_try,
    row_error,
)
from spade_ext._inverse_cuda import DampedInverse, invert_cuda
from spade_ext.errors import of_group


def eliminate_cuda(
    function: str,
    weight: torch.Tensor,
    hessian: torch.Tensor,
    pattern: EliminationPattern,
    damp: float,
    max_scratch: int | None,
) -> Elimination:
    """As eliminate, on CUDA tensors, each native call within max_scratch bytes if its rows can be cut so far."""
    w, h = weight.detach(), hessian.detach()
    if weight.ndim == 2:
        whole = _eliminate(function, w[None], h[None], pattern, damp, max_scratch, grouped=False)
        return combined(lambda x: x[0], whole.damp, whole)
    return _eliminate(function, w, h, pattern, damp, max_scratch, grouped=True)


def _eliminate(
    function: str,
    weight: torch.Tensor,
    hessian: torch.Tensor,
    pattern: EliminationPattern,
    damp: float,
    max_scratch: int | None,
    grouped: bool,
) -> Elimination:
    """All groups of weight [G, R, D] at once; in float64 again those whose damping or pivots ask for it.

    Waits for the device twice, and once more if some groups go again.
    """
    inverse = invert_cuda(function, hessian, damp, torch.float64, weight, grouped)
    whole: Elimination | None = None
    left = list(range(len(weight)))
    for dtype in dtypes_to_try(weight, hessian):
        now = [g for g in left if dtype == torch.float64 or inverse.in_float32[g]]
        if not now and left:
            continue
        part, info = _queue(weight, inverse, now, dtype, pattern, max_scratch)
        whole = _placed(whole, part, now, len(weight))
        lost = {g for g, bad in zip(now, info.any(1).tolist(), strict=True) if bad}
        left = [g for g in left if g in lost or g not in now]
        if not left:
            return whole._replace(damp=max(inverse.damp, default=damp))
    steps = info[now.index(left[0])].tolist()
    row = next(r for r, step in enumerate(steps) if step)
    error = row_error(function, row, steps[row], inverse.damp[left[0]])
    raise of_group(error, left[0]) if grouped else error


def _queue(
    weight: torch.Tensor,
    inverse: DampedInverse,
    groups: Sequence[int],
    dtype: torch.dtype,
    pattern: EliminationPattern,
    most: int | None,
) -> tuple[Elimination, torch.Tensor]:
    """Elimination of some groups, and info [groups, R], by the kernel for the pattern: fast, or in double."""
    at = torch.tensor(groups, device=weight.device) if len(groups) < len(weight) else slice(None)
    w = weight[at].to(dtype).masked_fill(inverse.dead[at, None], 0).contiguous()
    damped, hinv = inverse.hessian[at].to(dtype), inverse.hinv[at].to(dtype)
    cols = w.shape[-1]
    rows, scale = _near_one(w)
    if dtype == torch.float64 or cols > _cuda.MOST_COLUMNS or pattern.block > 1:
        order, loss, info = _cuda.obc_trace_pattern(
            rows, hinv, pattern.steps(cols), *pattern, most=most
        )
    elif pattern.m:
        order, loss, info = _cuda.obc_trace_nm(rows, hinv, pattern.n, pattern.m, most=most)
    else:
        order, loss, info = _cuda.obc_trace(rows, hinv, cols, most=most)
    return Elimination(order, loss * scale * scale, 0.0, w, damped, hinv), info


def _near_one(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [G, R, D] whose largest weight is near 1, so that squares are in range, and the scales [G, R, 1] they had.

    Scales are powers of two, which change no digit, and 1 for rows that are near already.
    """
    if not weight.numel():
        return weight, weight.new_ones(())
    exponent = torch.frexp(weight.abs().amax(-1, keepdim=True)).exponent
    scale = torch.ldexp(weight.new_ones(()), exponent.masked_fill(exponent.abs() <= 30, 0))
    return weight / scale, scale


def _placed(
    whole: Elimination | None, part: Elimination, groups: Sequence[int], count: int
) -> Elimination:
    """Whole with the groups of part in their places, in the dtypes of part."""
    if len(groups) == count:
        return part
    at = torch.tensor(groups, device=part.order.device)

    def place(new: torch.Tensor, old: torch.Tensor | None = None) -> torch.Tensor:
        full = new.new_empty(count, *new.shape[1:]) if old is None else old.to(new.dtype)
        full[at] = new
        return full

    return combined(place, 0.0, part) if whole is None else combined(place, 0.0, part, whole)
