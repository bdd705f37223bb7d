"""Pictures with labels, in memory or in files, cut to one size; random cuts depend on a seed alone."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from spade_xai.models.images import ImageError, read_image


class DataError(ValueError):
    """A data set's folder is not as published; the message names the file and the line."""


class Pictures(ABC):
    """Labelled pictures.

    Attributes:
        names: Of each picture.
        labels: Class of each, int64 [N].
        has_regions: Whether `region` gives the part of a picture that shows its object.
    """

    names: tuple[str, ...]
    labels: Tensor
    has_regions: bool = False

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def picture(self, index: int, size: int) -> Tensor:
        """One picture [3, size, size] in [0, 1], cut from its middle."""

    @abstractmethod
    def varied(self, index: int, size: int, crop: bool, flip: bool, seed: int) -> Tensor:
        """A random variant: a random resized crop, a horizontal flip with probability 1/2, or both."""

    @abstractmethod
    def subset(self, indices: Sequence[int]) -> "Pictures":
        """Some of the pictures."""

    def region(self, index: int, size: int) -> Tensor | None:
        """The object's pixels in `picture`, bool [size, size]; None where it is not known."""
        return None

    @abstractmethod
    def content(self) -> Iterator[bytes]:
        """Everything that results may depend on beside names and labels: pixels or files, and regions."""

    def digest(self) -> str:
        """Of names and labels in their order, of all pixels and of regions."""
        text = "\n".join(f"{n} {y}" for n, y in zip(self.names, self.labels.tolist(), strict=True))
        digest = hashlib.sha256(text.encode())
        for part in self.content():
            digest.update(hashlib.sha256(part).digest())
        return digest.hexdigest()


class Drawn(Pictures):
    """Pictures held in memory, all of one size."""

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        regions: Tensor | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self.images, self.labels, self.regions = images, labels.long(), regions
        self.names = tuple(names or (f"{k:05d}" for k in range(len(images))))
        self.has_regions = regions is not None

    def picture(self, index: int, size: int) -> Tensor:
        """The picture; size must be its own."""
        if size != self.images.shape[-1]:
            raise DataError(f"size must be {self.images.shape[-1]} of drawn pictures, got {size}")
        return self.images[index].float() / 255

    def varied(self, index: int, size: int, crop: bool, flip: bool, seed: int) -> Tensor:
        """The picture, flipped at random; drawn pictures are not cut."""
        image = self.picture(index, size)
        return image.flip(2) if flip and seed % 2 else image

    def batch(self, index: Tensor, size: int, variation: "Variation | None") -> Tensor:
        """What `picture` and `varied` give, of several pictures at once: [B, 3, size, size]."""
        if size != self.images.shape[-1]:
            raise DataError(f"size must be {self.images.shape[-1]} of drawn pictures, got {size}")
        images = self.images[index].float() / 255
        if variation is not None and variation.flip:
            seeds = [derived_seed(variation.seed, k) for k in index.tolist()]
            turned = torch.tensor([seed % 2 == 1 for seed in seeds])
            images[turned] = images[turned].flip(3)
        return images

    def subset(self, indices: Sequence[int]) -> "Drawn":
        """Some of the pictures."""
        at = torch.as_tensor(indices, dtype=torch.long)
        regions = None if self.regions is None else self.regions[at]
        return Drawn(self.images[at], self.labels[at], regions, [self.names[k] for k in at])

    def content(self) -> Iterator[bytes]:
        """Pixels, then regions."""
        for tensor in (self.images, self.regions):
            if tensor is not None:
                yield str(tuple(tensor.shape)).encode() + tensor.contiguous().numpy().tobytes()

    def region(self, index: int, size: int) -> Tensor | None:
        """Pixels of the object."""
        return None if self.regions is None else self.regions[index]


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels of the file."""

    left: float
    top: float
    width: float
    height: float


class Files(Pictures):
    """Pictures in files.

    Args:
        paths: Of each picture.
        labels: Of each picture.
        regions: Where each picture shows its object: a box, the path of a mask, or None.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: Sequence[int] | Tensor,
        regions: Sequence[Box | Path | None] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self.paths = tuple(paths)
        self.labels = torch.as_tensor(labels, dtype=torch.long)
        self.regions = None if regions is None else tuple(regions)
        self.names = tuple(names or (path.name for path in self.paths))
        self.has_regions = self.regions is not None and any(r is not None for r in self.regions)

    def picture(self, index: int, size: int) -> Tensor:
        """Scaled so that its short side is size, and cut to the middle square."""
        return read_image(self.paths[index], size)

    def varied(self, index: int, size: int, crop: bool, flip: bool, seed: int) -> Tensor:
        """A part of 8 to 100 % of the area, of aspect ratio 3/4 to 4/3, scaled to size; then a flip."""
        generator = torch.Generator().manual_seed(seed)
        if crop:
            image = _random_resized_crop(self.paths[index], size, generator)
        else:
            image = self.picture(index, size)
        turned = flip and bool(torch.rand((), generator=generator) < 0.5)
        return image.flip(2) if turned else image

    def subset(self, indices: Sequence[int]) -> "Files":
        """Some of the pictures."""
        at = [int(k) for k in indices]
        regions = None if self.regions is None else [self.regions[k] for k in at]
        paths, names = [self.paths[k] for k in at], [self.names[k] for k in at]
        return Files(paths, self.labels[at], regions, names)

    def content(self) -> Iterator[bytes]:
        """The bytes of every file, and each picture's box or the bytes of its mask's file."""
        for index, path in enumerate(self.paths):
            where = None if self.regions is None else self.regions[index]
            yield path.read_bytes()
            yield where.read_bytes() if isinstance(where, Path) else repr(where).encode()

    def region(self, index: int, size: int) -> Tensor | None:
        """The box or the mask, scaled and cut as the picture is."""
        where = None if self.regions is None else self.regions[index]
        if where is None:
            return None
        if isinstance(where, Path):
            return read_image(where, size).mean(0) > 0.5
        with Image.open(self.paths[index]) as file:
            width, height = file.size
        scale = size / min(width, height)
        left = (max(size, round(width * scale)) - size) // 2
        top = (max(size, round(height * scale)) - size) // 2
        x0, x1 = where.left * scale - left, (where.left + where.width) * scale - left
        y0, y1 = where.top * scale - top, (where.top + where.height) * scale - top
        inside = torch.arange(size) + 0.5
        rows, columns = (inside > y0) & (inside < y1), (inside > x0) & (inside < x1)
        return rows[:, None] & columns[None, :]


