"""Decision flips: how much of a text has to go before a classifier changes its mind.

The names follow appendix D.3 of the SPADE paper, which defines DFFOT as the share of texts whose label flips without
the most important token, and DFMIT as the share of tokens to remove until it flips. The works it cites (Serrano and
Smith, 2019; Chrysostomou and Aletras, 2021) use the two names the other way round.
"""

from typing import Any

import torch
from torch import Tensor, nn

from spade_xai.forward import slices
from spade_xai.prepare import duplicate, unwrap


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
        model: A classifier called as model(ids, attention_mask=mask). Not modified.
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
    if ids.ndim != 2 or scores.shape != ids.shape:
        raise ValueError(
            f"{function}: ids and scores must have the same shape [B, T], "
            f"got {tuple(ids.shape)} and {tuple(scores.shape)}"
        )
    present = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    removable = present if tokens is None else tokens.bool() & present
    model = duplicate(model)
    first = torch.zeros(len(ids), dtype=torch.float64)
    with torch.no_grad():
        for b in range(len(ids)):
            positions = removable[b].nonzero().flatten()
            falling = positions[scores[b, positions].argsort(descending=True, stable=True)]
            count = len(falling) if most is None else min(most, len(falling))
            versions = [_without(ids[b], present[b], falling[:k], pad) for k in range(count + 1)]
            label = None
            for part in slices(len(versions), batch_size):
                batch = torch.stack([v[0] for v in versions[part]])
                attention = torch.stack([v[1] for v in versions[part]])
                labels = unwrap(model(batch, attention_mask=attention)).argmax(1)
                label = int(labels[0]) if label is None else label
                flipped = (labels != label).nonzero().flatten()
                if len(flipped):
                    first[b] = part.start + int(flipped[0])
                    break
    return first, removable.sum(1).double().cpu()


def _without(ids: Tensor, present: Tensor, removed: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """A text without some positions: the rest moved up, padding at the end; and its attention mask."""
    keep = present.clone()
    keep[removed] = False
    rest = ids[keep]
    shorter = torch.full_like(ids, pad)
    shorter[: len(rest)] = rest
    attention = torch.zeros_like(ids)
    attention[: len(rest)] = 1
    return shorter, attention
