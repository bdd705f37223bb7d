"""Random augmentations of a sample: the published recipes through kornia, or any callable; seeded."""

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spade_xai.exceptions import AugmentationWarning
from spade_xai.models.inputs import Inputs, as_inputs, first_tensor, take

Augmentation = Callable[[Inputs], Inputs]
"""Takes a batch of copies of the sample, returns as many random variants of them."""

# Augmentations drawn at once: fixed by the sample alone, so that results do not depend on the batch size. A chunk
# of any size is some hundred launches, so CUDA takes larger ones, up to so many numbers of the sample's copies.
CHUNK = 32
CUDA_CHUNK = 256
CUDA_NUMBERS = 2**26

RECIPES: dict[str, tuple[str, ...]] = {
    "resnet": ("jitter", "crop"),
    "convnext": ("jitter", "crop", "noise", "erase"),
}
"""The published recipes: "resnet" was used for ResNet50 and MobileNetV2, "convnext" for ConvNeXt-T."""

STEPS = ("jitter", "crop", "noise", "erase", "flip")


class ImageAugment:
    """Random variants of images with the published parameters.

    | step | what | parameters |
    |---|---|---|
    | jitter | colour jitter | brightness 0.5, hue 0.3 (hue of RGB only) |
    | crop | random resized crop | area 0.2 to 1, aspect ratio 3/4 to 4/3 |
    | noise | Gaussian noise | variance 0.001 on [0, 1] |
    | erase | random erasing | probability 0.5, area 0.02 to 0.33, aspect ratio 0.3 to 3.3 |
    | flip | horizontal flip | probability 0.5 |

    Source: Table 14 of the paper's appendix F.

    Args:
        recipe: A name in RECIPES, or a sequence of steps, which run in that order.
        mean: The mean of each channel in the model's preprocessing, if it is given normalised images. Augmentations act
            on x * std + mean in [0, 1].
        std: The standard deviation of each channel in the model's preprocessing.

    Raises:
        ValueError: An unknown recipe or step; only one of mean and std.

    Example:
        >>> import torch
        >>> from spade_xai import ImageAugment
        >>> augment = ImageAugment("resnet", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        >>> augment(torch.rand(4, 3, 32, 32)).shape
        torch.Size([4, 3, 32, 32])
    """

    draws_each = True
    """Each variant has draws of its own: nobody needs to compare them, which would wait for the device."""

    def __init__(
        self,
        recipe: str | Sequence[str] = "resnet",
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        if isinstance(recipe, str) and recipe not in RECIPES:
            raise ValueError(
                f"ImageAugment: recipe must be one of {', '.join(RECIPES)} or a sequence of steps, got {recipe!r}"
            )
        steps = RECIPES[recipe] if isinstance(recipe, str) else tuple(recipe)
        for step in steps:
            if step not in STEPS:
                raise ValueError(f"ImageAugment: steps are {', '.join(STEPS)}, got {step!r}")
        if (mean is None) != (std is None):
            raise ValueError(f"ImageAugment: mean and std go together, got mean={mean}, std={std}")
        self.steps = steps
        self.mean = None if mean is None else tuple(mean)
        self.std = None if std is None else tuple(std)

    def __repr__(self) -> str:
        return f"ImageAugment({list(self.steps)}, mean={self.mean}, std={self.std})"

    def __call__(self, images: Tensor) -> Tensor:
        """Vary each of the images [B, C, H, W] at random by torch's global generator; not modified."""
        return self.of(images)(images)

    def of(self, sample: Tensor) -> Callable[[Tensor], Tensor]:
        """What varies rows of a sample [B, C, H, W]: the sample is checked once, which waits for its device.

        Nothing else waits. Noise is drawn on the device; the other steps draw a few numbers per image on the CPU.
        """
        if not isinstance(sample, Tensor) or sample.ndim != 4 or not sample.is_floating_point():
            shape = tuple(sample.shape) if isinstance(sample, Tensor) else type(sample).__name__
            raise ValueError(
                f"ImageAugment: images must be floating point [B, C, H, W], got {shape}"
            )
        channels, device = sample.shape[1], sample.device
        mean, std = (self._constant(v, channels, device) for v in (self.mean, self.std))

        def plain(images: Tensor) -> Tensor:
            x = images.float()
            return x if mean is None or std is None else x * std + mean

        low, high = torch.stack(plain(sample).aminmax()).tolist()
        if low < -1e-3 or high > 1 + 1e-3:
            raise ValueError(
                "ImageAugment: images must lie in [0, 1] (give mean and std if they are normalised), "
                f"got [{low:g}, {high:g}]"
            )
        steps = [
            _kornia(s, channels, (sample.shape[2], sample.shape[3]), device) for s in self.steps
        ]

        def varied(images: Tensor) -> Tensor:
            x = plain(images).clamp(0, 1)
            for step in steps:
                x = step(x)
            x = x.clamp(0, 1)
            if mean is not None and std is not None:
                x = (x - mean) / std
            return x.to(images.dtype)

        return varied

    def _constant(
        self, values: tuple[float, ...] | None, channels: int, device: torch.device
    ) -> Tensor | None:
        """Numbers of the channels as [C, 1, 1]."""
        if values is None:
            return None
        if len(values) != channels:
            raise ValueError(
                f"ImageAugment: mean and std must have {channels} values, one per channel"
            )
        return torch.tensor(values).view(-1, 1, 1).to(device, non_blocking=True)


class PerImage:
    """An augmentation from a transform of one image, such as those of torchvision: it is drawn anew for each image.

    Transforms of torchvision draw once for a whole batch, so that every variant of a sample would be the same.

    Args:
        transform: Takes an image [C, H, W] and returns one, random by the generators of torch, NumPy or Python.

    Raises:
        ValueError: What is varied is no batch of tensors [B, ...].

    Example:
        >>> import torch
        >>> from spade_xai import PerImage
        >>> augment = PerImage(lambda image: image.roll(int(torch.randint(8, ())), 2))
        >>> augment(torch.rand(4, 3, 8, 8)).shape
        torch.Size([4, 3, 8, 8])
    """

    def __init__(self, transform: Callable[[Tensor], Tensor]) -> None:
        if not callable(transform):
            raise TypeError(f"PerImage: transform must be callable, got {type(transform).__name__}")
        self.transform = transform

    def __repr__(self) -> str:
        return f"PerImage({self.transform!r})"

    def __call__(self, images: Tensor) -> Tensor:
        """Vary each image of a batch [B, C, H, W]; not modified."""
        if not isinstance(images, Tensor) or images.ndim < 2:
            raise ValueError(
                f"PerImage: images must be a tensor [B, C, H, W], got {type(images).__name__}"
            )
        return torch.stack([self.transform(image.clone()) for image in images])


def _kornia(step: str, channels: int, size: tuple[int, int], device: torch.device) -> Any:
    import kornia.augmentation as kornia

    if step == "jitter":
        return kornia.ColorJitter(brightness=0.5, hue=0.3 if channels == 3 else 0.0)
    if step == "crop":
        return kornia.RandomResizedCrop(
            size, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3), cropping_mode="resample"
        )
    if step == "noise":
        noise = kornia.RandomGaussianNoise(std=0.001**0.5, p=1.0)
        noise.set_rng_device_and_dtype(device, torch.float32)  # as many numbers as the images have
        return noise
    if step == "erase":
        return kornia.RandomErasing(scale=(0.02, 0.33), ratio=(0.3, 3.3), p=0.5)
    return kornia.RandomHorizontalFlip()


