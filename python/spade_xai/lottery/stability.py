"""Whether two networks explain their classes by the same concepts.

Each measure compares two weight matrices [classes, concepts] of bottlenecks row by row, and gives one value per class.
"""

from dataclasses import dataclass

import torch
from scipy.stats import rankdata
from torch import Tensor

from spade_xai.lottery.pcbm import top_concepts

TOP = 3
PERSISTENCE = 0.9


@dataclass(frozen=True)
class Stability:
    """One value per class.

    Attributes:
        jaccard_top3: Overlap of the three concepts of largest weight.
        jaccard_tenth: Overlap of the tenth of the concepts of largest weight, at least one.
        overlap: Rank-biased overlap of the whole ranking, p = 0.9.
        spearman: Rank correlation of the weights.
    """

    jaccard_top3: Tensor
    jaccard_tenth: Tensor
    overlap: Tensor
    spearman: Tensor


MEASURES = tuple(Stability.__dataclass_fields__)


def stability(weights: Tensor, dense: Tensor) -> Stability:
    """Compare the weights of two bottlenecks [classes, concepts]."""
    if weights.shape != dense.shape or weights.ndim != 2:
        raise ValueError(
            "stability: weights and dense must be [classes, concepts] of one shape, "
            f"got {tuple(weights.shape)} and {tuple(dense.shape)}"
        )
    concepts = weights.shape[1]
    return Stability(
        jaccard(weights, dense, min(TOP, concepts)),
        jaccard(weights, dense, max(1, round(concepts / 10))),
        rank_biased_overlap(weights, dense),
        _spearman(weights, dense),
    )


def jaccard(weights: Tensor, dense: Tensor, count: int) -> Tensor:
    """|A and B| / |A or B| of the `count` largest entries of each row, float64 [rows]."""
    a, b = (_members(w, count) for w in (weights, dense))
    return (a & b).sum(1).double() / (a | b).sum(1)


def _members(weights: Tensor, count: int) -> Tensor:
    chosen = top_concepts(weights, count)
    return torch.zeros(weights.shape, dtype=torch.bool).scatter_(1, chosen, True)


def rank_biased_overlap(weights: Tensor, dense: Tensor, p: float = PERSISTENCE) -> Tensor:
    """Extrapolated rank-biased overlap of two whole rankings, in [0, 1].

    (1 - p) sum_{d <= n} p^(d-1) A_d + p^n A_n, A_d the share of the first d entries that the rankings have in common;
    of whole rankings A_n = 1.

    Source: Webber, Moffat and Zobel (ACM TOIS 2010), equation 30 of rankings of equal length.
    """
    n = weights.shape[1]
    places = [top_concepts(w, n).argsort(dim=1) for w in (weights, dense)]  # of each concept
    deeper = torch.maximum(*places)  # a concept is shared from this depth on
    depths = torch.arange(1, n + 1, dtype=torch.float64)
    shared = (deeper.sort(dim=1).values[:, None] < depths.view(1, -1, 1)).sum(2).double()
    total = (1 - p) * (p ** (depths - 1) * shared / depths).sum(1) + p**n
    return total


def _spearman(a: Tensor, b: Tensor) -> Tensor:
    x, y = (torch.from_numpy(rankdata(w.double().numpy(), axis=1)) for w in (a, b))
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    scale = x.norm(dim=1) * y.norm(dim=1)
    return torch.where(scale > 0, (x * y).sum(1) / scale.clamp_min(1e-300), 0.0)


def chance_jaccard(concepts: int, count: int) -> float:
    """E J of two random subsets of `count` out of `concepts`: their overlap is hypergeometric."""
    from scipy.stats import hypergeom

    overlap = hypergeom(concepts, count, count)
    return float(sum(overlap.pmf(k) * k / (2 * count - k) for k in range(count + 1)))


def adjusted(values: Tensor, chance: float) -> Tensor:
    """(J - E J) / (1 - E J): 0 by chance, 1 for equal sets. Where chance is 1 nothing can be told: NaN."""
    if chance >= 1:
        return torch.full_like(values, torch.nan)
    return (values - chance) / (1 - chance)


def random_rows(classes: int, concepts: int, draws: int = 1000, seed: int = 0) -> Stability:
    """The floor: measures between random rows, the mean of many draws, the same for every class."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.rand(draws, concepts, generator=generator) for _ in range(2))
    found = stability(a, b)
    return Stability(*(getattr(found, name).mean().expand(classes).clone() for name in MEASURES))
