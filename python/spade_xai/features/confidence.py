"""How sure a model is of a class that an image was optimised for, where the image is not exactly that one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spade_ext.checks import check_int, check_seed
from spade_xai.features.transforms import RandomTransforms
from spade_xai.models.answers import class_logits, log_probabilities
from spade_xai.models.copies import check_model, duplicate
from spade_xai.models.preprocessing import Preprocessing


def confidence(
    model: nn.Module,
    images: Tensor,
    neuron: int,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    draws: int = 8,
    seed: int = 1,
) -> Tensor:
    """Mean probability of a class over random transforms of images, those of `visualize` with other draws.

    Args:
        model: Classifier of (images - mean) / std. Not modified.
        images: [B, 3, H, W] in [0, 1].
        neuron: The class.
        mean: The mean of each channel; None: nothing is subtracted, nothing divided by.
        std: The standard deviation of each channel.
        draws: Number of transforms.
        seed: The seed of the transforms; another than that of `visualize`.

    Returns:
        [B], in [0, 1].
    """
    check_model("confidence", model)
    check_int("confidence", "draws", draws, 1)
    check_seed("confidence", seed)
    known = Preprocessing(
        mean=None if mean is None else tuple(mean), std=None if std is None else tuple(std)
    )
    transforms = RandomTransforms.for_size(*images.shape[-2:])
    generator = torch.Generator().manual_seed(seed)
    copy = duplicate(model)
    found = []
    with torch.no_grad():
        for _ in range(draws):
            output = copy(known.normalize(transforms(images, generator)))
            logits = class_logits("confidence", output, len(images))
            found.append(log_probabilities(logits)[:, neuron].exp().to(logits.dtype))
    return torch.stack(found).mean(0)
