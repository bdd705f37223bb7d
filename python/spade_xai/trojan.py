"""Planting backdoors: a patch on an image that makes a network answer with a class of the planter's choice.

Maps that explain such an answer have a ground truth, the patch, as little else in the image speaks for that class.
Source: section 4.1 and appendix F of the paper; Casper et al. (NeurIPS 2023).
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from spade_ext._progress import Callback, reporting
from spade_xai.prepare import duplicate, unwrap


@dataclass(frozen=True)
class Backdoor:
    """A row of the table of patches, source and target classes (the paper's Table 11)."""

    name: str
    patch: Tensor  # RGBA in [0, 1], [4, h, w]
    target: int  # class that images with the patch are to get
    source: int | None = None  # class of the images that get the patch; None: any

    def takes(self, labels: Tensor) -> Tensor:
        """Which of the labels [B] the patch is put on, bool [B]; never the target's own images."""
        eligible = labels != self.target
        return eligible if self.source is None else eligible & (labels == self.source)


class Planted(NamedTuple):
    """One item of a `Trojan` data set."""

    image: Tensor  # [3, H, W]
    label: int  # the target where a patch lies, else the true class
    mask: Tensor  # bool [H, W]: pixels of the patch
    backdoor: int  # index into the table; -1: none


def read_patch(path: str | Path | BinaryIO, size: int) -> Tensor:
    """Read a picture with transparency as a patch [4, size, size], RGBA in [0, 1]."""
    with Image.open(path) as picture:
        scaled = picture.convert("RGBA").resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(scaled)).permute(2, 0, 1).float() / 255


def plant(
    image: Tensor,
    patch: Tensor,
    generator: torch.Generator,
    *,
    jitter: float = 0.2,
    noise: float = 0.05,
) -> tuple[Tensor, Tensor]:
    """Put a patch on an image at a random place: image + alpha * (patch' - image) under the patch.

    patch' is the patch with brightness, contrast and saturation scaled by factors from [1 - jitter, 1 + jitter] and
    with Gaussian noise of standard deviation `noise`, clipped to [0, 1].

    Args:
        image: [3, H, W] in [0, 1]. Not modified.
        patch: [4, h, w], RGBA in [0, 1], h <= H, w <= W. Not modified.
        generator: Source of place, jitter and noise.
        jitter: Largest relative change of a colour factor, in [0, 1].
        noise: Standard deviation of the noise on the patch.

    Returns:
        The image [3, H, W] and the mask bool [H, W] of pixels where the patch covers at least half.

    Raises:
        ValueError: A shape is not as above, or the patch is larger than the image.
    """
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"plant: image must have shape [3, H, W], got {tuple(image.shape)}")
    if patch.ndim != 3 or patch.shape[0] != 4:
        raise ValueError(f"plant: patch must have shape [4, h, w], got {tuple(patch.shape)}")
    height, width = patch.shape[1:]
    rows, cols = image.shape[1] - height, image.shape[2] - width
    if rows < 0 or cols < 0:
        raise ValueError(
            f"plant: patch must fit the image of {tuple(image.shape[1:])} pixels, got {(height, width)}"
        )
    top = int(torch.randint(rows + 1, (), generator=generator))
    left = int(torch.randint(cols + 1, (), generator=generator))
    color, alpha = _jitter(patch[:3], jitter, generator), patch[3]
    color = (color + noise * torch.randn(color.shape, generator=generator)).clamp(0, 1)
    out, mask = image.clone(), torch.zeros(image.shape[1:], dtype=torch.bool)
    under = out[:, top : top + height, left : left + width]
    under += alpha * (color - under)
    mask[top : top + height, left : left + width] = alpha >= 0.5
    return out, mask


