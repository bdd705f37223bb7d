"""Random transforms of an optimised image: a pattern that only holds for one exact picture does not survive them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from spade_ext.checks import check_int, check_range

GREY = 0.5  # of the padding
LUCID_SIZE = 224  # pixels per side for which the published amounts were chosen
SCALES = ROTATIONS = 21  # amounts that are drawn from, evenly spaced


@dataclass(frozen=True)
class RandomTransforms:
    """Padding, shift, scaling, rotation and a second shift, the same for all images of a call.

    Attributes:
        pad: Pixels of grey on each side.
        jitter: Greatest shift in pixels, before scaling; the image loses as many pixels on each side.
        scale: Greatest relative change of size, below 1.
        rotation: Greatest angle in degrees.
        last_jitter: Greatest shift in pixels, after rotation.
        noise: Standard deviation of Gaussian noise on each value.

    Source: the default transforms of Lucid (Olah et al., Distill 2017).
    """

    pad: int = 16
    jitter: int = 8
    scale: float = 0.1
    rotation: float = 10.0
    last_jitter: int = 4
    noise: float = 0.0

    def __post_init__(self) -> None:
        for name in ("pad", "jitter", "last_jitter"):
            check_int("RandomTransforms", name, getattr(self, name), 0)
        check_range("RandomTransforms", "scale", self.scale, 0.0, 0.9)
        check_range("RandomTransforms", "rotation", self.rotation, 0.0, 180.0)
        check_range("RandomTransforms", "noise", self.noise, 0.0)

    @classmethod
    def for_size(cls, height: int, width: int) -> "RandomTransforms":
        """Lucid's amounts for images of 224 pixels, and in proportion for others."""
        factor = min(height, width) / LUCID_SIZE
        pad, jitter, last = (round(factor * n) for n in (16, 8, 4))
        return cls(pad=pad, jitter=jitter, last_jitter=last)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Transform images [B, C, H, W]; the result has the same shape, and gradients flow through it.

        Raises:
            ValueError: The shifts leave nothing of the image.
        """
        height, width = images.shape[-2:]
        x = F.pad(images, (self.pad,) * 4, value=GREY) if self.pad else images
        x = _shift(x, self.jitter, generator)
        if self.scale:
            factor = 1 + self.scale * _draw(SCALES, generator)
            size = [max(1, round(factor * n)) for n in x.shape[-2:]]
            x = F.interpolate(x, size, mode="bilinear", align_corners=False)
        if self.rotation:
            x = _rotate(x, math.radians(self.rotation * _draw(ROTATIONS, generator)))
        x = _middle(_shift(x, self.last_jitter, generator), height, width)
        if self.noise:
            drawn = torch.randn(x.shape, generator=generator)
            x = x + self.noise * drawn.to(x.device, x.dtype)
        return x


def _draw(amounts: int, generator: torch.Generator) -> float:
    """One of so many evenly spaced numbers in [-1, 1]."""
    return 2 * int(torch.randint(amounts, (), generator=generator)) / (amounts - 1) - 1


def _shift(x: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Cut 2 * most rows and columns off, at random shares of the two sides."""
    if not most:
        return x
    height, width = (n - 2 * most for n in x.shape[-2:])
    if height < 1 or width < 1:
        raise ValueError(
            f"RandomTransforms: jitter must be below half of the image's {tuple(x.shape[-2:])} pixels, got {most}"
        )
    top, left = torch.randint(2 * most + 1, (2,), generator=generator).tolist()
    return x[..., top : top + height, left : left + width]


def _rotate(x: Tensor, angle: float) -> Tensor:
    """Rotate about the middle; what comes in at the sides is mirrored."""
    height, width = x.shape[-2:]
    cosine, sine = math.cos(angle), math.sin(angle)
    # grid coordinates run from -1 to 1 along both sides, whatever their lengths
    matrix = [[cosine, -sine * height / width, 0.0], [sine * width / height, cosine, 0.0]]
    theta = torch.tensor([matrix], dtype=x.dtype).expand(len(x), 2, 3).to(x.device)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def _middle(x: Tensor, height: int, width: int) -> Tensor:
    """The middle of that size; images that have become smaller are scaled to it."""
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    if top < 0 or left < 0:
        return F.interpolate(x, (height, width), mode="bilinear", align_corners=False)
    return x[..., top : top + height, left : left + width]
