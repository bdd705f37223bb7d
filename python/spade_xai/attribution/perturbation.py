"""Methods that run the model on changed inputs: LIME and occlusion, through captum."""

import sys
from typing import Any, Literal

import torch
from torch import Tensor

from spade_ext.checks import check_int, check_range
from spade_xai.attribution.method import Job, Method, Option, Options, baseline_of

Name = Literal["lime", "occlusion"]

_SEGMENTS = 64  # of an image 8 x 8, of a signal 64, of a volume 4 x 4 x 4


def _lime(job: Job, options: Options) -> Tensor:
    from captum._utils.models.linear_model import SkLearnRidge
    from captum.attr import Lime

    method = Lime(job.forward, interpretable_model=SkLearnRidge(alpha=options["alpha"]))
    devices = [job.x.device] if job.x.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(job.seed)
        return method.attribute(
            **job.captum(),
            baselines=baseline_of(job.x, options["baseline"]),
            feature_mask=_segments(job, options["features"]),
            n_samples=options["samples"],
            perturbations_per_eval=job.batch_size,
        )


def _segments(job: Job, features: Tensor | None) -> Tensor:
    """The segment of each entry of one input."""
    x = job.x
    if features is None:
        return _grid(job).expand_as(x[:1])
    if not isinstance(features, Tensor) or features.is_floating_point():
        kind = features.dtype if isinstance(features, Tensor) else type(features).__name__
        raise TypeError(f"attribute: features must be a tensor of ints, got {kind}")
    try:
        return features.to(x.device).expand_as(x[:1])
    except RuntimeError:
        raise ValueError(
            f"attribute: features must broadcast to one input {tuple(x.shape[1:])}, "
            f"got shape {tuple(features.shape)}"
        ) from None


def _grid(job: Job) -> Tensor:
    """About 64 segments along the sides of a signal, image or volume; else each entry (token) of dimension 1."""
    x, sides = job.x, _sides(job)
    if not sides:
        return torch.arange(x.shape[1], device=x.device).view(1, -1, *[1] * (x.ndim - 2))
    each = round(_SEGMENTS ** (1 / len(sides)))
    segments = torch.zeros((), dtype=torch.long, device=x.device)
    for side in sides:
        segments = segments[..., None] * each + torch.arange(side, device=x.device) * each // side
    return segments.unique(return_inverse=True)[1][None, None]


def _sides(job: Job) -> tuple[int, ...]:
    """Lengths along which windows and segments lie: T, (H, W) or (D, H, W); none for features and tokens."""
    return () if job.tokens else tuple(job.x.shape[2:])


def _occlusion(job: Job, options: Options) -> Tensor:
    sides = _sides(job)
    shape = tuple(job.x.shape[1:])
    if sides:
        window = _sizes("window", options["window"], sides) or [max(1, s // 8) for s in sides]
        stride = _sizes("stride", options["stride"], sides) or [max(1, w // 2) for w in window]
        if any(s > w for s, w in zip(stride, window, strict=True)):
            raise ValueError(
                f"attribute: stride must be at most the window {tuple(window)}, got {max(stride)}"
            )
        window, stride = [shape[0], *window], [shape[0], *stride]
    else:
        for name in ("window", "stride"):
            if options[name] is not None:
                raise ValueError(
                    f"attribute: {name} needs x [B, C, ...] with sides, got shape {(1, *shape)}"
                )
        window = stride = [1, *shape[1:]]
    from captum.attr import Occlusion

    return Occlusion(job.forward).attribute(
        **job.captum(),
        sliding_window_shapes=tuple(window),
        strides=tuple(stride),
        baselines=baseline_of(job.x, options["baseline"]),
        perturbations_per_eval=job.batch_size,
    )


def _sizes(name: str, value: Any, sides: tuple[int, ...]) -> list[int]:
    """An option in entries along each side, one number for all or one for each."""
    if value is None:
        return []
    several = isinstance(value, (tuple, list))
    if several and len(value) != len(sides):
        raise ValueError(
            f"attribute: {name} must be an int or {len(sides)} ints, got {len(value)} of them"
        )
    if not several:
        check_int("attribute", name, value, 1, min(sides))
    values = value if several else [value] * len(sides)
    return [check_int("attribute", name, v, 1, s) for v, s in zip(values, sides, strict=True)]


RECORDS = (
    Method(
        "lime",
        _lime,
        cost="`samples` (256) forward passes",
        use="regions of your own choosing (`features`)",
        read="Red regions raise the score when they are there, blue regions lower it.",
        options={
            "baseline": Option(0.0),
            "samples": Option(256, lambda v: check_int("attribute", "samples", v, 1)),
            "features": Option(None),
            "alpha": Option(
                1.0, lambda v: check_range("attribute", "alpha", v, 0.0, sys.float_info.max)
            ),
        },
        signed=True,
        repeats=True,
        tokens="mean",  # a token's one value stands at each entry of its embedding
    ),
    Method(
        "occlusion",
        _occlusion,
        cost="one forward pass per window (225 by default)",
        use="no gradients needed; says what removing a region does",
        read="Covering a red region lowers the score, covering a blue region raises it.",
        options={"baseline": Option(0.0), "window": Option(None), "stride": Option(None)},
        signed=True,
        repeats=True,
        tokens="mean",
    ),
)
