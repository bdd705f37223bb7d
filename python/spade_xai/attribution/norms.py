"""Normalisations spelled out in sums, products and functions of one input, which DeepLIFT has multipliers for.

y = w c s + b with c = x - mean(x) (x itself for RMS norm) and s = (mean(c^2) + eps)^-1/2: the contributions of c and
of s follow from the product rule, those of s from the rescale rule, so that they sum to y - y0.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spade_xai.attribution.calls import Call, is_signal


def spelled_out(call: Call) -> Callable[[], Tensor] | None:
    """The call in parts, to be run where they are seen, or None if it is no normalisation of the input."""
    function = _NORMS.get(call.name)
    if function is None or not is_signal(call.args[0]):
        return None
    return lambda: function(*call.args, **call.kwargs)


def _scaled(x: Tensor, axes: tuple[int, ...], eps: float, centre: bool = True) -> Tensor:
    c = x - x.mean(axes, keepdim=True) if centre else x
    return c * ((c * c).mean(axes, keepdim=True) + eps).rsqrt()


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _per_channel(parameter: Tensor | None, ndim: int) -> Tensor | None:
    return None if parameter is None else parameter.view(-1, *[1] * (ndim - 2))


def _layer_norm(
    x: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    return _affine(_scaled(x, tuple(range(-len(normalized_shape), 0)), eps), weight, bias)


def _rms_norm(
    x: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    axes = tuple(range(-len(normalized_shape), 0))
    return _affine(_scaled(x, axes, eps, centre=False), weight, None)


def _group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    y = _scaled(x.reshape(len(x), num_groups, -1), (-1,), eps).reshape(x.shape)
    return _affine(y, _per_channel(weight, x.ndim), _per_channel(bias, x.ndim))


def _instance_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    weight, bias = _per_channel(weight, x.ndim), _per_channel(bias, x.ndim)
    if use_input_stats or running_mean is None or running_var is None:
        return _affine(_scaled(x, tuple(range(2, x.ndim)), eps), weight, bias)
    shape = (-1, *[1] * (x.ndim - 2))
    mean, var = running_mean.view(shape), running_var.view(shape)
    return _affine((x - mean) * (var + eps).rsqrt(), weight, bias)


_NORMS: dict[str, Callable[..., Tensor]] = {
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
}
