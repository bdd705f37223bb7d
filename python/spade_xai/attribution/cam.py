"""Grad-CAM and guided Grad-CAM, on a model's last feature map or that of a named layer.

    cam = relu(sum_c w_c A_c), w_c = mean over positions of d score / d A_c

for a feature map A [B, C, h, w]. Tokens are put back in rows and columns, and maps with channels last are permuted,
before they are weighed; see `feature_maps`.

Source: Selvaraju et al. (ICCV 2017).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spade_xai.attribution import guided
from spade_xai.attribution.feature_maps import Following, Layout
from spade_xai.attribution.method import Job, Method, Option, Options
from spade_xai.models.copies import find_module

Name = Literal["grad_cam", "guided_grad_cam"]


def _grad_cam(job: Job, options: Options) -> Tensor:
    return _cam("grad_cam", job, options).expand_as(job.x) / job.x.shape[1]


def _guided_grad_cam(job: Job, options: Options) -> Tensor:
    cam = _cam("guided_grad_cam", job, options)
    return guided.gradient(job) * cam


def _cam(method: str, job: Job, options: Options) -> Tensor:
    """The class activation map at the size of x, [B, 1, H, W]."""
    if job.x.ndim != 4 or job.tokens:
        raise ValueError(
            f"attribute: {method} needs x [B, C, H, W], got shape {tuple(job.x.shape)}"
        )
    found = _named_map(job) if job.layer is not None else _last_map(job)
    cam = None
    if found is not None:
        module, call, layout = found
        features, gradient = _features(job, module, call)
        if gradient is not None:
            features, gradient = (layout.as_map(t) for t in (features, gradient))
            cam = (gradient.mean((2, 3), keepdim=True) * features).sum(1, keepdim=True).relu()
    if cam is not None:
        return _resized(cam, job.x.shape[2:], options["interpolation"])
    if job.layer is not None:
        raise ValueError(
            f"attribute: layer must be one that the target depends on, got {job.layer!r}"
        )
    raise ValueError(
        f"attribute: {method} needs a layer with a feature map [B, C, h, w], [B, h, w, C] or one token per position, "
        "got a model in which none is found; layer= can name one with outputs [B, C, h, w]"
    )


def _resized(cam: Tensor, size: Any, mode: str) -> Tensor:
    smooth = mode in ("bilinear", "bicubic")
    try:
        return F.interpolate(cam, size, mode=mode, align_corners=False if smooth else None)
    except (NotImplementedError, ValueError, RuntimeError):
        raise ValueError(
            "attribute: interpolation must be a mode of F.interpolate for images, such as 'bilinear' or 'nearest', "
            f"got {mode!r}"
        ) from None


@contextmanager
def _watching(model: nn.Module, look: Callable[[nn.Module, Any], Any]) -> Iterator[None]:
    """Call look(module, output) after each module; what it returns, unless None, goes on in place of the output."""
    hooks = [
        m.register_forward_hook(lambda module, args, output: look(module, output))
        for m in model.modules()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@dataclass
class _Output:
    """What one call of a module gave for the first input."""

    module: nn.Module
    call: int
    layout: Layout | None
    value: Tensor


def _outputs(job: Job) -> tuple[list[_Output], Tensor]:
    """Each call of a module that gives a tensor, in order, and the target's score, all of the first input."""
    found: list[_Output] = []
    calls: dict[nn.Module, int] = {}
    one = job.first()
    x = one.x.detach().clone().requires_grad_()
    following = Following(x)

    def look(module: nn.Module, output: Any) -> None:
        number = calls[module] = calls.get(module, -1) + 1
        if isinstance(output, Tensor):
            found.append(_Output(module, number, following.layout(output), output))

    with torch.enable_grad(), _watching(job.forward.model, look), following:
        score = one.score(x)
    return found, score


def _last_map(job: Job) -> tuple[nn.Module, int, Layout] | None:
    """The last feature map of more than one position on which the target depends at its positions.

    Behind the last attention only the class token goes on. Linear layers on tokens or channels-last maps make queries
    and hidden features, not the stream, and are left out.
    """
    outputs, score = _outputs(job)
    maps = [
        (output, output.layout)
        for output in outputs
        if output.layout is not None
        and output.layout.rows * output.layout.columns > 1
        and output.value.requires_grad
        and not isinstance(output.module, nn.Linear)
    ]
    if not maps or not score.requires_grad:
        return None
    values = [output.value for output, _ in maps]
    gradients = torch.autograd.grad(score.sum(), values, allow_unused=True)
    for (output, layout), gradient in reversed(list(zip(maps, gradients, strict=True))):
        if gradient is not None and bool(layout.as_map(gradient).any()):
            return output.module, output.call, layout
    output, layout = maps[-1]  # the target depends on none of them: a map of zeros
    return output.module, output.call, layout


def _named_map(job: Job) -> tuple[nn.Module, int, Layout]:
    """The layer that job.layer names, at its last call."""
    layer = None if job.layer is None else find_module(job.forward.model, job.layer)
    if layer is None:
        raise ValueError(f"attribute: layer must name a layer of the model, got {job.layer!r}")
    calls = [o for o in _outputs(job)[0] if o.module is layer]
    if not calls:
        raise ValueError(
            f"attribute: layer must run in a forward pass and give a tensor, got layer={job.layer!r}"
        )
    last = calls[-1]
    layout = last.layout
    if layout is None and last.value.ndim == 4:
        layout = Layout((2, 3), *last.value.shape[2:])
    if layout is None:
        raise ValueError(
            "attribute: layer must have outputs [B, C, h, w], [B, h, w, C] or tokens of an image, "
            f"got layer={job.layer!r} with outputs {tuple(last.value.shape)}"
        )
    return last.module, last.call, layout


def _features(job: Job, module: nn.Module, call: int) -> tuple[Tensor, Tensor | None]:
    """The outputs of one call of a module, and the gradient of the target's score with respect to them."""
    kept: list[Tensor] = []
    calls = [-1]

    def look(found: nn.Module, output: Any) -> Tensor | None:
        if found is not module:
            return None
        calls[0] += 1
        if calls[0] != call:
            return None
        kept.append(output.requires_grad_() if output.is_leaf else output)
        return output.clone()  # what follows may work in place

    with torch.enable_grad(), _watching(job.forward.model, look):
        score = job.score(job.x.detach().clone().requires_grad_())
        (gradient,) = torch.autograd.grad(score.sum(), kept, allow_unused=True)
    return kept[0].detach(), gradient


_OPTIONS = {"interpolation": Option("bilinear")}

RECORDS = (
    Method(
        "grad_cam",
        _grad_cam,
        cost="1",
        use="the region that speaks for the class, coarse but sure; `layer` chooses the feature map",
        read="Bright regions speak for the class; the map is as coarse as the network's last feature map.",
        options=_OPTIONS,
        cheap=True,
        feature_map=True,
    ),
    Method(
        "guided_grad_cam",
        _guided_grad_cam,
        cost="2",
        use="guided backpropagation, limited to that region",
        read="Bright pixels excite the units that raise the score, within the region that speaks for the "
        "class.",
        options=_OPTIONS,
        cheap=True,
        feature_map=True,
    ),
)
