"""Grad-CAM and guided Grad-CAM, on a model's last feature map or that of a named layer.

    cam = relu(sum_c w_c A_c), w_c = mean over positions of d score / d A_c

for a feature map A [B, C, h, w]. Tokens are put back in rows and columns, and maps with channels last are permuted,
before they are weighed; see `feature_maps`.

Source: Selvaraju et al. (ICCV 2017).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spade_xai.attribution import guided
from spade_xai.attribution.calls import check_eager
from spade_xai.attribution.feature_maps import Layout, Layouts
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
    check_eager(method, job.forward.model)
    found = [_named_map(job)] if job.layer is not None else _maps(method, job)
    cam = None
    for module, call, layout in found:
        features, gradient = _features(job, module, call)
        if gradient is None:
            continue
        features, gradient = (layout.as_map(t) for t in (features, gradient))
        if cam is None or bool(gradient.any()):
            cam = (gradient.mean((2, 3), keepdim=True) * features).sum(1, keepdim=True).relu()
        if bool(gradient.any()):
            break  # else only the class token goes on from here
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


def _outputs(job: Job) -> list[tuple[nn.Module, int, Layout | None, Tensor]]:
    """Each call of a module that gives a tensor, in order: module, number of its call, layout and an output."""
    found = []
    calls: dict[nn.Module, int] = {}
    layouts = Layouts()

    def look(module: nn.Module, output: Any) -> None:
        number = calls[module] = calls.get(module, -1) + 1
        if isinstance(output, Tensor):
            found.append((module, number, layouts.of(output), output))

    x = job.x[:1].clone()
    height, width = x.shape[2:]
    with torch.no_grad(), _watching(job.forward.model, look), layouts:
        layouts.put(x, Layout((2, 3), height, width))
        job.forward(x, *(e[:1] for e in job.extra))
    return found


def _maps(method: str, job: Job) -> list[tuple[nn.Module, int, Layout]]:
    """Feature maps of more than one position, the last first.

    Linear layers on tokens or channels-last maps make queries and hidden features, not the stream: they come last.
    """
    maps = [
        (module, call, layout)
        for module, call, layout, output in _outputs(job)
        if layout is not None and layout.rows * layout.columns > 1 and output.ndim in (3, 4)
    ]
    stream = [found for found in maps if not isinstance(found[0], nn.Linear)]
    return stream[::-1]


def _named_map(job: Job) -> tuple[nn.Module, int, Layout]:
    """The layer that job.layer names, at its last call."""
    layer = None if job.layer is None else find_module(job.forward.model, job.layer)
    if layer is None:
        raise ValueError(f"attribute: layer must name a layer of the model, got {job.layer!r}")
    for module, call, layout, output in reversed(_outputs(job)):
        if module is not layer:
            continue
        if layout is None and output.ndim == 4:
            layout = Layout((2, 3), *output.shape[2:])
        if layout is not None:
            return module, call, layout
        shape = tuple(output.shape)
        raise ValueError(
            "attribute: layer must have outputs [B, C, h, w], [B, h, w, C] or tokens of an image, "
            f"got layer={job.layer!r} with outputs {shape}"
        )
    raise ValueError(
        f"attribute: layer must run in a forward pass and give a tensor, got layer={job.layer!r}"
    )


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

METHODS = (
    Method(
        "grad_cam",
        _grad_cam,
        cost="1",
        use="the region that speaks for the class, coarse but sure; `layer` chooses the feature map",
        options=_OPTIONS,
        cheap=True,
        feature_map=True,
    ),
    Method(
        "guided_grad_cam",
        _guided_grad_cam,
        cost="2",
        use="guided backpropagation, limited to that region",
        options=_OPTIONS,
        cheap=True,
        feature_map=True,
    ),
)
