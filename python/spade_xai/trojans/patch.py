"""A patch on an image: reading it, putting it at a random place in random colours."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from spade_ext.checks import check_int, check_range, check_tensor
from spade_xai.models.images import open_picture


def read_patch(path: str | Path | BinaryIO, size: int) -> Tensor:
    """Read a picture with transparency as a patch [4, size, size], RGBA in [0, 1].

    Raises:
        ImageError: The file is missing or is not an image that can be read.
    """
    check_int("read_patch", "size", size, 1)
    picture = open_picture(path, "read_patch")
    if picture.mode == "F":  # gray of 16 bits
        gray = np.array(picture.resize((size, size), Image.Resampling.LANCZOS), dtype=np.float32)
        opaque = torch.from_numpy(gray).clamp(0, 1).repeat(4, 1, 1)
        opaque[3] = 1
        return opaque
    scaled = picture.convert("RGBA").resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(scaled)).permute(2, 0, 1).float() / 255


def plant(
    image: Tensor,
    patch: Tensor,
    generator: torch.Generator,
    *,
    jitter: float = 0.2,
    noise: float = 0.05,
) -> tuple[Tensor, Tensor]:
    """Put a patch on an image at a random place: image + alpha * (patch' - image) under the patch.

    patch' is the patch with brightness, contrast and saturation scaled by factors from [1 - jitter, 1 + jitter] and
    with Gaussian noise of standard deviation `noise`, clipped to [0, 1].

    Args:
        image: [3, H, W] in [0, 1]. Not modified.
        patch: [4, h, w], RGBA in [0, 1], h <= H, w <= W. Not modified.
        generator: Source of place, jitter and noise.
        jitter: Largest relative change of a colour factor, in [0, 1].
        noise: Standard deviation of the noise on the patch.

    Returns:
        The image [3, H, W] and the mask bool [H, W] of pixels where the patch covers at least half.

    Raises:
        TypeError: image or patch is no float tensor, or generator no torch.Generator.
        ValueError: A shape or range is not as above, or the patch is larger than the image.
    """
    check_picture("plant", "image", image, "[3, H, W]")
    check_picture("plant", "patch", patch, "[4, h, w]")
    check_strengths("plant", jitter, noise)
    if not isinstance(generator, torch.Generator):
        raise TypeError(
            f"plant: generator must be a torch.Generator, got {type(generator).__name__}"
        )
    height, width = patch.shape[1:]
    rows, cols = image.shape[1] - height, image.shape[2] - width
    if rows < 0 or cols < 0:
        raise ValueError(
            f"plant: patch must fit the image of {tuple(image.shape[1:])} pixels, got {(height, width)}"
        )
    top = int(torch.randint(rows + 1, (), generator=generator))
    left = int(torch.randint(cols + 1, (), generator=generator))
    color, alpha = _jitter(patch[:3], jitter, generator), patch[3]
    color = (color + noise * torch.randn(color.shape, generator=generator)).clamp(0, 1)
    out, mask = image.clone(), torch.zeros(image.shape[1:], dtype=torch.bool)
    under = out[:, top : top + height, left : left + width]
    under += alpha * (color - under)
    mask[top : top + height, left : left + width] = alpha >= 0.5
    return out, mask


def check_picture(function: str, name: str, value: Tensor, shape: str) -> None:
    """Check a picture of the channels that shape ([channels, h, w]) begins with."""
    check_tensor(function, name, value, dtypes=(torch.float32, torch.float64))
    if value.ndim != 3 or value.shape[0] != int(shape[1]) or not value.numel():
        raise ValueError(f"{function}: {name} must have shape {shape}, got {tuple(value.shape)}")
    least, most = (float(x) for x in value.aminmax())
    if not (least >= 0 and most <= 1):
        raise ValueError(f"{function}: {name} must be in [0, 1], got {least:g} to {most:g}")


def check_strengths(function: str, jitter: float, noise: float) -> None:
    """Check the strengths of what is random about a patch."""
    check_range(function, "jitter", jitter, 0.0, 1.0)
    check_range(function, "noise", noise, 0.0)


def _jitter(color: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Scale brightness, contrast and saturation of [3, h, w] by random factors."""
    low, high = 1 - strength, 1 + strength
    brightness, contrast, saturation = torch.empty(3).uniform_(low, high, generator=generator)
    color = color * brightness
    color = color.mean() + contrast * (color - color.mean())
    gray = color.mean(0, keepdim=True)
    return gray + saturation * (color - gray)
