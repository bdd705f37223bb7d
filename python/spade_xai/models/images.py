"""Images from files, folders and globs as tensors in [0, 1]."""

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from spade_xai.models.fit import Fit

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}

# Formats whose whole numbers beyond 8 bits Pillow scales to 16.
_SIXTEEN_BITS = ("PNG", "PPM")


class ImageError(ValueError):
    """An image is missing, unreadable or of the wrong size; the message names it."""


def find_images(sources: Sequence[str | Path]) -> list[Path]:
    """The image files that sources name, in order and without repetition.

    Args:
        sources: Files, folders (their image files, not those of folders inside them, sorted by name) and glob
            patterns (`**` goes through folders, sorted by name).

    Raises:
        ImageError: A source names no image file.
    """
    found: dict[Path, None] = {}
    for source in sources:
        path = Path(source)
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            what = f"folder {path} holds no image files ({', '.join(sorted(SUFFIXES))})"
        elif path.exists():
            files, what = [path], ""
        elif glob.has_magic(str(source)):
            matches = map(Path, sorted(glob.glob(str(source), recursive=True)))
            files = [p for p in matches if p.suffix.lower() in SUFFIXES]
            what = f"pattern {str(source)!r} matches no image files"
        else:
            files, what = [], f"no file or folder {path}"
        if not files:
            raise ImageError(f"find_images: {what}")
        found.update(dict.fromkeys(files))
    return list(found)


def passed_over(sources: Sequence[str | Path]) -> tuple[int, int]:
    """How many other files and folders lie in the folders among the sources, which `find_images` passes over."""
    files = folders = 0
    for folder in {Path(source) for source in sources if Path(source).is_dir()}:
        for path in folder.iterdir():
            folders += path.is_dir()
            files += path.is_file() and path.suffix.lower() not in SUFFIXES
    return files, folders


def read_image(path: str | Path, fit: Fit | int | None = None) -> Tensor:
    """Read one image as [3, H, W] in [0, 1]; transparency is dropped, gray is repeated.

    Args:
        path: The path of a file that `open_picture` reads.
        fit: How to scale and cut it; a number of pixels: the short side is scaled to it and the middle square cut;
            None: as it is.

    Raises:
        ImageError: The file is missing or is not an image that can be read.
    """
    picture = open_picture(path)
    picture = picture if picture.mode == "F" else picture.convert("RGB")
    if fit is not None:
        picture = (Fit.square(fit) if isinstance(fit, int) else fit)(picture)
    if picture.mode == "F":  # interpolation may overshoot
        gray = torch.from_numpy(np.array(picture, dtype=np.float32)).clamp(0, 1)
        return gray[None].repeat(3, 1, 1)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def open_picture(source: str | Path | BinaryIO, function: str = "read_image") -> Image.Image:
    """Open a picture as it is to be seen: turned as its EXIF data says, the first frame of several.

    Pictures of 16 bits and of floating point numbers come as one channel in [0, 1] (mode F), others as 8 bits.

    Raises:
        ImageError: The file is missing, is not an image that can be read, or its numbers have no known range.
    """
    name = source if isinstance(source, str | Path) else getattr(source, "name", "the data")
    try:
        with Image.open(source) as opened:
            picture = ImageOps.exif_transpose(opened)
            picture.load()
            kind = opened.format
    except FileNotFoundError as error:
        raise ImageError(f"{function}: no file {name}") from error
    except Exception as error:  # damaged files raise nearly everything
        raise ImageError(f"{function}: cannot read {name} as an image: {error}") from error
    if picture.mode.startswith("I;16") or (picture.mode == "I" and kind in _SIXTEEN_BITS):
        return Image.fromarray((np.asarray(picture).astype(np.float64) / 65535).astype(np.float32))
    if picture.mode == "I":
        raise ImageError(
            f"{function}: cannot read {name}: whole numbers of 32 bits have no known range: save it with 16 bits"
        )
    if picture.mode == "F":
        values = np.asarray(picture)
        low, high = float(values.min()), float(values.max())
        if not 0 <= low <= high <= 1:
            raise ImageError(
                f"{function}: cannot read {name}: floating point images must lie in [0, 1], got [{low:g}, {high:g}]"
            )
    return picture


def read_images(paths: Sequence[str | Path], fit: Fit | int | None = None) -> Tensor:
    """Read images as one batch [B, 3, H, W] in [0, 1].

    Raises:
        ImageError: As `read_image`, or images differ in size where no fit is given.
    """
    images = [read_image(path, fit) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if image.shape != images[0].shape:
            first, other = tuple(images[0].shape[1:]), tuple(image.shape[1:])
            raise ImageError(
                f"read_images: images must have one size, got {first} of {paths[0]} and {other} of {path}: give a size"
            )
    return torch.stack(images)
