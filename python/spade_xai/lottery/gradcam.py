"""Grad-CAM of tickets through captum, and the same map with its graph, for training.

M(x, y) = ReLU(sum_c mean_hw(d logit_y / d A_c) A_c) of the feature maps A of one layer (Selvaraju et al., ICCV 2017).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from captum.attr import LayerAttribution, LayerGradCam
from torch import Tensor, nn
from torch.nn import functional as F

from spade_xai.models.copies import unwrap


def gradcam(model: nn.Module, layer: str, images: Tensor, labels: Tensor) -> Tensor:
    """Maps at the layer's resolution, [B, h, w] >= 0, of each picture's class.

    Args:
        model: In eval mode. Not modified.
        layer: Name of a module whose output is [B, C, h, w].
        images: As the model takes them. Not modified.
        labels: Class of each picture.
    """
    method = LayerGradCam(lambda x: unwrap(model(x)), model.get_submodule(layer))
    maps = method.attribute(images, labels.to(images.device), relu_attributions=True)
    return maps[:, 0].detach()


def enlarged(maps: Tensor, size: int) -> Tensor:
    """Maps [B, h, w] at the pictures' resolution, bilinear, each scaled to a maximum of 1; zero maps stay zero."""
    if maps.shape[-1] != size:
        maps = LayerAttribution.interpolate(maps[:, None], (size, size), "bilinear")[:, 0]
    highest = maps.flatten(1).max(1).values.view(-1, 1, 1)
    return torch.where(highest > 0, maps / highest.clamp_min(1e-30), 0.0)


@dataclass
class Seen:
    """What the last forward pass gave at a layer."""

    maps: Tensor | None = field(default=None)

    def take(self) -> Tensor:
        """The maps."""
        if self.maps is None:
            raise RuntimeError("the layer was not run")
        return self.maps


@contextmanager
def feature_maps(model: nn.Module, layer: str) -> Iterator[Seen]:
    """Keep the layer's output of each forward pass, with its graph."""
    seen = Seen()

    def keep(module: nn.Module, args: object, output: Tensor) -> None:
        seen.maps = output

    handle = model.get_submodule(layer).register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()
        seen.maps = None


def differentiable_gradcam(model: nn.Module, layer: str, images: Tensor, labels: Tensor) -> Tensor:
    """Grad-CAM [B, h, w] with its graph, at any layer: a backward pass that can be differentiated."""
    with feature_maps(model, layer) as seen:
        logits = unwrap(model(images))
        maps = seen.take()
        picked = logits.gather(1, labels.view(-1, 1)).sum()
        (slope,) = torch.autograd.grad(picked, maps, create_graph=True)
        return F.relu((slope.mean((2, 3), keepdim=True) * maps).sum(1))


def last_stage_gradcam(maps: Tensor, head: nn.Linear, labels: Tensor) -> Tensor:
    """Grad-CAM [B, h, w] of a network that ends in mean pooling and a linear layer, without a backward pass.

    There d logit_y / d A_c = W_yc / (h w) at every position.
    """
    weight = head.weight[labels] / maps.shape[2:].numel()
    return F.relu(torch.einsum("bc,bchw->bhw", weight, maps))


def ends_in_mean_pooling(model: nn.Module, layer: str, head: str, images: Tensor) -> bool:
    """Whether between the layer and the head there is mean pooling alone: the last-stage form is exact then."""
    module = model.get_submodule(head)
    with feature_maps(model, layer) as seen, torch.no_grad():
        read: list[Tensor] = []
        handle = module.register_forward_pre_hook(lambda m, args: read.append(args[0]))
        try:
            model(images)
        finally:
            handle.remove()
        pooled = seen.take().mean((2, 3))
    same = len(read) == 1 and read[0].shape == pooled.shape and isinstance(module, nn.Linear)
    return same and torch.allclose(read[0], pooled, rtol=1e-3, atol=1e-5)