def _random_resized_crop(path: Path, size: int, generator: torch.Generator) -> Tensor:
    """Inception's crop (Szegedy et al., CVPR 2015), as training scripts of ImageNet networks take it."""
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except FileNotFoundError:
        raise ImageError(f"read_image: no file {path}") from None
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise ImageError(f"read_image: cannot read {path} as an image: {error}") from error
    width, height = picture.size
    for _ in range(10):
        u = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        area = width * height * (0.08 + 0.92 * u[0])
        ratio = math.exp(math.log(3 / 4) + math.log(16 / 9) * u[1])
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(u[2] * (width - w + 1)), int(u[3] * (height - h + 1))
            break
    else:
        w = h = min(width, height)
        left, top = (width - w) // 2, (height - h) // 2
    box = (left, top, left + w, top + h)
    cut = picture.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return torch.from_numpy(np.array(cut)).permute(2, 0, 1).float() / 255


@dataclass(frozen=True)
class Variation:
    """Random cuts of training pictures; `seed` stands for the epoch."""

    crop: bool
    flip: bool
    seed: int


class _Items(torch.utils.data.Dataset[Tensor]):
    def __init__(self, pictures: Pictures, size: int, order: Tensor, variation: Variation | None):
        self.pictures, self.size, self.order, self.variation = pictures, size, order, variation

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> Tensor:
        index, v = int(self.order[position]), self.variation
        if v is None or not (v.crop or v.flip):
            return self.pictures.picture(index, self.size)
        seed = derived_seed(v.seed, index)
        return self.pictures.varied(index, self.size, v.crop, v.flip, seed)


def batches(
    pictures: Pictures,
    size: int,
    batch: int,
    *,
    order: Tensor | None = None,
    variation: Variation | None = None,
    workers: int = 0,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Indices [B], images [B, 3, size, size] and labels [B] in turn; they do not depend on the workers.

    Args:
        pictures: Of which.
        size: Pixels per side.
        batch: Pictures per batch.
        order: Indices in the order to take them; None: as they stand.
        variation: Random cuts; None: the pictures themselves.
        workers: Processes that read files.
    """
    order = torch.arange(len(pictures)) if order is None else order
    if isinstance(pictures, Drawn):
        for index in order.split(batch):
            yield index, pictures.batch(index, size, variation), pictures.labels[index]
        return
    items = _Items(pictures, size, order, variation)
    options: dict[str, Any] = {
        "num_workers": workers,
        "generator": torch.Generator(),  # else the loader draws from the global one
    }
    loader = torch.utils.data.DataLoader(items, batch_size=batch, **options)
    start = 0
    for images in loader:
        index = order[start : start + len(images)]
        start += len(images)
        yield index, images, pictures.labels[index]


def derived_seed(*parts: object) -> int:
    """A seed in [0, 2^63) from parts, the same on every machine."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass(frozen=True)
class ConceptPictures:
    """Pictures with and without concepts.

    Attributes:
        pictures: All of them.
        names: Of the concepts.
        labels: int8 [N, concepts]: 1 with, 0 without, -1 left out.
    """

    pictures: Pictures
    names: tuple[str, ...]
    labels: Tensor


@dataclass(frozen=True)
class Data:
    """A data set.

    Attributes:
        kind: "cub", "ham10000", "shapes" or "folder".
        classes: Names.
        train: Pictures to train on.
        validation: To choose the best weights by.
        test: To report on.
    """

    kind: str
    classes: tuple[str, ...]
    train: Pictures
    validation: Pictures
    test: Pictures

    def digest(self) -> str:
        """Of classes and of what is in each part, down to the pixels."""
        parts = [*self.classes, *(p.digest() for p in (self.train, self.validation, self.test))]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
