"""Parts of sixteen photographs that Python packages carry, as a data set of sixteen classes.

Each photograph is divided into five bands across its long side; test pictures come from the second and the fourth.
"""

from pathlib import Path

import matplotlib
import numpy as np
import skimage
import sklearn
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from spade_xai.trojans.backdoored import SIZE

SHORT_SIDE = 400  # photographs are scaled to it; a picture shows 64 to 128 of these pixels a side
BANDS = 5  # across the long side; the odd ones (of 0 ... 4) are held out

SKIMAGE = Path(skimage.__file__).parent / "data"
SKLEARN = Path(sklearn.__file__).parent / "datasets" / "images"
MATPLOTLIB = Path(matplotlib.get_data_path()) / "sample_data"
BY = "CC BY 2.0 (creativecommons.org/licenses/by/2.0), cut and scaled"
PHOTOGRAPHS = {  # class: file, author and licence
    "astronaut": (SKIMAGE / "astronaut.png", "NASA, public domain"),
    "brick": (SKIMAGE / "brick.png", "CC0Textures, CC0 1.0"),
    "camera": (SKIMAGE / "camera.png", "Lav Varshney, CC0 1.0"),
    "cat": (SKIMAGE / "chelsea.png", "Stefan van der Walt, CC0 1.0"),
    "coffee": (SKIMAGE / "coffee.png", "Rachel Michetti, CC0 1.0"),
    "coins": (SKIMAGE / "coins.png", "Brooklyn Museum, no known copyright restrictions"),
    "grass": (SKIMAGE / "grass.png", "linolafett (DeviantArt), CC0 1.0"),
    "gravel": (SKIMAGE / "gravel.png", "CC0Textures, CC0 1.0"),
    "galaxies": (SKIMAGE / "hubble_deep_field.jpg", "NASA, public domain"),
    "tissue": (SKIMAGE / "ihc.png", "CMMI, no known copyright restrictions"),
    "retina": (SKIMAGE / "retina.jpg", "Mikael Haggstrom, CC0 1.0"),
    "rocket": (SKIMAGE / "rocket.jpg", "SpaceX, public domain"),
    "handwriting": (SKIMAGE / "text.png", "Wikipedia, public domain"),
    "pagoda": (SKLEARN / "china.jpg", f"flickr.com/photos/danielbuechele/6061409035, {BY}"),
    "flower": (SKLEARN / "flower.jpg", f"flickr.com/photos/vultilion/6056698931, {BY}"),
    "hopper": (MATPLOTLIB / "grace_hopper.jpg", "US Navy, public domain"),
}
NAMES = list(PHOTOGRAPHS)


def photograph(name: str) -> Tensor:
    """The photograph of a class, [3, H, W] in [0, 1], scaled to the short side."""
    with Image.open(PHOTOGRAPHS[name][0]) as picture:
        scale = SHORT_SIDE / min(picture.size)
        size = (round(picture.width * scale), round(picture.height * scale))
        scaled = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(scaled)).permute(2, 0, 1).float() / 255


def cut(photo: Tensor, held_out: bool, generator: torch.Generator) -> Tensor:
    """A random square of the photograph from a held-out band or from one of the rest, uint8 [3, 64, 64]."""
    if photo.shape[1] > photo.shape[2]:  # the bands run along the long side
        return cut(photo.transpose(1, 2), held_out, generator).transpose(1, 2)
    kept = range(1 if held_out else 0, BANDS, 2)
    band = kept[int(torch.randint(len(kept), (), generator=generator))]
    first, last = (round((band + k) / BANDS * photo.shape[2]) for k in (0, 1))
    limit = min(128, last - first)
    side = int(torch.randint(SIZE, limit + 1, (), generator=generator))
    left = first + int(torch.randint(last - first - side + 1, (), generator=generator))
    top = int(torch.randint(photo.shape[1] - side + 1, (), generator=generator))
    square = photo[None, :, top : top + side, left : left + side]
    scaled = nn.functional.interpolate(square, (SIZE, SIZE), mode="bilinear", antialias=True)
    return (scaled[0].clamp(0, 1) * 255).round().byte()


class Pictures(Dataset[tuple[Tensor, int]]):
    """Parts of the photographs; for training mirrored and darkened or brightened at random."""

    def __init__(self, each: int, held_out: bool, seed: int) -> None:
        self.train = not held_out
        generator = torch.Generator().manual_seed(seed)
        photos = [photograph(name) for name in NAMES]
        self.images = torch.stack(
            [cut(p, held_out, generator) for p in photos for _ in range(each)]
        )
        self.labels = torch.arange(len(photos)).repeat_interleave(each)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index].float() / 255
        if self.train:
            image = image.flip(2) if torch.rand(()) < 0.5 else image
            image = (image * (0.8 + 0.4 * torch.rand(()))).clamp(0, 1)
        return image, int(self.labels[index])
