"""Data sets as folders: a folder of pictures for each class, whose number is its place in the sorted names."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from spade_xai.models.fit import Fit
from spade_xai.models.images import SUFFIXES, ImageError, read_image


@dataclass(frozen=True)
class ClassFolder:
    """Pictures and their classes.

    Attributes:
        files: The paths of the pictures, by class and name.
        labels: The class of each; of pictures with several labels a tuple with 0 or 1 for each label.
        classes: The names of the classes, or of the labels.
    """

    files: list[Path]
    labels: Sequence[int] | Sequence[tuple[int, ...]]
    classes: list[str]


def class_folder(folder: Path, takes: Callable[[Path], bool] | None = None) -> ClassFolder:
    """The pictures in the folders of a folder, as torchvision's ImageFolder numbers their classes.

    Args:
        folder: Holds one folder per class.
        takes: Which pictures to take; None: all.

    Raises:
        ImageError: The folder is missing, or holds no pictures in folders.
    """
    if not folder.is_dir():
        raise ImageError(f"class_folder: no folder {folder}")
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        inside = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in SUFFIXES)
        chosen = [path for path in inside if takes is None or takes(path)]
        files += chosen
        labels += [label] * len(chosen)
    if not files:
        raise ImageError(f"class_folder: {folder} must hold folders with pictures, one per class")
    return ClassFolder(files, labels, names)


class TrainingPictures:
    """Pictures of a data set as training takes them: (image [3, H, W] in [0, 1], class or labels) of an index.

    Args:
        folder: The pictures and their classes.
        fit: How they are scaled and cut; None: as they are.
    """

    def __init__(self, folder: ClassFolder, fit: Fit | None) -> None:
        self.folder, self.fit = folder, fit

    def __len__(self) -> int:
        return len(self.folder.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int | tuple[int, ...]]:
        return read_image(self.folder.files[index], self.fit), self.folder.labels[index]

    def varied(self, index: int, generator: torch.Generator) -> Tensor:
        """A picture as training varies it: a random part of 8 to 100 % of the area, 3:4 to 4:3, flipped or not.

        The part is scaled to the size of the network's inputs, as torchvision's RandomResizedCrop does it.
        """
        whole = read_image(self.folder.files[index])
        height, width = whole.shape[1:] if self.fit is None else self.fit.crop
        top, left, tall, wide = random_part(whole.shape[1], whole.shape[2], generator)
        part = whole[:, top : top + tall, left : left + wide]
        scaled = torch.nn.functional.interpolate(
            part[None], (height, width), mode="bilinear", antialias=True
        )[0].clamp(0, 1)
        flipped = bool(torch.rand((), generator=generator) < 0.5)
        return scaled.flip(2) if flipped else scaled


def random_part(height: int, width: int, generator: torch.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random part of a picture; the middle of it where ten tries fail."""
    for _ in range(10):
        share, log = torch.rand(2, generator=generator).tolist()
        area = height * width * (0.08 + 0.92 * share)
        ratio = (4 / 3) ** (2 * log - 1)
        tall, wide = round((area / ratio) ** 0.5), round((area * ratio) ** 0.5)
        if 0 < tall <= height and 0 < wide <= width:
            top = int(torch.randint(height - tall + 1, (), generator=generator))
            left = int(torch.randint(width - wide + 1, (), generator=generator))
            return top, left, tall, wide
    tall, wide = min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))
    return (height - tall) // 2, (width - wide) // 2, tall, wide
