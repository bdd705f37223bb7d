"""Decision flips: how much of a text has to go before a classifier changes its mind.

The names follow appendix D.3 of the SPADE paper, which defines DFFOT as the share of texts whose label flips without
the most important token, and DFMIT as the share of tokens to remove until it flips. The works it cites (Serrano and
Smith, 2019; Chrysostomou and Aletras, 2021) use the two names the other way round.
"""

from typing import Any

import torch
from torch import Tensor, nn

from spade_xai.attribution.forward import slices
from spade_xai.models.answers import check_finite_logits, check_real, class_logits, labels
from spade_xai.models.copies import check_model, duplicate


def dffot(
    model: nn.Module, ids: Tensor, scores: Tensor, tokens: Tensor | None = None, **options: Any
) -> Tensor:
    """Whether the label flips when the highest-scored token is removed, [B] in {0, 1}. Higher is better.

    Arguments as for `dfmit`.
    """
    return (_flips("dffot", model, ids, scores, tokens, most=1, **options)[0] > 0).double()


def dfmit(
    model: nn.Module, ids: Tensor, scores: Tensor, tokens: Tensor | None = None, **options: Any
) -> Tensor:
    """Share of the removable tokens to remove, by falling score, until the label flips, [B]. Lower is better.

    A text whose label never flips counts 1.

    Args:
        model: A classifier called as model(ids, attention_mask=mask); the label of one logit is its sign. Not modified.
        ids: Token ids [B, T]. Not modified.
        scores: Importance of each token [B, T]. Not modified.
        tokens: Bool [B, T]: tokens that may be removed, and so neither padding nor special ones; None: all but padding.
        **options: `mask` (attention mask [B, T]; default: all ones), `pad` (id that fills the end of shortened texts;
            default 0), `batch_size` (default 64) shortened texts in one pass.

    Returns:
        float64 [B].
    """
    first, removable = _flips("dfmit", model, ids, scores, tokens, most=None, **options)
    return torch.where(first > 0, first / removable.clamp_min(1), 1.0)


def _flips(
    function: str,
    model: nn.Module,
    ids: Tensor,
    scores: Tensor,
    tokens: Tensor | None,
    *,
    most: int | None,
    mask: Tensor | None = None,
    pad: int = 0,
    batch_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """For each text the least number of removed tokens that flips the label (0: none does), and the removable ones."""
    check_model(function, model)
    for name, tensor in (("ids", ids), ("scores", scores), ("tokens", tokens), ("mask", mask)):
        if tensor is not None or name in ("ids", "scores"):
            check_real(function, name, tensor)
    if not torch.isfinite(scores).all():
        raise ValueError(f"{function}: scores must be finite, got NaN or Inf")
    if ids.ndim != 2 or scores.shape != ids.shape:
        raise ValueError(
            f"{function}: ids and scores must have the same shape [B, T], "
            f"got {tuple(ids.shape)} and {tuple(scores.shape)}"
        )
    present = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    removable = present if tokens is None else tokens.bool() & present
    model = duplicate(model)
    first = torch.zeros(len(ids), dtype=torch.float64)
    counts = removable.sum(1).tolist()
    finite = torch.ones((), dtype=torch.bool, device=ids.device)
    with torch.no_grad():
        for b, available in enumerate(counts):
            count = available if most is None else min(most, available)
            rank = _rank(scores[b], removable[b])
            label = None
            for part in slices(count + 1, batch_size):
                removed = torch.arange(part.start, part.stop, device=ids.device)[:, None]
                shorter, attention = _keep(ids[b], present[b] & (rank >= removed), pad)
                output = model(shorter, attention_mask=attention)
                logits = class_logits(function, output, len(shorter))
                finite &= logits.isfinite().all()
                found = labels(logits)
                label = found[0] if label is None else label
                flipped = (found != label).nonzero().flatten()
                if len(flipped):
                    first[b] = part.start + int(flipped[0])
                    break
    check_finite_logits(function, finite)
    return first, torch.tensor(counts, dtype=torch.float64)


def _rank(scores: Tensor, removable: Tensor) -> Tensor:
    """How many removable tokens go before each [T]; T for those that stay."""
    falling = scores.argsort(descending=True, stable=True)
    falling = falling[(~removable[falling]).byte().argsort(stable=True)]  # the removable ones first
    places = torch.empty_like(falling).scatter_(
        0, falling, torch.arange(len(falling), device=falling.device)
    )
    return places.where(removable, len(places))


def _keep(ids: Tensor, kept: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """Versions of a text [K, T] with the kept tokens moved up, padding at the end; and their attention masks."""
    order = (~kept).byte().argsort(dim=1, stable=True)
    attention = torch.arange(kept.shape[1], device=ids.device) < kept.sum(1, keepdim=True)
    return ids[order].where(attention, pad), attention.to(ids.dtype)
