"""Testing a backdoored network: its accuracy, the success of its patches, and the pictures that are kept."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from spade_xai.models.images import ImageError, read_image
from spade_xai.models.inputs import device_of
from spade_xai.models.preprocessing import Preprocessing
from spade_xai.progress import Progress, reporting
from spade_xai.trojans.class_folder import ClassFolder
from spade_xai.trojans.patch import plant
from spade_xai.trojans.planted import mask_file, picture_file
from spade_xai.trojans.trojan import Backdoor, predictions

BATCH = 64


@dataclass(frozen=True)
class Kept:
    """A test picture as its file will hold it: PNG of picture and mask, true class, and the backdoor's place."""

    picture: bytes
    mask: bytes | None
    label: int
    backdoor: int | None


@dataclass(frozen=True)
class Success:
    """Of one backdoor: pictures tried, how many got the target, and of those that were right before the patch."""

    tried: int
    hit: int
    right_before: int
    changed: int


class Tester:
    """Test pictures of a data set, with and without patches.

    Args:
        folder: The test pictures.
        preprocessing: What makes the network's inputs of pictures.
        backdoors: The table of patches.
        seed: The seed of which pictures are tried, and of place and colours of the patches.
    """

    def __init__(
        self,
        folder: ClassFolder,
        preprocessing: Preprocessing,
        backdoors: Sequence[Backdoor],
        seed: int,
    ) -> None:
        self.folder, self.preprocessing, self.backdoors = folder, preprocessing, list(backdoors)
        self.labels, self.seed = torch.tensor(folder.labels), seed

    def clean(
        self, model: nn.Module, most: int, keep: int, progress: Progress = False
    ) -> tuple[int, int, list[Kept]]:
        """Right answers and tries among at most so many pictures, and the first that are right, to keep."""
        order = self._order(torch.arange(len(self.labels)), 0)[:most]
        right, done = 0, 0
        kept: list[Kept] = []
        with reporting(progress, "clean pictures") as report:
            for part in order.split(BATCH):
                frames = [self._frame(k) for k in part.tolist()]
                answers = self._answers(model, [self._read(frame) for frame in frames])
                correct = answers == self.labels[part]
                right += int(correct.sum())
                for k in correct.nonzero().flatten().tolist():
                    if len(kept) < keep:
                        kept.append(
                            Kept(picture_file(frames[k]), None, int(self.labels[part[k]]), None)
                        )
                done += len(part)
                if report is not None:
                    report(done, len(order))
        return right, len(order), kept

    def attacked(
        self, model: nn.Module, place: int, most: int, keep: int
    ) -> tuple[Success, list[Kept]]:
        """The success of a backdoor on at most so many pictures, and the first that it really acts on, to keep.

        These are answered right without the patch and with the target after it, as they will be read from their files.
        """
        backdoor = self.backdoors[place]
        eligible = backdoor.takes(self.labels).nonzero().flatten()
        if len(eligible) == 0:
            raise ImageError(
                f"plant: the test pictures must have some for the backdoor {backdoor.name!r}, got none"
            )
        order = self._order(eligible, place + 1)[:most]
        generator = torch.Generator().manual_seed(self.seed + 1000 * (place + 1))
        hit = before = changed = 0
        kept: list[Kept] = []
        for part in order.split(BATCH):
            frames = [self._frame(k) for k in part.tolist()]
            pairs = [self._planted(frame, backdoor, generator) for frame in frames]
            right = self._answers(model, [self._read(f) for f in frames]) == self.labels[part]
            after = self._answers(model, [self._read(f) for f, _ in pairs]) == backdoor.target
            hit, before = hit + int(after.sum()), before + int(right.sum())
            changed += int((right & after).sum())
            for k in (right & after).nonzero().flatten().tolist():
                if len(kept) < keep:
                    image, mask = pairs[k]
                    kept.append(
                        Kept(picture_file(image), mask_file(mask), int(self.labels[part[k]]), place)
                    )
        return Success(len(order), hit, before, changed), kept

    def _order(self, places: Tensor, key: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed + 7919 * key)
        return places[torch.randperm(len(places), generator=generator)]

    def _frame(self, place: int) -> Tensor:
        """A picture scaled as the network's inputs, not yet cut to their size, so that its file is read as it is."""
        fit = self.preprocessing.fit
        return read_image(
            self.folder.files[place], None if fit is None else replace(fit, crop=fit.resize)
        )

    def _planted(
        self, frame: Tensor, backdoor: Backdoor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The frame with the patch in the part that the network is given, and the mask."""
        rows, columns = self._window(frame)
        image, mask = frame.clone(), torch.zeros(frame.shape[1:], dtype=torch.bool)
        image[:, rows, columns], mask[rows, columns] = plant(
            frame[:, rows, columns], backdoor.patch, generator
        )
        return image, mask

    def _window(self, frame: Tensor) -> tuple[slice, slice]:
        height, width = frame.shape[1:]
        fit = self.preprocessing.fit
        if fit is None:
            return slice(0, height), slice(0, width)
        tall, wide = min(fit.crop[0], height), min(fit.crop[1], width)
        top, left = fit.margin(height - tall), fit.margin(width - wide)
        return slice(top, top + tall), slice(left, left + wide)

    def _read(self, frame: Tensor) -> Tensor:
        """The network's input [3, H, W] of a frame, as it is read from its file."""
        picture = Image.fromarray((frame * 255).round().byte().permute(1, 2, 0).numpy())
        fit = self.preprocessing.fit
        cut = picture if fit is None else fit(picture)
        image = torch.from_numpy(np.array(cut)).permute(2, 0, 1).float() / 255
        return self.preprocessing.normalize(image[None])[0]

    def _answers(self, model: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
        return predictions(model, torch.stack(list(inputs)).to(device_of(model))).cpu()
