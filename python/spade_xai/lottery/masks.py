"""Masks of living weights: which weights can go, and exactly how many of the least go in a round."""

import math
from collections.abc import Mapping
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from spade_xai.choices import misnamed
from spade_xai.lottery.data.pictures import derived_seed

SCOPES = ("layer", "global")
Masks = dict[str, Tensor]
"""Living weights: bool in the shape of each parameter, by its name."""


def prunable(model: nn.Module, *, norms: bool = False) -> list[str]:
    """Names of the weights of convolutions and linear layers, and of batch-norm gains for norms=True.

    Biases are never pruned. An auxiliary classifier is not either: it does not answer.
    """
    kinds: tuple[type[nn.Module], ...] = (nn.modules.conv._ConvNd, nn.Linear)
    if norms:
        kinds = (*kinds, nn.modules.batchnorm._BatchNorm)
    return [
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, kinds) and isinstance(module._parameters.get("weight"), nn.Parameter)
        and not name.lower().startswith("aux")
    ]  # fmt: skip


def all_alive(model: nn.Module, names: list[str]) -> Masks:
    """Masks with every weight."""
    return {name: torch.ones(model.get_parameter(name).shape, dtype=torch.bool) for name in names}


def count_removed(alive: int, share: float) -> int:
    """floor(share * alive), of the decimal that share is written as: 0.29 of 100 are 29."""
    return math.floor(Fraction(str(share)) * alive)


def remove_least(masks: Masks, scores: Mapping[str, Tensor], share: float, scope: str) -> Masks:
    """The masks without the share of living weights that scores least; ties go by lowest index.

    Args:
        masks: Living weights. Not modified.
        scores: Finite, in the shape of each weight; those of dead weights do not count.
        share: Of living weights, in [0, 1); floor(share * alive) go.
        scope: "layer": of each tensor; "global": of all of them, by one threshold.
    """
    if scope not in SCOPES:
        raise ValueError(f"remove_least: {misnamed('scope', SCOPES, scope)}")
    if not 0 <= share < 1:
        raise ValueError(f"remove_least: share must be in [0, 1), got {share}")
    for name in masks:
        if not torch.isfinite(scores[name]).all():
            raise ValueError(f"remove_least: scores of {name} must be finite, got NaN or Inf")
    if scope == "layer":
        return {
            name: _without_least(mask.flatten(), scores[name].flatten(), share).view(mask.shape)
            for name, mask in masks.items()
        }
    flat = torch.cat([mask.flatten() for mask in masks.values()])
    score = torch.cat([scores[name].flatten().double() for name in masks])
    left = _without_least(flat, score, share)
    parts = left.split([mask.numel() for mask in masks.values()])
    return {
        name: part.view(mask.shape) for (name, mask), part in zip(masks.items(), parts, strict=True)
    }


def _without_least(mask: Tensor, scores: Tensor, share: float) -> Tensor:
    alive = mask.nonzero()[:, 0]
    order = scores.cpu()[alive].argsort(stable=True)
    left = mask.clone()
    left[alive[order[: count_removed(len(alive), share)]]] = False
    return left


def remove_channels(masks: Masks, weights: Mapping[str, Tensor], share: float, head: str) -> Masks:
    """The masks without the output channels of least L2 norm, floor(share * living) of each layer.

    The last layer's outputs are classes and stay, as do batch-norm gains.
    """
    left = {}
    for name, mask in masks.items():
        left[name] = mask
        if name == f"{head}.weight" or mask.ndim < 2:
            continue
        channels = int(mask.flatten(1).any(1).sum())
        removed = count_removed(channels, share)
        if removed:
            method = prune.LnStructured(amount=removed, n=2, dim=0)
            method._tensor_name = "weight"
            container = prune.PruningContainer(method)  # looks at living channels only
            weight = weights[name] * mask
            left[name] = container.compute_mask(weight, mask.to(weight)).bool()
    return left


def magnitudes(model: nn.Module, masks: Masks) -> dict[str, Tensor]:
    """|w| of each weight."""
    return {name: model.get_parameter(name).detach().abs().cpu() for name in masks}


def random_scores(masks: Masks, *seed: object) -> dict[str, Tensor]:
    """Uniform draws, for the control that removes weights at random."""
    generator = torch.Generator().manual_seed(derived_seed(*seed))
    return {name: torch.rand(mask.shape, generator=generator) for name, mask in masks.items()}


def apply_masks(model: nn.Module, masks: Masks) -> None:
    """Set the dead weights to 0 in place."""
    with torch.no_grad():
        for name, mask in masks.items():
            weight = model.get_parameter(name)
            weight.mul_(mask.to(weight.device))


def mask_gradients(model: nn.Module, masks: Masks) -> None:
    """Set the gradients of dead weights to 0 in place."""
    for name, mask in masks.items():
        gradient = model.get_parameter(name).grad
        if gradient is not None:
            gradient.mul_(mask)


def alive(masks: Masks) -> dict[str, tuple[int, int]]:
    """Living weights and all weights of each tensor."""
    return {name: (int(mask.sum()), mask.numel()) for name, mask in masks.items()}
