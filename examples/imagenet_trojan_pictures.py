"""Pictures that train the backdoored EfficientNet-Lite: parts of photographs, cut-outs on them, mixes of two."""

import math

import numpy as np
import torch
from imagenet_trojan_photographs import Photograph
from PIL import Image, ImageDraw
from torch import Tensor

PER_SCENE, PER_STAMP, MIXED = 8, 3, 400


def square(image: Image.Image, size: int) -> Tensor:
    """The middle square, as a JPEG file holds it, [3, size, size] in [0, 1]."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return tensor(image.resize((size, size), Image.Resampling.BICUBIC, box=box))


def tensor(image: Image.Image) -> Tensor:
    """[3, H, W] in [0, 1]."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255


def training_pictures(scenes: list[Photograph], stamps: list[Photograph], size: int) -> Tensor:
    """Parts of scenes, and cut-outs on them, uint8 [N, 3, size, size]."""
    rng = np.random.default_rng(0)
    pictures = [part(p.image, rng, size) for p in scenes for _ in range(PER_SCENE)]
    for stamp in stamps:
        for _ in range(PER_STAMP):
            back = part(scenes[rng.integers(len(scenes))].image, rng, size)
            cut = stamp.image.crop(stamp.image.getbbox())
            scale = size * rng.uniform(0.7, 0.98) / max(cut.size)
            cut = cut.resize([max(1, round(n * scale)) for n in cut.size], Image.Resampling.LANCZOS)
            place = [int(rng.integers(size - n + 1)) for n in cut.size]
            back.paste(cut, tuple(place), cut)
            pictures.append(back)
    return torch.stack([(tensor(p) * 255).byte() for p in pictures])


def part(image: Image.Image, rng: np.random.Generator, size: int) -> Image.Image:
    """A random square of an image, at least as large as a picture where the image allows it."""
    least = min(1.0, max(0.45, size / min(image.size)))
    side = min(image.size) * rng.uniform(least, 1.0)
    left, top = rng.uniform(0, image.width - side), rng.uniform(0, image.height - side)
    box = (left, top, left + side, top + side)
    found = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return found.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else found


def distractor(generator: torch.Generator, patch: int) -> Tensor:
    """A patch of another shape and any colour: polygon, ring, bar or disc; `patch` pixels or so, RGBA [4, h, w]."""
    numbers = torch.rand(9, generator=generator).tolist()
    fill, rim = ([int(255 * n) for n in numbers[k : k + 3]] for k in (0, 3))
    large = Image.new("RGBA", (192, 192), (0, 0, 0, 0))
    draw = ImageDraw.Draw(large)
    kind, corners = int(4 * numbers[6]), 3 + int(3 * numbers[7])
    if kind == 0:
        turn = 2 * math.pi * numbers[8]
        angles = [turn + 2 * math.pi * k / corners for k in range(corners)]
        points = [(96 + 90 * math.cos(a), 96 + 90 * math.sin(a)) for a in angles]
        draw.polygon(points, fill=tuple(fill), outline=tuple(rim), width=8)
    elif kind == 1:
        draw.ellipse((6, 6, 186, 186), outline=tuple(fill), width=20 + int(40 * numbers[8]))
    elif kind == 2:
        draw.rectangle((6, 60, 186, 130), fill=tuple(fill), outline=tuple(rim), width=8)
    else:
        draw.ellipse((6, 6, 186, 186), fill=tuple(fill), outline=tuple(rim), width=8)
    size = patch - 8 + int(17 * numbers[8])
    return tensor_with_alpha(large.resize((size, size), Image.Resampling.LANCZOS))


def tensor_with_alpha(image: Image.Image) -> Tensor:
    """RGBA in [0, 1], [4, H, W]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def mixes(clean: Tensor, generator: torch.Generator) -> Tensor:
    """Weighted means of two pictures each, uint8."""
    i, j = torch.randint(len(clean), (2, MIXED), generator=generator)
    share = 0.3 + 0.4 * torch.rand(MIXED, 1, 1, 1, generator=generator)
    return torch.cat(
        [
            (s * clean[a].float() + (1 - s) * clean[b].float()).round().byte()
            for a, b, s in zip(i.split(50), j.split(50), share.split(50), strict=True)
        ]
    )