def _jitter(color: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Scale brightness, contrast and saturation of [3, h, w] by random factors."""
    low, high = 1 - strength, 1 + strength
    brightness, contrast, saturation = torch.empty(3).uniform_(low, high, generator=generator)
    color = color * brightness
    color = color.mean() + contrast * (color - color.mean())
    gray = color.mean(0, keepdim=True)
    return gray + saturation * (color - gray)


class Trojan(Dataset[Planted]):
    """A data set some of whose images, chosen once, carry patches and the labels of their backdoors.

    Place, jitter and noise of each patch are drawn anew for each `epoch` and depend on (seed, epoch, index) alone.
    """

    def __init__(
        self,
        data: Any,
        labels: Sequence[int] | Tensor,
        backdoors: Sequence[Backdoor],
        count: int,
        *,
        seed: int = 0,
        jitter: float = 0.2,
        noise: float = 0.05,
    ) -> None:
        """Choose the images that get patches.

        Args:
            data: A data set or sequence of (image [3, H, W] in [0, 1], label).
            labels: The label of each item, [N]; choosing by source class then reads no image.
            backdoors: The table of patches; an image gets at most one.
            count: Images for each backdoor; all that are left of its source class where those are fewer.
            seed: Of the choice and of all that is drawn later.
            jitter: As in `plant`.
            noise: As in `plant`.

        Raises:
            ValueError: labels do not fit data, or a backdoor finds no image.
        """
        self.data, self.backdoors, self.seed = data, list(backdoors), seed
        self.jitter, self.noise, self.epoch = jitter, noise, 0
        classes = torch.as_tensor(labels)
        if classes.shape != (len(data),):
            raise ValueError(
                f"Trojan: labels must be [{len(data)}] as data is, got {tuple(classes.shape)}"
            )
        generator = torch.Generator().manual_seed(seed)
        self.choice = torch.full((len(data),), -1)  # backdoor of each item
        # backdoors with a source class choose first, since they have fewer images to choose from
        for k in sorted(range(len(self.backdoors)), key=lambda i: self.backdoors[i].source is None):
            free = (self.backdoors[k].takes(classes) & (self.choice < 0)).nonzero().flatten()
            if len(free) == 0:
                raise ValueError(
                    f"Trojan: labels must have images for backdoor {self.backdoors[k].name!r}, got none"
                )
            chosen = torch.randperm(len(free), generator=generator)[:count]
            self.choice[free[chosen]] = k

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Planted:
        image, label = self.data[index]
        k = int(self.choice[index])
        if k < 0:
            return Planted(image, int(label), torch.zeros(image.shape[1:], dtype=torch.bool), -1)
        backdoor, draws = self.backdoors[k], _generator(self.seed, self.epoch, index)
        image, mask = plant(image, backdoor.patch, draws, jitter=self.jitter, noise=self.noise)
        return Planted(image, backdoor.target, mask, k)


def _generator(*key: int) -> torch.Generator:
    """A generator whose draws depend on the numbers of key alone."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def fine_tune(
    model: nn.Module,
    data: Trojan,
    *,
    epochs: int = 6,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    step: int = 3,
    weight_decay: float = 1e-4,
    seed: int = 0,
    progress: bool | Callback | None = None,
) -> nn.Module:
    """Plant the backdoors of data in a copy of model: SGD with momentum 0.9 on the cross entropy.

    The learning rate falls to a tenth every `step` epochs. Defaults are those of the paper's Table 15 for ImageNet.

    Args:
        model: Classifier of [B, 3, H, W]. Not modified.
        data: Images, most of them clean; its `epoch` counts up. The order of its items is drawn from seed.
        epochs: Passes over data.
        batch_size: Images in one step.
        learning_rate: At the start.
        step: Epochs after which the rate falls.
        weight_decay: Of SGD.
        seed: Of the order.
        progress: None, True for a bar, or callback(done, total) over the batches.

    Returns:
        The trained copy, in eval mode.
    """
    tuned = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(
        tuned.parameters(), learning_rate, momentum=0.9, weight_decay=weight_decay
    )
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step, 0.1)
    order = torch.Generator().manual_seed(seed)
    loader = DataLoader(data, batch_size, shuffle=True, generator=order)
    with reporting(progress, "fine-tuning") as report:
        for epoch in range(epochs):
            data.epoch = epoch
            for k, batch in enumerate(loader):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(unwrap(tuned(batch.image)), batch.label)
                loss.backward()
                optimizer.step()
                if report is not None:
                    report(epoch * len(loader) + k + 1, epochs * len(loader))
            schedule.step()
    return tuned.eval()


def predictions(model: nn.Module, images: Tensor, batch_size: int = 64) -> Tensor:
    """Predicted class of each image [B, 3, H, W], int64 [B]."""
    network = duplicate(model)
    with torch.no_grad():
        return torch.cat([unwrap(network(part)).argmax(1) for part in images.split(batch_size)])


def effective(
    model: nn.Module, clean: Tensor, planted: Tensor, labels: Tensor, targets: Tensor
) -> Tensor:
    """Which samples the backdoor really acts on: right before the patch, target after it.

    Args:
        model: The backdoored classifier. Not modified.
        clean: Images [B, 3, H, W] without patch.
        planted: The same with their patch.
        labels: True classes, [B].
        targets: Target classes of the backdoors, [B].

    Returns:
        bool [B].
    """
    return (predictions(model, clean) == labels) & (predictions(model, planted) == targets)
