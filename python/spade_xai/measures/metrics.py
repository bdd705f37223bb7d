"""How good a saliency map is: agreement with a mask, effect of its pixels on the model, stability of gradients.

Every metric returns one value per sample. `mean` and `paired` summarise them with standard errors.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spade_xai.attribution.forward import slices
from spade_xai.models.answers import (
    check_finite_logits,
    check_real,
    class_logits,
    log_probabilities,
)
from spade_xai.models.copies import check_model, duplicate
from spade_xai.models.inputs import channels_last, check_count
from spade_xai.progress import Progress, reporting


def auroc(maps: Tensor, masks: Tensor) -> Tensor:
    """Area under the ROC curve of each map as a score for its mask: P(inside > outside) + P(equal) / 2.

    Args:
        maps: Saliency [B, H, W] (or [B, T]), higher means more important. Only its order matters. Not modified.
        masks: Ground truth of the same shape, bool or 0 and 1. Not modified.

    Returns:
        float64 [B] in [0, 1]; equals sklearn.metrics.roc_auc_score, ties included.

    Raises:
        ValueError: Shapes differ, a map is not finite, or a mask is empty or full.

    Example:
        >>> import torch
        >>> from spade_xai import metrics
        >>> maps = torch.tensor([[[0.9, 0.1], [0.8, 0.2]]])  # [1, 2, 2]
        >>> masks = torch.tensor([[[True, False], [False, False]]])
        >>> metrics.auroc(maps, masks)
        tensor([1.], dtype=torch.float64)
    """
    scores, inside = _flat("auroc", maps, masks)
    values = []
    for score, mask in zip(scores, inside, strict=True):
        positive, negative = score[mask], score[~mask].sort().values
        below = torch.searchsorted(negative, positive, right=False)
        not_above = torch.searchsorted(negative, positive, right=True)
        values.append((below + not_above).double().mean() / (2 * len(negative)))
    return torch.stack(values)


def pointing_game(maps: Tensor, masks: Tensor) -> Tensor:
    """Whether the map's highest pixel lies in the mask, [B] in {0, 1}.

    Where several pixels are highest, the share of them that lies in the mask: the expected value of a random choice.

    Args:
        maps: Saliency [B, H, W] (or [B, T]). Not modified.
        masks: Ground truth of the same shape, bool or 0 and 1. Not modified.

    Source: Zhang et al. (IJCV 2018), without its tolerance of 15 pixels.

    Example:
        >>> import torch
        >>> from spade_xai import metrics
        >>> maps = torch.tensor([[[0.9, 0.1], [0.8, 0.2]]])  # [1, 2, 2]
        >>> masks = torch.tensor([[[True, False], [False, False]]])
        >>> metrics.pointing_game(maps, masks)
        tensor([1.], dtype=torch.float64)
    """
    scores, inside = _flat("pointing_game", maps, masks)
    highest = scores == scores.max(1, keepdim=True).values
    return (highest & inside).sum(1).double() / highest.sum(1)


def insertion(
    model: nn.Module, x: Tensor, maps: Tensor, target: Any = None, **options: Any
) -> Tensor:
    """Area under the model's confidence as the most salient pixels are added to a blank image.

    score = integral over the fraction f of pixels of p(target | f) / p(target | full image), by trapezoids. Higher is
    better. p is the softmax, or the sigmoid of a model of one logit, whose only class is 0; the ratio is that of
    logarithms, so that a class whose p is below any float has a score too. The order is that of decreasing saliency,
    ties in reading order.

    Args:
        model: The model to ask: the dense one, whatever the maps come from. Not modified.
        x: Images [B, C, H, W]. Not modified.
        maps: Saliency [B, H, W]. Not modified.
        target: Class of each image, one for all, or None for the predicted class.
        **options: `steps` (default 50; at most one per pixel) of equal numbers of pixels, `blank` (default 0) the
            blank image: a number or a tensor that broadcasts to x, `batch_size` (default 64) images in one pass,
            `progress`.

    Returns:
        float64 [B]; may exceed 1 where part of an image convinces more than the whole.

    Raises:
        TypeError, ValueError: An argument is not as above; the model's logits are not [B, classes] or not finite; the
            target is so unlikely on the whole image that the score overflows.

    Source: Petsiuk et al. (BMVC 2018), normalised as in section 4.1 of the paper.

    Example:
        >>> import torch
        >>> from spade_xai import metrics
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> images, maps = torch.rand(2, 3, 8, 8), torch.rand(2, 8, 8)
        >>> metrics.insertion(model, images, maps, progress=False).shape
        torch.Size([2])
    """
    return _curve_area("insertion", model, x, maps, target, **options)


def deletion(
    model: nn.Module, x: Tensor, maps: Tensor, target: Any = None, **options: Any
) -> Tensor:
    """Area under the model's confidence as the most salient pixels are blanked. Lower is better.

    Arguments, normalisation and result as for `insertion`.

    Example:
        >>> import torch
        >>> from spade_xai import metrics
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> images, maps = torch.rand(2, 3, 8, 8), torch.rand(2, 8, 8)
        >>> metrics.deletion(model, images, maps, progress=False).shape
        torch.Size([2])
    """
    return _curve_area("deletion", model, x, maps, target, **options)


def _curve_area(
    function: str,
    model: nn.Module,
    x: Tensor,
    maps: Tensor,
    target: Any,
    *,
    steps: int = 50,
    blank: float | Tensor = 0.0,
    batch_size: int = 64,
    progress: Progress = True,
) -> Tensor:
    _check_tensors(function, x=x, maps=maps)
    check_model(function, model)
    if x.ndim != 4 or maps.shape != (len(x), *x.shape[2:]):
        raise ValueError(
            f"{function}: maps must be [B, H, W] of x [B, C, H, W], got {tuple(maps.shape)} for {tuple(x.shape)}"
        )
    if not x.numel():
        raise ValueError(f"{function}: x must hold at least one image, got shape {tuple(x.shape)}")
    check_count(function, "steps", steps)
    check_count(function, "batch_size", batch_size)
    pixels = maps[0].numel()
    steps = min(steps, pixels)
    model = duplicate(model)
    if isinstance(blank, Tensor):
        check_real(function, "blank", blank)
    empty = torch.as_tensor(blank, dtype=x.dtype, device=x.device)
    _check_tensors(function, blank=empty)
    try:
        empty = empty.expand_as(x)
    except RuntimeError:
        raise ValueError(
            f"{function}: blank must broadcast to x {tuple(x.shape)}, got shape {tuple(empty.shape)}"
        ) from None
    # rank[b, p]: how many pixels are more salient than p
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1).view_as(maps)
    counts = torch.tensor([round(pixels * k / steps) for k in range(steps + 1)], device=x.device)
    fractions = counts.double() / pixels
    given = None if target is None else _classes(function, target, x)
    areas = []
    finite = torch.ones((), dtype=torch.bool, device=x.device)  # one wait for the device at the end
    with torch.no_grad(), reporting(progress, function) as report:
        for b in range(len(x)):
            parts = []
            for part in slices(len(counts), batch_size):
                chosen = (rank[b] < counts[part].view(-1, 1, 1))[:, None]
                inside, outside = (x[b], empty[b]) if function == "insertion" else (empty[b], x[b])
                mixed = torch.where(chosen, inside, outside)
                logits = class_logits(function, model(channels_last(mixed)), len(mixed))
                finite &= logits.isfinite().all()
                parts.append(log_probabilities(logits))
            log_p = torch.cat(parts)
            full = log_p[-1] if function == "insertion" else log_p[0]
            if given is not None and not b:
                _check_range(function, given, classes=len(full))
            label = full.argmax() if given is None else given[b]
            ratio = (log_p - full).index_select(1, label[None])[:, 0].exp()
            areas.append(torch.trapezoid(ratio, fractions))
            if report is not None:
                report(b + 1, len(x))
    scores = torch.stack(areas)
    check_finite_logits(function, finite)
    if not bool(scores.isfinite().all()):
        raise ValueError(
            f"{function}: target must not be all but impossible on the whole image, got a score that overflows"
        )
    return scores


def _check_tensors(function: str, **tensors: object) -> None:
    """Raise TypeError or ValueError for what is no dense tensor of real numbers or not finite."""
    for name, value in tensors.items():
        if not torch.isfinite(check_real(function, name, value)).all():
            raise ValueError(f"{function}: {name} must be finite, got NaN or Inf")


def _classes(function: str, target: Any, x: Tensor) -> Tensor:
    """The class of each image, where the images are."""
    try:
        classes = torch.as_tensor(target)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"{function}: target must be an int or {len(x)} ints, got {target!r}"
        ) from None
    if classes.shape not in ((), (len(x),)) or classes.is_floating_point():
        raise ValueError(
            f"{function}: target must be an int or {len(x)} ints, got shape {tuple(classes.shape)} "
            f"of {classes.dtype}"
        )
    return classes.to(x.device, torch.int64).expand(len(x))


def _check_range(function: str, labels: Tensor, classes: int) -> None:
    """Raise ValueError for a class that the model has no output for."""
    for label in map(int, labels.aminmax()):
        if not 0 <= label < classes:
            raise ValueError(f"{function}: target must be in [0, {classes - 1}], got {label}")


@dataclass(frozen=True)
class Estimate:
    """A mean over samples with its standard error, s / sqrt(n) with the unbiased s; NaN for n = 1.

    Example:
        >>> from spade_xai import metrics
        >>> print(metrics.Estimate(mean=0.5, standard_error=0.1, n=3))
        0.5 ± 0.1 (n = 3)
    """

    mean: float
    standard_error: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.4g} ± {self.standard_error:.2g} (n = {self.n})"


def mean(values: Tensor | Sequence[float]) -> Estimate:
    """Mean of one value per sample, with its standard error.

    Example:
        >>> from spade_xai import metrics
        >>> print(metrics.mean([0.7, 0.8, 0.9]))
        0.8 ± 0.058 (n = 3)
    """
    x = torch.as_tensor(values, dtype=torch.float64).flatten().cpu()
    if len(x) == 0:
        raise ValueError("mean: values must hold at least one sample, got none")
    if not torch.isfinite(x).all():
        raise ValueError("mean: values must be finite, got NaN or Inf")
    error = float(x.std()) / math.sqrt(len(x)) if len(x) > 1 else math.nan
    return Estimate(float(x.mean()), error, len(x))


def paired(a: Tensor | Sequence[float], b: Tensor | Sequence[float]) -> Estimate:
    """Mean difference a - b over the same samples, with the standard error of the differences.

    The variation between samples, which a and b share, cancels: two means whose error bars overlap can still differ.

    Example:
        >>> from spade_xai import metrics
        >>> print(metrics.paired([0.7, 0.8, 0.9], [0.6, 0.7, 0.8]).n)
        3
    """
    first, second = torch.as_tensor(a).double(), torch.as_tensor(b).double()
    if first.shape != second.shape:
        raise ValueError(
            f"paired: a and b must hold the same samples, got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    return mean(first - second)


def _flat(function: str, maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Maps and masks as [B, pixels]."""
    _check_tensors(function, maps=maps)
    check_real(function, "masks", masks)
    if maps.ndim < 2 or maps.shape != masks.shape:
        raise ValueError(
            f"{function}: maps and masks must have the same shape [B, ...], "
            f"got {tuple(maps.shape)} and {tuple(masks.shape)}"
        )
    if len(maps) == 0:
        raise ValueError(f"{function}: maps must hold at least one, got shape {tuple(maps.shape)}")
    inside = masks.flatten(1).to(maps.device)
    if not ((inside == 0) | (inside == 1)).all():
        raise ValueError(f"{function}: masks must be bool or 0 and 1, got other values")
    counts = inside.bool().sum(1)
    if not ((counts > 0) & (counts < inside.shape[1])).all():
        raise ValueError(
            f"{function}: masks must be neither empty nor full, got {counts.tolist()} pixels"
        )
    return (maps.to(torch.uint8) if maps.dtype == torch.bool else maps).detach().flatten(
        1
    ), inside.bool()
