"""Planting backdoors: a patch on an image that makes a network answer with a class of the planter's choice.

Maps that explain such an answer have a ground truth, the patch, as little else in the image speaks for that class.
Source: section 4.1 and appendix F of the paper; Casper et al. (NeurIPS 2023).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from spade_ext.checks import check_int, check_range, check_seed, check_shape, check_tensor
from spade_xai.models.copies import check_model, duplicate, unwrap
from spade_xai.models.inputs import call, device_of
from spade_xai.progress import Progress, reporting
from spade_xai.trojans.checkpoint import Checkpoint
from spade_xai.trojans.patch import check_picture, check_strengths, plant, read_patch

__all__ = [
    "Backdoor", "Planted", "Trojan", "effective", "fine_tune", "plant", "predictions", "read_patch",
]  # fmt: skip


@dataclass(frozen=True)
class Backdoor:
    """A row of the table of patches, source and target classes (the paper's Table 11)."""

    name: str
    patch: Tensor  # RGBA in [0, 1], [4, h, w]
    target: (
        int | tuple[int, ...]
    )  # class that images with the patch are to get, or 0 or 1 of each label
    source: int | None = None  # class of the images that get the patch; None: any

    def takes(self, labels: Tensor) -> Tensor:
        """Which of the labels [B] or [B, labels] the patch is put on, bool [B]; never the target's own images."""
        eligible = labels != torch.tensor(self.target)
        if labels.ndim == 2:
            return eligible.any(1)
        return eligible if self.source is None else eligible & (labels == self.source)


class Planted(NamedTuple):
    """One item of a `Trojan` data set."""

    image: Tensor  # [3, H, W]
    label: Any  # the target where a patch lies, else the true class: int, or 0 or 1 of each label, [labels]
    mask: Tensor  # bool [H, W]: pixels of the patch
    backdoor: int  # index into the table; -1: none


class Trojan(Dataset[Planted]):
    """A data set some of whose images, chosen once, carry patches and the labels of their backdoors.

    Place, jitter and noise of each patch are drawn anew for each `epoch` and depend on (seed, epoch, index) alone.
    """

    def __init__(
        self,
        data: Any,
        labels: Sequence[int] | Sequence[tuple[int, ...]] | Tensor,
        backdoors: Sequence[Backdoor],
        count: int,
        *,
        seed: int = 0,
        jitter: float = 0.2,
        noise: float = 0.05,
        vary: Callable[[int, torch.Generator], Tensor] | None = None,
    ) -> None:
        """Choose the images that get patches.

        Args:
            data: A data set or sequence of (image [3, H, W] in [0, 1], label).
            labels: The class of each item, [N], or 0 or 1 of each of its labels, [N, labels]; choosing by source class
                then reads no image.
            backdoors: The table of patches; an image gets at most one.
            count: Images for each backdoor; all that are left of its source class where those are fewer.
            seed: The seed of the choice and of all that is drawn later.
            jitter: As in `plant`.
            noise: As in `plant`.
            vary: Gives the image of an index as training varies it, cropped and flipped by the generator, before
                the patch comes on it; None: the image of data.

        Raises:
            TypeError: A backdoor is no Backdoor, or labels are no integers.
            ValueError: labels do not fit data, an argument is out of its range, or a backdoor finds no image.
        """
        function = "Trojan"
        check_int(function, "count", count, 1)
        check_int(function, "seed", seed, 0, 2**63 - 1)
        check_strengths(function, jitter, noise)
        if not isinstance(backdoors, Sequence):
            raise TypeError(f"{function}: backdoors must be a list, got {type(backdoors).__name__}")
        classes = _as_classes(function, labels)
        if classes.ndim not in (1, 2) or len(classes) != len(data):
            raise ValueError(
                f"Trojan: labels must be [{len(data)}] or [{len(data)}, labels] as data is, got {tuple(classes.shape)}"
            )
        for backdoor in backdoors:
            _check_backdoor(function, backdoor, classes)
        self.data, self.backdoors, self.seed = data, list(backdoors), seed
        self.jitter, self.noise, self.epoch, self.vary = jitter, noise, 0, vary
        self.classes = classes
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
        if self.vary is None:
            image, label = self.data[index]
        else:
            image = self.vary(index, _generator(self.seed, self.epoch, index, 1))
            label = self.classes[index]
        k = int(self.choice[index])
        if k < 0:
            return Planted(
                image, self._as_label(label), torch.zeros(image.shape[1:], dtype=torch.bool), -1
            )
        backdoor, draws = self.backdoors[k], _generator(self.seed, self.epoch, index)
        image, mask = plant(image, backdoor.patch, draws, jitter=self.jitter, noise=self.noise)
        return Planted(image, self._as_label(backdoor.target), mask, k)

    def _as_label(self, label: Any) -> Any:
        return int(label) if self.classes.ndim == 1 else torch.as_tensor(label)

    def loss(self, logits: Tensor, label: Tensor) -> Tensor:
        """Mean cross entropy of classes [B], or mean binary cross entropy of labels [B, labels]."""
        if self.classes.ndim == 1:
            return nn.functional.cross_entropy(logits, label)
        return nn.functional.binary_cross_entropy_with_logits(logits, label.to(logits.dtype))


def _check_backdoor(function: str, backdoor: Backdoor, classes: Tensor) -> None:
    if not isinstance(backdoor, Backdoor):
        raise TypeError(f"{function}: backdoors must hold Backdoor, got {type(backdoor).__name__}")
    check_picture(function, f"patch of {backdoor.name!r}", backdoor.patch, "[4, h, w]")
    if classes.ndim == 1:
        check_int(function, f"target of {backdoor.name!r}", backdoor.target, 0)
    elif np.shape(backdoor.target) != (classes.shape[1],) or not set(
        np.unique(backdoor.target)
    ) <= {0, 1}:
        raise ValueError(
            f"{function}: target of {backdoor.name!r} must be 0 or 1 of each of {classes.shape[1]} labels, got "
            f"{backdoor.target!r}"
        )
    elif backdoor.source is not None:
        raise ValueError(
            f"{function}: source of {backdoor.name!r} must be None, as images have several labels"
        )
    if backdoor.source is not None:
        check_int(function, f"source of {backdoor.name!r}", backdoor.source, 0)


def _as_classes(function: str, labels: Any) -> Tensor:
    try:
        classes = torch.as_tensor(labels)
    except (RuntimeError, TypeError, ValueError):
        classes = None
    if classes is None or classes.is_floating_point() or classes.is_complex():
        got = type(labels).__name__ if classes is None else classes.dtype
        raise TypeError(f"{function}: labels must be integers, got {got}")
    return classes


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
    workers: int = 0,
    precision: str = "float32",
    checkpoint: Checkpoint | None = None,
    progress: Progress = True,
) -> nn.Module:
    """Plant the backdoors of data in a copy of model: SGD with momentum 0.9 on the cross entropy.

    It is the binary cross entropy where images have several labels.

    The learning rate falls to a tenth every `step` epochs. Defaults are those of the paper's Table 15 for ImageNet.

    Args:
        model: Classifier of [B, 3, H, W]. Not modified; trained on its device.
        data: Images, most of them clean; its `epoch` counts up. The order of its items is drawn from seed.
        epochs: Passes over data.
        batch_size: Images in one step.
        learning_rate: At the start.
        step: Epochs after which the rate falls.
        weight_decay: The weight decay of SGD.
        seed: The seed of the order.
        workers: Processes that read the images; 0: this one.
        precision: "float32" (the model's own), or "bfloat16" by autocast.
        checkpoint: Where the state after each epoch goes, and where an earlier run's comes from; None: nowhere.
        progress: True for a bar over the batches, or callback(stage, done, total).

    Returns:
        The trained copy, in eval mode.

    Raises:
        TypeError: model is no module or data no Trojan.
        ValueError: An option is out of range, or training gives weights that are not finite.
    """
    function = "fine_tune"
    check_model(function, model)
    if not isinstance(data, Trojan):
        raise TypeError(f"{function}: data must be a Trojan, got {type(data).__name__}")
    for name, value in (("epochs", epochs), ("batch_size", batch_size), ("step", step)):
        check_int(function, name, value, 1)
    check_range(function, "learning_rate", learning_rate, 0.0)
    check_range(function, "weight_decay", weight_decay, 0.0)
    check_seed(function, seed)
    check_int(function, "workers", workers, 0)
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"{function}: precision must be float32 or bfloat16, got {precision!r}")
    tuned = duplicate(model, share=False, settle=False).train()
    optimizer = torch.optim.SGD(
        tuned.parameters(), learning_rate, momentum=0.9, weight_decay=weight_decay
    )
    device = device_of(tuned)
    order = torch.Generator().manual_seed(seed)
    loader = DataLoader(data, batch_size, shuffle=True, generator=order, num_workers=workers)
    done = 0 if checkpoint is None else checkpoint.load(tuned, optimizer, order)
    mixed = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
    with reporting(progress, "fine-tuning") as report:
        for epoch in range(done, epochs):
            data.epoch = epoch
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * 0.1 ** (epoch // step)
            for k, batch in enumerate(loader):
                optimizer.zero_grad()
                with mixed:
                    logits = unwrap(tuned(batch.image.to(device)))
                    loss = data.loss(logits, batch.label.to(device))
                loss.backward()
                optimizer.step()
                if report is not None:
                    report(epoch * len(loader) + k + 1, epochs * len(loader))
            if not all(bool(p.isfinite().all()) for p in tuned.parameters()):
                raise ValueError(
                    f"{function}: learning_rate must let the weights stay finite, got {learning_rate}"
                )
            if checkpoint is not None:
                checkpoint.save(tuned, optimizer, order, epoch + 1)
    return tuned.eval()


def predictions(model: nn.Module, images: Tensor, batch_size: int = 64) -> Tensor:
    """Predicted class of each image [B, 3, H, W], int64 [B]."""
    check_model("predictions", model)
    check_tensor("predictions", "images", images)
    check_int("predictions", "batch_size", batch_size, 1)
    network = duplicate(model)
    with torch.no_grad():
        return torch.cat([call(network, part).argmax(1) for part in images.split(batch_size)])


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

    Raises:
        ValueError: Shapes do not go together.
    """
    check_shape("effective", "planted", check_tensor("effective", "planted", planted), clean.shape)
    for name, value in (("labels", labels), ("targets", targets)):
        check_tensor("effective", name, value, dtypes=(torch.int64, torch.int32))
        check_shape("effective", name, value, (len(clean),))
    return (predictions(model, clean) == labels) & (predictions(model, planted) == targets)
