"""Images from files, folders and globs as tensors in [0, 1]."""

import glob
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}


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


def read_image(path: str | Path, size: int | None = None, resize: int | None = None) -> Tensor:
    """Read one image as [3, H, W] in [0, 1]; transparency is dropped, gray is repeated.

    Args:
        path: Of a file that Pillow reads.
        size: Scale the short side to it and cut the middle square; None: as it is.
        resize: Scale the short side to this instead, at least size; an image that is size x size stays as it is.

    Raises:
        ImageError: The file is missing or is not an image that can be read.
    """
    try:
        with Image.open(path) as picture:
            image = picture.convert("RGB")
    except FileNotFoundError as error:
        raise ImageError(f"read_image: no file {path}") from error
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"read_image: cannot read {path} as an image: {error}") from error
    if size is not None and image.size != (size, size):
        scale = max(size, resize or size) / min(image.size)
        wide = max(size, round(image.width * scale)), max(size, round(image.height * scale))
        image = image.resize(wide, Image.Resampling.BICUBIC)
        left, top = (image.width - size) // 2, (image.height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def read_images(
    paths: Sequence[str | Path], size: int | None = None, resize: int | None = None
) -> Tensor:
    """Read images as one batch [B, 3, H, W] in [0, 1]; size and resize as in `read_image`.

    Raises:
        ImageError: As `read_image`, or images differ in size where none is given.
    """
    images = [read_image(path, size, resize) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if image.shape != images[0].shape:
            first, other = tuple(images[0].shape[1:]), tuple(image.shape[1:])
            raise ImageError(
                f"read_images: images must have one size, got {first} of {paths[0]} and {other} of {path}: give a size"
            )
    return torch.stack(images)
