"""Make a small data set of real photographs for `spade-xai lottery`: parts of nine pictures, and a concept folder.

A class is a photograph; training parts come from its left three fifths, test parts from the rest, so that they share no
pixel. Concepts are changes of other parts of the same photographs: grey, red, blue, blurred, striped, bright. The
pictures come with scikit-image and scikit-learn; no file is downloaded.

    python examples/lottery_photographs.py photographs
    spade-xai lottery find folder photographs/classes -m pretrained:efficientnet_lite0 -o run ...
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter
from skimage import data
from sklearn.datasets import load_sample_image

SIZE = 112
COUNTS = {"train": 16, "validation": 4, "test": 8}
CONCEPTS = ("blue", "blurred", "bright", "grey", "red", "striped")
EACH = 24


def photographs() -> dict[str, Image.Image]:
    """The nine pictures, in colour."""
    arrays = {
        "astronaut": data.astronaut(), "brick": data.brick(), "cat": data.cat(),
        "coffee": data.coffee(), "grass": data.grass(), "gravel": data.gravel(),
        "rocket": data.rocket(), "flower": load_sample_image("flower.jpg"),
        "pagoda": load_sample_image("china.jpg"),
    }  # fmt: skip
    return {name: Image.fromarray(array).convert("RGB") for name, array in arrays.items()}


def part(rng: np.random.Generator, picture: Image.Image, left: float, right: float) -> Image.Image:
    """A random square between two shares of the width, scaled to SIZE."""
    low, high = int(left * picture.width), int(right * picture.width)
    longest = min(high - low, picture.height)
    side = int(rng.uniform(0.6, 1.0) * min(longest, 240))
    x, y = rng.integers(low, high - side + 1), rng.integers(0, picture.height - side + 1)
    box = (x, y, x + side, y + side)
    return picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box)


def changed(rng: np.random.Generator, picture: Image.Image, concept: str) -> Image.Image:
    """The picture with the concept."""
    if concept == "grey":
        return picture.convert("L").convert("RGB")
    if concept == "blurred":
        return picture.filter(ImageFilter.GaussianBlur(rng.uniform(2, 4)))
    pixels = np.asarray(picture, dtype=np.float64)
    if concept == "bright":
        pixels = 255 - (255 - pixels) * rng.uniform(0.3, 0.5)
    elif concept == "striped":
        stripes = (np.arange(SIZE) // int(rng.integers(4, 9))) % 2
        pixels = pixels * (1 - 0.6 * stripes[:, None, None])
    else:
        paint = {"red": (255, 40, 40), "blue": (40, 60, 255)}[concept]
        pixels = 0.55 * pixels + 0.45 * np.array(paint)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def main() -> None:
    """Write the folders `classes` and `concepts`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    rng = np.random.default_rng(0)
    pictures = photographs()
    for name, picture in pictures.items():
        for kind, count in COUNTS.items():
            where = folder / "classes" / kind / name
            where.mkdir(parents=True, exist_ok=True)
            span = (0.6, 1.0) if kind == "test" else (0.0, 0.6)
            for k in range(count):
                part(rng, picture, *span).save(where / f"{k:02d}.png")
    names = list(pictures)
    for concept in CONCEPTS:
        for kind in ("positives", "negatives"):
            where = folder / "concepts" / concept / kind
            where.mkdir(parents=True, exist_ok=True)
            for k in range(EACH):
                image = part(rng, pictures[names[k % len(names)]], 0.0, 0.6)
                image = changed(rng, image, concept) if kind == "positives" else image
                image.save(where / f"{k:02d}.png")


if __name__ == "__main__":
    main()
