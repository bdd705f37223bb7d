"""The parts of a picture that speak for a class: Score-CAM maps, and the square or the pixels where they are largest.

Source: Wang et al., "Score-CAM" (CVPR Workshops 2020), by torchcam.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spade_xai.models.copies import duplicate, find_module, unwrap

COVER = 0.5  # grey of what a region does not show


class _Remembering(nn.Module):
    """A model whose answers to the same passes again are the remembered ones.

    Score-CAM's passes do not depend on the class: the second class costs none.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._outputs: list[Tensor] = []
        self._next: int | None = None

    def rewind(self) -> None:
        """From here on count the passes anew."""
        self._next = 0

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes]."""
        if self._next is None:
            return unwrap(self.model(x))
        if self._next == len(self._outputs):
            self._outputs.append(unwrap(self.model(x)))
        self._next += 1
        return self._outputs[self._next - 1]


def score_cam(
    model: nn.Module, x: Tensor, classes: Sequence[int], *, layer: str, batch_size: int = 32
) -> Tensor:
    """Score-CAM maps of classes.

    Each channel of the layer's feature map, scaled to [0, 1], masks the input; channels are added up by the softmax
    over how much the masked input raises the class's logit.

    Args:
        model: Classifier. Not modified.
        x: One input as the model takes it, [1, 3, H, W].
        classes: Numbers of classes.
        layer: Name of a module with outputs [1, C, h, w]; the cost is C passes.
        batch_size: Masked inputs per pass.

    Returns:
        [classes, H, W] in [0, 1].

    Raises:
        ModuleNotFoundError: torchcam is not installed.
        ValueError: No such layer, or its outputs are no feature maps.
    """
    try:
        from torchcam.methods import ScoreCAM
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "Score-CAM needs torchcam, which needs Python 3.11: pip install spade-ext[xai,study]"
        ) from None

    if find_module(model, layer) is None:
        raise ValueError(f"score_cam: layer must name a module of the model, got {layer!r}")
    remembering = _Remembering(duplicate(model)).eval()
    maps = []
    with torch.no_grad():
        cam = ScoreCAM(
            remembering, f"model.{layer}", batch_size=batch_size, input_shape=tuple(x.shape[1:])
        )
        with cam:
            remembering(x)
            kept = cam.hook_a[0]
            if kept is None or kept.ndim != 4 or kept.shape[-2:].numel() < 2:
                got = None if kept is None else tuple(kept.shape)
                raise ValueError(
                    f"score_cam: layer must give maps [1, C, h, w], got {layer!r}: {got}"
                )
            for number in classes:
                remembering.rewind()
                found = cam(int(number))[0].reshape(1, 1, *kept.shape[-2:])
                maps.append(F.interpolate(found, x.shape[-2:], mode="bicubic")[0, 0].clamp(0, 1))
    return torch.stack(maps)


def last_feature_maps(model: nn.Module, x: Tensor) -> str:
    """Name of the last module whose outputs are feature maps [B, C, h, w] of several positions.

    Raises:
        ValueError: There is none.
    """
    found: list[str] = []
    copy = duplicate(model)

    def hook(name: str) -> Any:
        def look(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and output.shape[-2:].numel() > 1:
                found.append(name)

        return look

    for name, module in copy.named_modules():
        if name:
            module.register_forward_hook(hook(name))
    with torch.no_grad():
        copy(x)
    if not found:
        raise ValueError(
            "last_feature_maps: model must have a layer with feature maps [B, C, h, w], got none; "
            "--cam-layer can name one"
        )
    return found[-1]


def best_window(maps: Tensor, share: float) -> Tensor:
    """The square of the largest mean value of each map: bool [K, H, W], share of the picture in each."""
    height, width = maps.shape[-2:]
    side = min(max(1, round((share * height * width) ** 0.5)), height, width)
    means = F.avg_pool2d(maps[:, None], side, stride=1)[:, 0]
    chosen = torch.zeros_like(maps, dtype=torch.bool)
    for k, place in enumerate(means.flatten(1).argmax(1).tolist()):
        top, left = divmod(place, means.shape[-1])
        chosen[k, top : top + side, left : left + side] = True
    return chosen


def strongest(maps: Tensor, share: float) -> Tensor:
    """The pixels of the largest values of each map: bool [K, H, W], share of the picture in each."""
    count = max(1, round(share * maps[0].numel()))
    chosen = torch.zeros_like(maps, dtype=torch.bool).flatten(1)
    chosen.scatter_(1, maps.flatten(1).topk(count, dim=1).indices, True)
    return chosen.view_as(maps)


def revealed(picture: Tensor, region: Tensor) -> Tensor:
    """The picture [3, H, W] with all but a region bool [H, W] under grey."""
    return torch.where(region, picture, torch.full_like(picture, COVER))


SHAPES = {"square": best_window, "pixels": strongest}
"""What a region can be; each takes maps [K, H, W] and a share of the picture."""
