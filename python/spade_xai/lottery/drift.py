"""How far a ticket's maps have moved from the dense network's, picture by picture."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from spade_xai.measures import metrics

THRESHOLD = 0.75  # of the maximum: the mask of the paper's Figure 8
TOP = 0.15


@dataclass(frozen=True)
class Drift:
    """One value per picture.

    Attributes:
        spearman: Rank correlation of the pixels.
        cosine: Of the maps as vectors.
        iou_threshold: Overlap of the pixels above 0.75 of each map's maximum.
        iou_top: Overlap of the 15 % highest pixels.
        distance: Between centres of mass, as a share of the diagonal; NaN where a map is zero.
        zero: Whether one of the maps is zero everywhere; the first four are 0 then.
    """

    spearman: Tensor
    cosine: Tensor
    iou_threshold: Tensor
    iou_top: Tensor
    distance: Tensor
    zero: Tensor


def drift(maps: Tensor, dense: Tensor) -> Drift:
    """Compare maps [B, H, W] >= 0 with the dense network's maps of the same pictures."""
    if maps.shape != dense.shape or maps.ndim != 3:
        raise ValueError(
            f"drift: maps and dense must be [B, H, W] of one shape, got {tuple(maps.shape)} and {tuple(dense.shape)}"
        )
    a, b = maps.double().flatten(1), dense.double().flatten(1)
    zero = (a.max(1).values <= 0) | (b.max(1).values <= 0)
    cosine = torch.cosine_similarity(a, b, dim=1)
    spearman = _correlation(_ranks(a), _ranks(b))
    high_a, high_b = (x > THRESHOLD * x.max(1, keepdim=True).values for x in (a, b))
    count = max(1, round(TOP * a.shape[1]))
    distance = (_centres(maps) - _centres(dense)).norm(dim=1)
    diagonal = float(np.hypot(*maps.shape[1:]))
    return Drift(
        torch.where(zero, 0.0, spearman),
        torch.where(zero, 0.0, cosine),
        torch.where(zero, 0.0, _iou(high_a, high_b)),
        torch.where(zero, 0.0, _iou(_highest(a, count), _highest(b, count))),
        torch.where(zero, torch.nan, distance / diagonal),
        zero,
    )


def _ranks(x: Tensor) -> Tensor:
    return torch.from_numpy(rankdata(x.numpy(), axis=1))


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's, by row; 0 where a row is constant."""
    x, y = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    scale = x.norm(dim=1) * y.norm(dim=1)
    return torch.where(scale > 0, (x * y).sum(1) / scale.clamp_min(1e-300), 0.0)


def _highest(x: Tensor, count: int) -> Tensor:
    order = x.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(x, dtype=torch.bool).scatter_(1, order, True)


def _iou(a: Tensor, b: Tensor) -> Tensor:
    return (a & b).sum(1).double() / (a | b).sum(1).clamp_min(1)


def _centres(maps: Tensor) -> Tensor:
    x = maps.double()
    total = x.sum((1, 2)).clamp_min(1e-300)
    rows = torch.arange(x.shape[1], dtype=torch.float64)
    columns = torch.arange(x.shape[2], dtype=torch.float64)
    down = (x.sum(2) * rows).sum(1) / total
    right = (x.sum(1) * columns).sum(1) / total
    return torch.stack([down, right], 1)


def relevance(maps: Tensor, regions: Tensor) -> dict[str, Tensor]:
    """Share of a map's energy inside the object, pointing game and AUROC, one value per picture.

    Args:
        maps: [B, H, W] >= 0. A map that is zero everywhere has energy 0 inside.
        regions: Pixels of the objects, bool [B, H, W], neither empty nor full.
    """
    inside = (maps.double() * regions).sum((1, 2))
    total = maps.double().sum((1, 2))
    return {
        "energy": torch.where(total > 0, inside / total.clamp_min(1e-300), 0.0),
        "pointing_game": metrics.pointing_game(maps, regions),
        "auroc": metrics.auroc(maps, regions),
    }
