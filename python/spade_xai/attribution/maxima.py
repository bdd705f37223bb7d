"""DeepLIFT through maxima: max pooling, the maximum along dimensions, the maximum of two tensors; minima alike.

With y = max_i x_i taken at i, y0 at j on the baseline, and c = max(y, y0), the rise y - y0 = (c - y0) + (y - c): the
first part goes to x_i, the second to x_j. Each is 0 where its input does not differ, so that multipliers lie in [0,
1].
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from spade_xai.attribution.calls import Call, is_signal

_WINDOW = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_POOLS: dict[str, tuple[Any, int, tuple[str, ...]]] = {
    f"{kind}{sides}d{suffix}": (getattr(F, f"{kind}{sides}d"), sides, names)
    for kind, names in (
        ("max_pool", _WINDOW),
        ("adaptive_max_pool", ("input", "output_size", "return_indices")),
    )
    for sides in (1, 2, 3)
    for suffix in ("", "_with_indices")
}
_LEAST = {"min", "amin", "minimum", "fmin"}
MAXIMA = {*_POOLS, *_LEAST, "max", "amax", "maximum", "fmax"}
"""Names of functions that give one of their inputs."""


def through(call: Call, before: list[Tensor], out: Any) -> Any:
    """The result of a maximum, with the multipliers of its inputs; before: its signals on the baseline."""
    if call.name in _POOLS:
        return _pooled(call, before[0], out)
    least = call.name in _LEAST
    if len(call.args) > 1 and isinstance(call.args[1], Tensor):
        a, b = torch.broadcast_tensors(*call.args[:2])
        rest = iter(before)
        a0, b0 = (
            next(rest).expand_as(a) if is_signal(x) else y
            for x, y in zip(call.args[:2], (a, b), strict=True)
        )
        x, x0 = torch.stack([a, b], -1), torch.stack([a0, b0], -1)
        return _taken(x, x0, least)[..., 0]
    dims = _dimensions(call)
    x, x0 = (_to_last(t, dims) for t in (call.args[0], before[0]))
    y = _taken(x, x0, least).reshape(out.shape if isinstance(out, Tensor) else out[0].shape)
    return y if isinstance(out, Tensor) else type(out)((y, out[1]))


def _taken(x: Tensor, x0: Tensor, least: bool) -> Tensor:
    """The largest (least) entry along the last dimension, which is kept."""
    find = torch.argmin if least else torch.argmax
    index, index0 = (find(t.detach(), -1, keepdim=True) for t in (x, x0))
    return Taken.apply(x, x0.detach(), index, index0, least)


def _dimensions(call: Call) -> tuple[int, ...]:
    options = dict(zip(("dim", "keepdim"), call.args[1:], strict=False)) | call.kwargs
    dims = options.get("dim", ())
    return (dims,) if isinstance(dims, int) else tuple(dims)


def _to_last(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The entries along some dimensions (none means all) as the last dimension."""
    if not dims:
        return x.reshape(-1)
    return x.movedim(dims, tuple(range(-len(dims), 0))).flatten(-len(dims))


def _pooled(call: Call, before: Tensor, out: Any) -> Any:
    pool, sides, names = _POOLS[call.name]
    options = dict(zip(names, call.args, strict=False)) | call.kwargs
    options.pop("return_indices", None)
    x = options.pop("input")
    with torch.no_grad():
        (shaped, index), (_, index0) = (
            pool(t, **options, return_indices=True) for t in (x.detach(), before)
        )
    flat = [t.flatten(-sides) for t in (x, before, index, index0)]
    y = Taken.apply(*flat, False).reshape(shaped.shape)
    return y if isinstance(out, Tensor) else (y, index)


class Taken(torch.autograd.Function):
    """y = x[i] along the last dimension, with i of a maximum (minimum) and j that of the baseline."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, x0: Tensor, i: Tensor, j: Tensor, least: bool) -> Tensor:
        """Take the entries and keep what the rule needs."""
        ctx.least = least
        ctx.save_for_backward(x, x0, i, j)
        return x.gather(-1, i)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        """Return the multiplied gradient."""
        x, x0, i, j = ctx.saved_tensors
        y, y0 = x.gather(-1, i), x0.gather(-1, j)
        crossing = torch.minimum(y, y0) if ctx.least else torch.maximum(y, y0)
        out = torch.zeros_like(x)
        for rise, at in ((crossing - y0, i), (y - crossing, j)):
            change = x.gather(-1, at) - x0.gather(-1, at)
            share = torch.where(change == 0, 0.0, rise / change)
            out.scatter_add_(-1, at, grads[0] * share)
        # Where nothing changed the derivative: to the entry that is taken.
        same = (i == j) & (x.gather(-1, i) == x0.gather(-1, i))
        out.scatter_add_(-1, i, grads[0] * same)
        return out, None, None, None, None
