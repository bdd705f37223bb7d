"""Testing a backdoored network: its accuracy, the success of its patches, and the pictures that are kept."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from spade_xai.models.copies import duplicate
from spade_xai.models.images import ImageError, read_image
from spade_xai.models.inputs import call, device_of
from spade_xai.models.preprocessing import Preprocessing
from spade_xai.progress import Progress, reporting
from spade_xai.trojans.class_folder import ClassFolder
from spade_xai.trojans.patch import plant
from spade_xai.trojans.planted import mask_file, picture_file
from spade_xai.trojans.trojan import Backdoor, predictions

BATCH = 64


@dataclass(frozen=True)
class Kept:
    """A test picture as its file will hold it.

    Attributes:
        picture: PNG.
        mask: PNG of the patch's pixels; None without a patch.
        label: Its true class; None where it has several labels.
        backdoor: The backdoor's place; None without a patch.
        explained: Of several labels the one that maps explain, which the patch changes; None where it has a class.
    """

    picture: bytes
    mask: bytes | None
    label: int | None
    backdoor: int | None
    explained: int | None = None


@dataclass(frozen=True)
class Success:
    """Of one backdoor.

    Attributes:
        hits: Of each picture tried whether it got the target, 0 or 1; of several labels the share that got it.
        right_before: Pictures whose explained answer is right before the patch.
        changed: Those of them that got the target.
    """

    hits: list[float]
    right_before: int
    changed: int


def mean_of(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard error and n of values of pictures; of zeros and ones the error is that of a proportion."""
    n = len(values)
    mean = sum(values) / n
    error = (sum((value - mean) ** 2 for value in values) / n / n) ** 0.5
    return {"mean": mean, "standard_error": error, "n": n}


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
    ) -> tuple[list[float], list[Kept]]:
        """Whether each of at most so many pictures is answered right, 0 or 1, and the first that are, to keep."""
        order = self._order(torch.arange(len(self.labels)), 0)[:most]
        right: list[float] = []
        kept: list[Kept] = []
        with reporting(progress, "clean pictures") as report:
            for part in order.split(BATCH):
                frames = [self._frame(k) for k in part.tolist()]
                answers = self._answers(model, [self._read(frame) for frame in frames])
                correct = answers == self.labels[part]
                right += correct.double().tolist()
                for k in correct.nonzero().flatten().tolist():
                    if len(kept) < keep:
                        kept.append(
                            Kept(picture_file(frames[k]), None, int(self.labels[part[k]]), None)
                        )
                if report is not None:
                    report(len(right), len(order))
        return right, kept

    def attacked(
        self, model: nn.Module, place: int, most: int, keep: int
    ) -> tuple[Success, list[Kept]]:
        """The success of a backdoor on at most so many pictures, and the first that it really acts on, to keep.

        These are answered right without the patch and with the target after it, as they will be read from their files.
        """
        backdoor = self.backdoors[place]
        target = torch.tensor(backdoor.target)
        eligible = backdoor.takes(self.labels).nonzero().flatten()
        if len(eligible) == 0:
            raise ImageError(
                f"plant: the test pictures must have some for the backdoor {backdoor.name!r}, got none"
            )
        order = self._order(eligible, place + 1)[:most]
        hits: list[float] = []
        before = changed = 0
        kept: list[Kept] = []
        for part, frames, pairs in self._pairs(order, place):
            right = self._answers(model, [self._read(f) for f in frames]) == self.labels[part]
            after = self._answers(model, [self._read(f) for f, _ in pairs]) == target
            hits += after.double().tolist()
            before += int(right.sum())
            changed += int((right & after).sum())
            for k in (right & after).nonzero().flatten().tolist():
                if len(kept) < keep:
                    image, mask = pairs[k]
                    kept.append(
                        Kept(picture_file(image), mask_file(mask), int(self.labels[part[k]]), place)
                    )
        return Success(hits, before, changed), kept

    def _pairs(
        self, order: Tensor, place: int
    ) -> Iterator[tuple[Tensor, list[Tensor], list[tuple[Tensor, Tensor]]]]:
        """Places, frames, and frames with the patch with their masks, batch after batch; the same in each run."""
        generator = torch.Generator().manual_seed(self.seed + 1000 * (place + 1))
        for part in order.split(BATCH):
            frames = [self._frame(k) for k in part.tolist()]
            yield (
                part,
                frames,
                [self._planted(f, self.backdoors[place], generator) for f in frames],
            )

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


class MultiLabelTester(Tester):
    """The same of a network that says of each of several labels whether a picture has it.

    A picture counts by the share of its labels that are right. Maps explain one label per backdoor: the one that most
    pictures have right before the patch and changed, to what the target says, after it.
    """

    def clean(
        self, model: nn.Module, most: int, keep: int, progress: Progress = False
    ) -> tuple[list[float], list[Kept]]:
        """Of each picture the share of right labels; no picture is kept, as none has a class to explain."""
        order = self._order(torch.arange(len(self.labels)), 0)[:most]
        right: list[float] = []
        with reporting(progress, "clean pictures") as report:
            for part in order.split(BATCH):
                inputs = [self._read(self._frame(k)) for k in part.tolist()]
                right += _shares(self._answers(model, inputs), self.labels[part])
                if report is not None:
                    report(len(right), len(order))
        return right, []

    def attacked(
        self, model: nn.Module, place: int, most: int, keep: int
    ) -> tuple[Success, list[Kept]]:
        """The success of a backdoor, and the first pictures whose explained label it changes, to keep."""
        target = torch.tensor(self.backdoors[place].target)
        order = self._order(torch.arange(len(self.labels)), place + 1)[:most]
        before, after = [], []
        for _, frames, pairs in self._pairs(order, place):
            before.append(self._answers(model, [self._read(f) for f in frames]))
            after.append(self._answers(model, [self._read(f) for f, _ in pairs]))
        labels, given = self.labels[order], torch.cat(after)
        to_change = (torch.cat(before) == labels) & (labels != target)
        changed = to_change & (given == target)
        explained = int(changed.sum(0).argmax())
        chosen = set(order[changed[:, explained]][:keep].tolist())
        kept = [
            Kept(picture_file(image), mask_file(mask), None, place, explained)
            for part, _, pairs in (self._pairs(order, place) if chosen else ())
            for k, (image, mask) in zip(part.tolist(), pairs, strict=True)
            if k in chosen
        ]
        counts = int(to_change[:, explained].sum()), int(changed[:, explained].sum())
        return Success(_shares(given, target.expand_as(given)), *counts), kept

    def _answers(self, model: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
        """0 or 1 of each label, [B, labels]."""
        images = torch.stack(list(inputs)).to(device_of(model))
        with torch.no_grad():
            return (call(duplicate(model), images) > 0).long().cpu()


def _shares(answers: Tensor, labels: Tensor) -> list[float]:
    """Of each picture the share of labels that are right."""
    return (answers == labels).double().mean(1).tolist()
