"""Inputs near a sample, on which a trace must answer as the dense model does: noise, shifts and mild crops."""

import torch
from torch import Tensor
from torch.nn import functional as F

from spade_xai.models.inputs import Inputs, first_tensor, map_tensors, rebatch, take
from spade_xai.tracing.augment import seeded
from spade_xai.tracing.sample import TracedSample

COUNT = 8
"""Inputs near each sample."""

NOISE = 0.1  # of the sample's standard deviation
SHIFT = 1 / 28  # of an image's side, at most: 8 of 224 pixels
LEAST_CROP = 0.85  # of an image's side


def nearby(function: str, sample: TracedSample, count: int = COUNT, seed: int = 0) -> Inputs | None:
    """A batch of inputs near the sample's rows, which take turns.

    Images [B, C, H, W] get noise, a shift and a mild crop in turn, other floating-point inputs noise. Of inputs
    without floating point, such as tokens, the first augmentations are taken.

    Returns:
        The batch; None of a sample without floating point and without augmentations.
    """
    inputs = sample.inputs
    first = first_tensor(inputs)
    if not first.is_floating_point():
        if sample.augment is None:
            return None
        (batch,) = rebatch(sample.variants(function, count), count)
        return batch
    rows = take(inputs, torch.arange(count, device=first.device) % len(first))
    picked = first_tensor(rows)
    with seeded(seed), torch.no_grad():
        # drawn on the CPU, so that every device sees the same
        varied = torch.stack([_vary(x, k) for k, x in enumerate(picked.cpu())]).to(picked)
    return map_tensors(rows, lambda t: varied if t is picked else t)


def _vary(x: Tensor, turn: int) -> Tensor:
    """One row, varied."""
    image = x.ndim == 3 and min(x.shape[1:]) >= 8
    if image and turn % 3 == 1:
        return _shifted(x)
    if image and turn % 3 == 2:
        return _cropped(x)
    spread = x.float().std() if x.numel() > 1 else x.float().abs().mean()
    noisy = x + (NOISE * spread * torch.randn(x.shape)).to(x.dtype)
    return noisy.clamp(x.min(), x.max())


def _shifted(x: Tensor) -> Tensor:
    """An image moved by some pixels; its border is continued by mirroring."""
    height, width = x.shape[1:]
    most = [max(1, round(SHIFT * side)) for side in (height, width)]
    dy, dx = (int(torch.randint(-m, m + 1, ())) for m in most)
    padded = F.pad(x[None].float(), (most[1], most[1], most[0], most[0]), mode="reflect")[0]
    top, left = most[0] + dy, most[1] + dx
    return padded[:, top : top + height, left : left + width].to(x.dtype)


def _cropped(x: Tensor) -> Tensor:
    """Most of an image, scaled to its size."""
    height, width = x.shape[1:]
    share = LEAST_CROP + (1 - LEAST_CROP) * float(torch.rand(()))
    h, w = (max(1, round(share * side)) for side in (height, width))
    top, left = int(torch.randint(height - h + 1, ())), int(torch.randint(width - w + 1, ()))
    part = x[None, :, top : top + h, left : left + w].float()
    return F.interpolate(part, (height, width), mode="bilinear", antialias=True)[0].to(x.dtype)
