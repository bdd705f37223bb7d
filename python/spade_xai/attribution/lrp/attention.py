"""nn.MultiheadAttention spelled out in functions that LRP has rules for."""

from typing import Any

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
        in_proj_weight: [3 E, E].
        in_proj_bias: [3 E] or None.
        bias_k: Must be None.
        bias_v: Must be None.
        add_zero_attn: Must be False.
        dropout_p: Not used: the model is in eval mode.
        out_proj_weight: [E, E].
        out_proj_bias: [E] or None.
        **options: Options of the function; a mask, or weights that differ in size, have no rule.
    """
    plain = in_proj_weight is not None and bias_k is None and bias_v is None and not add_zero_attn
    masks = [options.get(name) for name in ("key_padding_mask", "attn_mask")]
    if not plain or any(m is not None for m in masks) or options.get("is_causal"):
        raise NotImplementedError(
            "lrp: model calls nn.MultiheadAttention with masks or separate projections, which has no rule"
        )
    assert in_proj_weight is not None
    biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
    heads = []
    for x, w, b in zip((query, key, value), in_proj_weight.chunk(3), biases, strict=True):
        projected = F.linear(x, w, b)
        # [T, ..., E] to [..., heads, T, E / heads]
        split = projected.unflatten(-1, (num_heads, -1))
        heads.append(split.movedim(0, -2))
    mixed = F.scaled_dot_product_attention(*heads)
    return F.linear(mixed.movedim(-2, 0).flatten(-2), out_proj_weight, out_proj_bias), None
