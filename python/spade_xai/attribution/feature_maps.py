"""Which of a model's tensors are feature maps: which dimensions are the image's rows and columns.

A tensor of four dimensions may be a map [B, C, h, w], the same with channels last, attention weights or the heads of
tokens. Its shape does not tell; where it comes from does. Beside each tensor of a forward pass go two of its shape
with the row and the column of the image that each entry stands for:

    convolution, pooling           the grid, coarser
    reshaping, permuting, cutting  the same call on rows and columns
      and joining
    functions of single entries    those of the argument of the result's shape: sums keep the residual stream's
    linear layers                  their mean over the features
    all others, such as attention  none, until it is added to the stream

A tensor is a map where rows vary along one dimension and columns along another, or where tokens run over both in
reading order.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

_SAME = set(
    "relu relu6 leaky_relu prelu elu selu celu gelu silu mish hardswish hardsigmoid hardtanh softplus softsign sigmoid "
    "tanh clamp clamp_min clamp_max clip batch_norm layer_norm group_norm instance_norm rms_norm normalize dropout "
    "dropout1d dropout2d alpha_dropout feature_dropout float double half bfloat16 type_as to detach add radd iadd sub "
    "isub rsub mul rmul imul multiply div truediv itruediv exp sqrt rsqrt pow square abs neg requires_grad "
    "local_response_norm lerp addcmul where".split()
)
_GRIDS = set(
    "conv2d conv_transpose2d max_pool2d avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d lp_pool2d interpolate "
    "upsample".split()
)
_MOVES = set(
    "permute transpose swapaxes swapdims movedim moveaxis t T mT reshape view flatten unflatten squeeze unsqueeze "
    "getitem narrow select cat concat stack roll flip chunk split tensor_split unbind expand contiguous clone "
    "pixel_shuffle pixel_unshuffle repeat_interleave".split()
)
Places = tuple[Tensor, Tensor]
"""The row and the column of each entry, NaN where an entry stands for no place."""


@dataclass(frozen=True)
class Layout:
    """Where a tensor [B, ...] has the image's positions.

    With two axes they are rows and columns; with one, `rows * columns` positions in reading order from `start` on.
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


class Following(TorchFunctionMode):
    """Follows the places of an image [1, C, H, W] through a forward pass."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self._known: Any = WeakIdKeyDictionary()
        rows, columns = (torch.arange(float(n)) for n in image.shape[2:])  # on the CPU: read often
        self._known[image] = (
            rows[:, None].expand(image.shape).contiguous(),
            columns.expand(image.shape).contiguous(),
        )

    def layout(self, x: Tensor) -> Layout | None:
        """The layout of a tensor that was made while this is active, None if it is no feature map."""
        places = self._known.get(x)
        if places is None or x.ndim not in (3, 4) or len(x) != 1:
            return None
        return _grid(places) if x.ndim == 4 else _tokens(places)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").strip("_")
        known = [
            (self._known[x], tuple(x.shape))
            for x in _tensors((*args, *kwargs.values()))
            if x in self._known
        ]
        moved = None
        if known and name in _MOVES:
            moved = [func(*self._places(args, k), **self._places(kwargs, k)) for k in range(2)]
        elif known and name == "pad":
            moved = [_padded(*self._places(args, k), **self._places(kwargs, k)) for k in range(2)]
        out = func(*args, **kwargs)
        if moved is not None:
            for one, *places in zip(_listed(out), *map(_listed, moved), strict=True):
                self._known[one] = tuple(places)
        elif known and isinstance(out, Tensor):
            found = _after(name, known, out)
            if found is not None:
                self._known[out] = found
        return out

    def _places(self, value: Any, which: int) -> Any:
        """The arguments with rows (columns) in the place of floating-point tensors."""
        if isinstance(value, Tensor):
            if value in self._known:
                return self._known[value][which]
            if value.is_floating_point():
                return torch.full(value.shape, torch.nan)
            return value.cpu()
        if isinstance(value, dict):
            return {k: self._places(v, which) for k, v in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self._places(v, which) for v in value)
        return value


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _padded(places: Tensor, pad: Any, mode: str = "constant", value: float | None = None) -> Tensor:
    """Places beside the image are none."""
    if mode == "constant":
        return F.pad(places, pad, value=torch.nan)
    return F.pad(places, pad, mode)


def _listed(out: Any) -> list[Tensor]:
    return [out] if isinstance(out, Tensor) else list(out)


def _after(name: str, known: list[tuple[Places, tuple[int, ...]]], out: Tensor) -> Places | None:
    """The places of a result that is made anew."""
    places, shape = known[0]
    after = tuple(out.shape)
    if name in _SAME:
        return next((p for p, s in known if s == after), None)
    if name == "linear":
        rows, columns = (p.nanmean(-1, keepdim=True).expand(after).contiguous() for p in places)
        return rows, columns
    if name in _GRIDS and len(shape) == len(after) == 4:
        row, column = (
            _resized(p, axis, after[axis]) for axis, p in zip((2, 3), places, strict=True)
        )
        if row is not None and column is not None:
            return row[:, None].expand(after).contiguous(), column.expand(after).contiguous()
    return None


def _resized(places: Tensor, axis: int, size: int) -> Tensor | None:
    """The rows (columns) of a map [1, C, h, w] as so many evenly spread ones."""
    line = places.nanmean([k for k in range(4) if k != axis])
    line = line[~line.isnan()]
    if not len(line):
        return None
    return F.interpolate(line[None, None], size, mode="linear", align_corners=True)[0, 0]


def _grid(places: Places) -> Layout | None:
    """Rows along one dimension and columns along the next, channels before or behind them."""
    for axes, channels in (((2, 3), 1), ((1, 2), 3)):
        rows, columns = (p.nanmean(channels)[0] for p in places)
        if _varies(rows, 0) and _varies(columns, 1):
            return Layout(axes, *rows.shape)
    return None


def _tokens(places: Places) -> Layout | None:
    """Positions in reading order along one dimension, other tokens before or behind them."""
    for axis in (1, 2):
        rows, columns = (p.nanmean(3 - axis)[0] for p in places)
        at = (~rows.isnan()).nonzero()[:, 0]
        count = len(at)
        if not count or int(at[-1] - at[0]) + 1 != count:
            continue
        start = int(at[0])
        rows, columns = (p[start : start + count] for p in (rows, columns))
        height = int((rows.diff() > 1e-3).sum()) + 1
        if count % height:
            continue
        shape = height, count // height
        if _varies(rows.view(shape), 0) and _varies(columns.view(shape), 1):
            return Layout((axis,), *shape, start)
    return None


def _varies(places: Tensor, axis: int) -> bool:
    """Whether places [h, w] rise along one dimension and stay the same along the other."""
    if bool(places.isnan().any()):
        return False
    along, across = places.diff(dim=axis), places.diff(dim=1 - axis)
    return bool((along > 1e-3).all()) and bool((across.abs() < 1e-3).all())
