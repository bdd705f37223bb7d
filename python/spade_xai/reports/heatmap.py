"""Maps as colours: scaled by a percentile, one colour map for magnitudes and one for signs, dark at 0 in both.

Both colour maps are perceptually uniform: a step of the same size looks the same everywhere.
"""

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spade_xai.attribution.methods import RECORDS

PERCENTILE = 99.0
"""Percentile of a map's magnitudes that gets the brightest colour: a few extreme pixels do not darken the others."""

MAGNITUDES, SIGNS = "inferno", "berlin"
"""matplotlib's colour maps of magnitudes (0 to 1), and of signed values (-1 to 1: blue against, red for)."""

LEAST_LIMIT = 0.25
"""The least limit of differences of scaled maps."""

GRAY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the photograph below a map."""

OPACITY = 0.75
"""Of a map over its photograph, at first."""


def is_signed(method: str, values: Tensor) -> bool:
    """Whether a method's maps have signs: as its record says; of an unknown method, whether values are negative."""
    record = RECORDS.get(method)
    return bool((values < 0).any()) if record is None else record.signed


def limit_of(values: Tensor) -> float:
    """The magnitude that gets the brightest colour: the percentile, or the greatest where that is 0."""
    magnitudes = values.detach().float().abs().flatten().cpu()
    magnitudes = magnitudes[magnitudes.isfinite()]
    if not len(magnitudes):
        return 1.0
    limit = float(np.percentile(magnitudes.numpy(), PERCENTILE))
    return limit or float(magnitudes.max()) or 1.0


def scaled(values: Tensor, limit: float | None = None) -> Tensor:
    """The map over its limit, cut to [-1, 1], float32 on the CPU; what is not finite counts as 0."""
    plain = values.detach().float().cpu().nan_to_num(0.0, 0.0, 0.0)
    return (plain / (limit_of(values) if limit is None else limit)).clamp(-1, 1)


def difference(after: Tensor, before: Tensor) -> tuple[Tensor, float]:
    """How two scaled maps differ, scaled too, and the limit of that scale.

    The limit is at least a quarter of the maps' own, so that maps that are nearly alike look so.
    """
    change = after - before
    limit = max(LEAST_LIMIT, min(1.0, limit_of(change) if bool(change.any()) else 0.0))
    return scaled(change, limit), limit


def painted(values: Tensor, signed: bool) -> NDArray[np.uint8]:
    """Colours [H, W, 3] of a scaled map [H, W]."""
    return _table(signed)[levels(values, signed)]


def levels(values: Tensor, signed: bool) -> NDArray[np.uint8]:
    """The place of each value in the colour map, [H, W] of 0 to 255."""
    share = (values + 1) / 2 if signed else values
    return (share.clamp(0, 1) * 255).round().byte().numpy()


def overlaid(
    picture: Tensor, values: Tensor, signed: bool, opacity: float = OPACITY
) -> NDArray[np.uint8]:
    """A scaled map over the gray photograph [3, H, W], as [H, W, 3]."""
    gray = (picture.detach().cpu().clamp(0, 1) * torch.tensor(GRAY)[:, None, None]).sum(0)
    below = gray[:, :, None].numpy() * 255
    mixed = opacity * painted(values, signed) + (1 - opacity) * below
    return np.asarray(mixed.round().clip(0, 255), dtype=np.uint8)


def stops(signed: bool, count: int = 11) -> list[str]:
    """Colours of a colour map from its lower to its upper end, as #rrggbb."""
    table = _table(signed)
    places = np.linspace(0, 255, count).round().astype(int)
    return ["#{:02x}{:02x}{:02x}".format(*table[k]) for k in places]


def palette(signed: bool) -> bytes:
    """All 256 colours, as a PNG file's palette has them."""
    return _table(signed).tobytes()


@cache
def _table(signed: bool) -> NDArray[np.uint8]:
    from matplotlib import colormaps

    colours = colormaps[SIGNS if signed else MAGNITUDES](np.arange(256))[:, :3]
    return np.asarray((255 * colours).round(), dtype=np.uint8)