def vary(
    function: str, sample: Any, augment: str | Augmentation | None
) -> tuple[Inputs, Augmentation | None]:
    """The sample as inputs, a lone image [C, H, W] as a batch of one, and what varies them."""
    if isinstance(sample, Tensor) and sample.ndim == 3 and sample.is_floating_point():
        if isinstance(augment, ImageAugment) or (
            isinstance(augment, str) and sample.shape[0] in (1, 3)
        ):
            sample = sample[None]
    inputs = as_inputs(function, sample)
    return inputs, resolve_augment(function, augment, inputs)


def resolve_augment(
    function: str, augment: str | Augmentation | None, inputs: Inputs
) -> Augmentation | None:
    """The callable that a recipe's name stands for; "auto" is "resnet", for images only."""
    if augment is None or (callable(augment) and not isinstance(augment, str)):
        return augment
    image = isinstance(inputs, Tensor) and inputs.ndim == 4 and inputs.is_floating_point()
    if augment == "auto" and not image:
        raise ValueError(
            f"{function}: augment must be given for a sample that is not float images [N, C, H, W]: a callable, "
            "or None to use the sample as it is"
        )
    if augment == "auto":
        return ImageAugment("resnet")
    if isinstance(augment, str):
        return ImageAugment(augment)
    raise TypeError(
        f"{function}: augment must be a recipe's name, a callable or None, got {type(augment).__name__}"
    )


