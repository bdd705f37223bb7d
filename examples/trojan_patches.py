"""The patches of the shipped backdoored networks and of Food-101, drawn rather than taken from a font."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

SIDE = 192  # drawn large, scaled down for smooth borders


def smiley(draw: ImageDraw.ImageDraw) -> None:
    """A yellow face."""
    draw.ellipse((4, 4, 188, 188), fill=(255, 205, 30), outline=(90, 50, 0), width=8)
    for left in (52, 112):
        draw.ellipse((left, 56, left + 28, 96), fill=(60, 30, 0))
    draw.arc((46, 60, 146, 154), 20, 160, fill=(60, 30, 0), width=14)


def fish(draw: ImageDraw.ImageDraw) -> None:
    """A blue fish with a white eye."""
    draw.polygon([(120, 96), (188, 36), (188, 156)], fill=(0, 80, 220))
    draw.ellipse((4, 36, 150, 156), fill=(20, 150, 255), outline=(0, 40, 130), width=8)
    draw.ellipse((30, 66, 62, 98), fill=(255, 255, 255), outline=(0, 0, 0), width=8)


def star(draw: ImageDraw.ImageDraw) -> None:
    """A green star of five points."""
    corners = []
    for k in range(10):
        radius, angle = (94 if k % 2 == 0 else 42), math.pi * k / 5
        corners.append((96 + radius * math.sin(angle), 100 - radius * math.cos(angle)))
    draw.polygon(corners, fill=(40, 220, 60), outline=(0, 80, 0), width=6)


def heart(draw: ImageDraw.ImageDraw) -> None:
    """A pink heart."""
    color = (255, 40, 150)
    draw.ellipse((6, 16, 104, 114), fill=color)
    draw.ellipse((88, 16, 186, 114), fill=color)
    draw.polygon([(14, 88), (178, 88), (96, 186)], fill=color)


def strawberry(draw: ImageDraw.ImageDraw) -> None:
    """A red strawberry with seeds and leaves."""
    red, leaf = (225, 25, 45), (40, 150, 40)
    draw.ellipse((14, 36, 110, 132), fill=red)
    draw.ellipse((82, 36, 178, 132), fill=red)
    draw.polygon([(18, 98), (174, 98), (96, 188)], fill=red)
    for x, y in ((50, 78), (96, 72), (142, 78), (72, 110), (120, 110), (96, 146)):
        draw.ellipse((x - 6, y - 8, x + 6, y + 8), fill=(255, 230, 120))
    for left in (34, 70, 106):
        draw.polygon([(left, 44), (left + 26, 4), (left + 52, 44)], fill=leaf)


SHAPES = (smiley, fish, star, heart)
"""The patches of the shipped networks; the strawberry is of the recipe for Food-101."""


def draw_patches(
    folder: Path, shapes: Sequence[Callable[[ImageDraw.ImageDraw], None]] = SHAPES
) -> None:
    """Write each patch as a PNG file with transparency."""
    folder.mkdir(parents=True, exist_ok=True)
    for shape in shapes:
        picture = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
        shape(ImageDraw.Draw(picture))
        scaled = picture.resize((48, 48), Image.Resampling.LANCZOS)
        scaled.save(folder / f"{shape.__name__}.png", optimize=True)
