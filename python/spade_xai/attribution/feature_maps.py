"""Which of a model's tensors are feature maps: which dimensions are the image's rows and columns.

A tensor of four dimensions may be a map [B, C, h, w], the same with channels last, attention weights or the heads of
tokens. Its shape does not tell; where it comes from does. The image's layout is followed through the functions the
model calls: convolutions and pooling keep rows and columns, permutations move them, reshaping joins them to tokens or
splits them again, sums keep the layout of the residual stream. What attention and other functions make of it has no
layout until it is added to the stream.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

_SAME = set(
    "relu relu6 leaky_relu prelu elu selu celu gelu silu mish hardswish hardsigmoid hardtanh softplus softsign sigmoid "
    "tanh clamp clamp_min clamp_max clip batch_norm layer_norm group_norm instance_norm rms_norm normalize dropout "
    "dropout1d dropout2d alpha_dropout feature_dropout clone contiguous to float double half bfloat16 type_as detach "
    "add radd iadd sub isub rsub mul rmul imul multiply div truediv itruediv exp sqrt rsqrt pow square abs neg "
    "requires_grad local_response_norm lerp addcmul where".split()
)
_SPATIAL = set(
    "conv2d conv_transpose2d max_pool2d avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d lp_pool2d interpolate pad "
    "pixel_shuffle pixel_unshuffle upsample".split()
)
_MOVING = set("permute transpose swapaxes swapdims movedim moveaxis t T mT".split())
_RESHAPING = {
    "reshape",
    "view",
    "flatten",
    "unflatten",
    "squeeze",
    "unsqueeze",
    "view_as",
    "reshape_as",
}


@dataclass(frozen=True)
class Layout:
    """Where a tensor [B, ...] has the image's positions.

    With two axes they are rows and columns; with one, `rows * columns` positions in reading order, the first at
    `start`.
    """

    axes: tuple[int, ...]
    rows: int
    columns: int
    start: int = 0

    def as_map(self, x: Tensor) -> Tensor:
        """The tensor as a map [B, C, rows, columns]."""
        if len(self.axes) == 2:
            return x if self.axes == (2, 3) else x.movedim(self.axes, (2, 3))
        x = x.movedim(self.axes[0], -1)
        x = x[..., self.start : self.start + self.rows * self.columns]
        return x.unflatten(-1, (self.rows, self.columns))


class Layouts(TorchFunctionMode):
    """Follows the layout of an image [B, C, H, W] through a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self._known: Any = WeakIdKeyDictionary()

    def of(self, x: object) -> Layout | None:
        """The layout of a tensor that was made while this is active."""
        return self._known.get(x) if isinstance(x, Tensor) else None

    def put(self, x: Tensor, layout: Layout) -> None:
        """Say what a tensor's layout is."""
        self._known[x] = layout

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [(x, self.of(x)) for x in _tensors((*args, *kwargs.values()))]
        known = [(x, layout) for x, layout in given if layout is not None]
        shapes = [tuple(x.shape) for x, _ in known]  # of before, should the function work in place
        out = func(*args, **kwargs)
        if known and isinstance(out, Tensor):
            name = getattr(func, "__name__", "").strip("_")
            found = _after(name, func, known, shapes, out, args, kwargs)
            if found is not None:
                self._known[out] = found
        return out


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _after(
    name: str,
    func: Any,
    known: list[tuple[Tensor, Layout]],
    shapes: list[tuple[int, ...]],
    out: Tensor,
    args: Any,
    kwargs: dict[str, Any],
) -> Layout | None:
    """The layout of a function's result, None where it has none."""
    _, layout = known[0]
    shape, after = shapes[0], tuple(out.shape)
    if name in _SAME:
        fitting = (lay for lay, s in zip((k[1] for k in known), shapes, strict=True) if s == after)
        return next(fitting, None)
    if name in _SPATIAL:
        image = layout.axes == (2, 3) and out.ndim == 4
        return Layout((2, 3), *after[2:]) if image else None
    if name == "linear":
        return layout if len(shape) - 1 not in layout.axes else None
    if name in _MOVING:
        # The same function on sizes that tell the dimensions apart.
        sizes = [2 + k for k in range(len(shape))]
        probe = torch.empty(sizes, device="meta")
        moved = [s - 2 for s in func(probe, *args[1:], **kwargs).shape]
        axes = tuple(moved.index(a) for a in layout.axes)
        kept = moved[0] == 0 and axes == tuple(sorted(axes))
        return Layout(axes, layout.rows, layout.columns, layout.start) if kept else None
    if name in _RESHAPING:
        return _reshaped(layout, shape, after)
    if name in ("cat", "concat"):
        return _joined(layout, known, args, kwargs, out)
    if name == "getitem":
        return _cut(layout, shape, after, args[1])
    return None


def _reshaped(layout: Layout, shape: tuple[int, ...], after: tuple[int, ...]) -> Layout | None:
    """Positions stay as they are, are joined, or are split again."""
    rows, columns = layout.rows, layout.columns
    if shape == after:
        return layout
    first = layout.axes[0]
    before, behind = shape[:first], shape[layout.axes[-1] + 1 :]
    if len(layout.axes) == 2 and after == (*before, rows * columns, *behind):
        return Layout((first,), rows, columns)
    whole = layout.start == 0 and shape[first] == rows * columns
    if len(layout.axes) == 1 and whole and after == (*before, rows, columns, *behind):
        return Layout((first, first + 1), rows, columns)
    return None


def _joined(
    layout: Layout,
    known: list[tuple[Tensor, Layout]],
    args: Any,
    kwargs: dict[str, Any],
    out: Tensor,
) -> Layout | None:
    """Maps joined by channels, or tokens with others before or behind them."""
    parts = args[0] if args else kwargs["tensors"]
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0) % out.ndim
    if dim not in layout.axes:
        return layout if len(known) == len(parts) else None
    if len(layout.axes) == 2 or len(known) != 1:
        return None
    start = layout.start
    for part in parts:
        if part is known[0][0]:
            break
        start += part.shape[dim]
    return Layout(layout.axes, layout.rows, layout.columns, start)


def _cut(
    layout: Layout, shape: tuple[int, ...], after: tuple[int, ...], index: Any
) -> Layout | None:
    """Tokens without those before the positions, such as x[:, 1:]."""
    if shape == after:
        return layout
    axis = layout.axes[0]
    index = index if isinstance(index, tuple) else (index,)
    if len(layout.axes) != 1 or len(index) <= axis or not isinstance(index[axis], slice):
        return None
    others = [i for k, i in enumerate(index) if k != axis]
    begin, _, step = index[axis].indices(shape[axis])
    start = layout.start - begin
    fits = start >= 0 and start + layout.rows * layout.columns <= after[axis]
    if any(i != slice(None) for i in others) or step != 1 or not fits:
        return None
    return Layout(layout.axes, layout.rows, layout.columns, start)
