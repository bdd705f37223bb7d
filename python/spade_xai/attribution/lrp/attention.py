"""nn.MultiheadAttention spelled out in functions that LRP has rules for."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Compute what F.multi_head_attention_forward does, without attention weights as a second result.

    Args:
        query: [T, B, E] or unbatched [T, E].
        key: [S, B, E] or [S, E].
        value: As key.
        embed_dim_to_check: E.
        num_heads: Heads.
        in_proj_weight: [3 E, E], or None where query, key and value have weights of their own.
        in_proj_bias: [3 E] or None.
        bias_k: Must be None.
        bias_v: Must be None.
        add_zero_attn: Must be False.
        dropout_p: Not used: the model is in eval mode.
        out_proj_weight: [E, E].
        out_proj_bias: [E] or None.
        **options: Options of the function: masks, and `q_proj_weight`, `k_proj_weight`, `v_proj_weight`.
    """
    if bias_k is not None or bias_v is not None or add_zero_attn:
        raise NotImplementedError(
            "lrp: model calls nn.MultiheadAttention with add_bias_kv or add_zero_attn, which has no rule"
        )
    if in_proj_weight is not None:
        weights: tuple[Any, ...] = in_proj_weight.chunk(3)
    else:
        weights = tuple(options[f"{name}_proj_weight"] for name in "qkv")
    biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
    heads = []
    for x, w, b in zip((query, key, value), weights, biases, strict=True):
        projected = F.linear(x, w, b)
        # [T, ..., E] to [..., heads, T, E / heads]
        split = projected.unflatten(-1, (num_heads, -1))
        heads.append(split.movedim(0, -2))
    mask = _mask(options.get("attn_mask"), options.get("key_padding_mask"), heads[0])
    q, k, v = heads
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return F.linear(mixed.movedim(-2, 0).flatten(-2), out_proj_weight, out_proj_bias), None


def _mask(mask: Tensor | None, padding: Tensor | None, query: Tensor) -> Tensor | None:
    """What is added to the products of queries and keys, that broadcasts to [..., heads, T, S], or None."""
    total = None
    if mask is not None:
        total = _added(mask, query)
        if total.ndim == 3:  # [B heads, T, S]
            total = total.unflatten(0, (-1, query.shape[-3]))
    if padding is not None:
        ignored = _added(padding, query)
        ignored = ignored[..., None, None, :] if ignored.ndim == 2 else ignored
        total = ignored if total is None else total + ignored
    return total


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """A mask whose True forbids, or that is added already, as numbers to add."""
    if mask.dtype != torch.bool:
        return mask.to(like)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -torch.inf)
