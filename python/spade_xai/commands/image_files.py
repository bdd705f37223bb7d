"""The files of a command's images: their names, sizes and masks."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from spade_xai.models.images import ImageError, read_image
from spade_xai.models.preprocessing import Preprocessing


def names_of(paths: Sequence[Path]) -> list[str]:
    """File names, or whole paths where a file name repeats."""
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else [path.as_posix() for path in paths]


def stems_of(paths: Sequence[Path]) -> list[str]:
    """Names for each image's files, all different, also where upper and lower case are the same.

    File names without their ending; where that repeats, whole paths in one word; where that repeats too, numbered.
    """
    short = [path.stem for path in paths]
    long = ["_".join(p for p in path.with_suffix("").parts if p != path.anchor) for path in paths]
    once = _counts(short)
    result: list[str] = []
    taken = {s.casefold() for s in short if once[s.casefold()] == 1}
    for a, b in zip(short, long, strict=True):
        if once[a.casefold()] == 1:
            result.append(a)
            continue
        name, number = b, 1
        while name.casefold() in taken:
            number += 1
            name = f"{b}-{number}"
        taken.add(name.casefold())
        result.append(name)
    return result


def _counts(names: Sequence[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name.casefold()] = counts.get(name.casefold(), 0) + 1
    return counts


def check_sizes(paths: Sequence[Path]) -> None:
    """Refuse images of several sizes by their headers; those that cannot be read are met later."""
    sizes: dict[tuple[int, ...], Path] = {}
    for path in paths:
        try:
            with Image.open(path) as opened:
                turned = opened.getexif().get(0x0112, 1) >= 5  # EXIF: on its side
                sizes.setdefault(opened.size[:: 1 if turned else -1], path)
        except Exception:  # damaged files raise nearly everything; they are met later
            continue
    if len(sizes) > 1:
        (first, a), (other, b) = list(sizes.items())[:2]
        raise ImageError(
            f"images must have one size, got {first} of {a} and {other} of {b}: give a --size"
        )


def mask_of(path: Path, folder: Path) -> Path:
    """The mask of an image in a folder of masks: NAME_mask.png or another NAME.png.

    Raises:
        ImageError: There is none.
    """
    candidates = [folder / f"{path.stem}_mask.png", folder / f"{path.stem}.png"]
    for candidate in candidates:
        if candidate.is_file() and not (path.exists() and candidate.samefile(path)):
            return candidate
    raise ImageError(f"no mask of {path}: neither {candidates[0]} nor another {candidates[1]}")


def read_mask(path: Path, preprocessing: Preprocessing, image: Tensor) -> Tensor:
    """The mask of an image [3, H, W], bool [H, W]: scaled and cut as the image was.

    Raises:
        ImageError: It cannot be read, is of another size, all black or all white.
    """
    mask = read_image(path, preprocessing.fit).mean(0) > 0.5
    if mask.shape != image.shape[1:]:
        raise ImageError(
            f"mask {path} must have the size of its image {tuple(image.shape[1:])}, got {tuple(mask.shape)}"
        )
    if not 0 < int(mask.sum()) < mask.numel():
        raise ImageError(f"mask {path} must be neither all black nor all white")
    return mask