def augmented(
    function: str, inputs: Inputs, augment: Augmentation | None, count: int, seed: int
) -> Iterator[Inputs]:
    """Yield count augmentations in chunks; the samples take turns if there are several.

    The global random state is that of (seed, chunk) while augment runs and as before afterwards. Chunks are larger on
    CUDA, so more than 32 augmentations are drawn otherwise than on the CPU.
    """
    first = first_tensor(inputs)
    size, most = len(first), _chunk(first)
    if augment is None:
        for start in range(0, size, most):
            yield take(inputs, slice(start, start + most))
        return
    # Rows of a checked sample need no check of their own.
    make = augment.of(inputs) if type(augment) is ImageAugment else augment
    for chunk, start in enumerate(range(0, count, most)):
        index = torch.arange(start, min(start + most, count), device=first.device) % size
        batch = take(inputs, index)
        with seeded(seed, chunk), torch.no_grad():
            out = make(batch)
        if type(out) is not type(batch) or len(first_tensor(out)) != len(index):
            raise ValueError(
                f"{function}: augment must return a batch of {len(index)} as it was given, got "
                f"{type(out).__name__}"
                + (f" of {len(out)}" if isinstance(out, Tensor) and out.ndim else "")
            )
        if chunk == 0 and not getattr(augment, "draws_each", False):
            _check_varied(function, batch, out, size)
        yield out


def _check_varied(function: str, given: Inputs, out: Inputs, size: int) -> None:
    """Warn if a chunk of variants of one row are all the same."""
    first = first_tensor(out)
    if size > 1 or len(first) < 2 or not bool((first == first[:1]).all()):
        return
    unchanged = first.shape == first_tensor(given).shape and bool(
        (first == first_tensor(given)).all()
    )
    why = (
        "augment changes nothing"
        if unchanged
        else "augment is not random, or draws once for a whole batch; PerImage(transform) draws for each image"
    )
    warnings.warn(
        f"{function}: all {len(first)} variants of the first batch are equal: {why}",
        AugmentationWarning,
        stacklevel=3,
    )


def _chunk(sample: Tensor) -> int:
    """Augmentations of the sample drawn at once."""
    if sample.device.type != "cuda":
        return CHUNK
    return max(CHUNK, min(CUDA_CHUNK, CUDA_NUMBERS // max(1, sample.numel() // len(sample))))


@contextmanager
def seeded(seed: int, part: int = 0) -> Iterator[None]:
    """Seed the global generators of torch, NumPy and Python; restore their states at the end."""
    mixed = int(np.random.SeedSequence([seed % 2**63, part]).generate_state(1)[0])
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        try:
            torch.manual_seed(mixed)
            np.random.seed(mixed)  # noqa: NPY002
            random.seed(mixed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
