"""The ten attribution methods on one batch: nine through captum, LRP through `spade_xai.attribution.lrp`."""

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from captum import attr as captum
from captum._utils.models.linear_model import SkLearnRidge
from torch import Tensor, nn

from spade_ext.checks import check_finite, check_int, check_range
from spade_xai.attribution.forward import Forward, slices
from spade_xai.attribution.lrp.propagate import relevance
from spade_xai.attribution.rescale import Rescaled


class CompletenessWarning(UserWarning):
    """Attributions do not sum to the difference of outputs that they should explain."""


@dataclass
class Job:
    """One batch of one method."""

    forward: Forward
    x: Tensor
    target: Tensor
    extra: tuple[Any, ...]
    batch_size: int
    seed: int

    def captum(self) -> dict[str, Any]:
        """The arguments all captum methods share."""
        extra = self.extra if self.extra else None
        # Of one target captum would read the number again for each pass, and wait for the device.
        target = self.target if len(self.target) > 1 else int(self.target)
        return {"inputs": self.x, "target": target, "additional_forward_args": extra}


def _saliency(job: Job, options: dict[str, Any]) -> Tensor:
    return captum.Saliency(job.forward).attribute(**job.captum(), abs=False)


def _input_x_gradient(job: Job, options: dict[str, Any]) -> Tensor:
    return captum.InputXGradient(job.forward).attribute(**job.captum())


def _deep_lift(job: Job, options: dict[str, Any]) -> Tensor:
    baseline = _baseline(job.x, options["baseline"])
    method = captum.DeepLift(Rescaled(job.forward))
    result, delta = method.attribute(
        **job.captum(), baselines=baseline, return_convergence_delta=True
    )
    delta = delta.detach()
    difference = result.detach().flatten(1).sum(1) - delta
    worst = float((delta.abs() / difference.abs().clamp_min(1e-6)).max())
    if worst > 1e-2:
        warnings.warn(
            f"attribute: deep_lift attributions miss the difference of outputs by {worst:.1e} of it: the model has "
            "functions without a rescale rule (attention), or a layer norm divides by almost 0 on the baseline",
            CompletenessWarning,
            stacklevel=4,
        )
    return result


def _lrp(job: Job, options: dict[str, Any]) -> Tensor:
    return relevance(job.forward, job.x, job.target, extra=job.extra, **options)


def _guided_backprop(job: Job, options: dict[str, Any]) -> Tensor:
    return captum.GuidedBackprop(job.forward).attribute(**job.captum())


def _guided_grad_cam(job: Job, options: dict[str, Any]) -> Tensor:
    if job.x.ndim != 4:
        raise ValueError(
            f"attribute: guided_grad_cam needs x [B, C, H, W], got shape {tuple(job.x.shape)}"
        )
    layer = options["layer"]
    if layer is None:
        layer = _last_feature_map(job)
    else:
        modules = dict(job.forward.model.named_modules())
        if layer not in modules:
            raise ValueError(f"attribute: layer must name a layer of the model, got {layer!r}")
        layer = modules[layer]
    result = captum.GuidedGradCam(job.forward, layer).attribute(
        **job.captum(), interpolate_mode=options["interpolation"]
    )
    if result.shape != job.x.shape:  # captum warns and gives an empty tensor
        raise ValueError(
            "attribute: layer must have outputs [B, C, h, w] and interpolation be a mode of F.interpolate, "
            f"got layer={options['layer']!r} and interpolation={options['interpolation']!r}"
        )
    return result


def _last_feature_map(job: Job) -> nn.Module:
    """The module that ran last of those with outputs [B, C, h, w] of more than one position."""
    found: list[nn.Module] = []

    def look(module: nn.Module, args: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2:].numel() > 1:
            found.append(module)

    hooks = [m.register_forward_hook(look) for m in job.forward.model.modules()]
    try:
        with torch.no_grad():
            job.forward(job.x[:1], *job.forward.extra(slice(0, 1)))
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise ValueError(
            "attribute: guided_grad_cam needs a layer with outputs [B, C, h, w], got a model with none"
        )
    return found[-1]


def _lime(job: Job, options: dict[str, Any]) -> Tensor:
    features = _segments(job.x, options["features"])
    check_int("attribute", "samples", options["samples"], 1)
    check_range("attribute", "alpha", options["alpha"], 0.0, sys.float_info.max)
    method = captum.Lime(job.forward, interpretable_model=SkLearnRidge(alpha=options["alpha"]))
    devices = [job.x.device] if job.x.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(job.seed)
        return method.attribute(
            **job.captum(),
            baselines=_baseline(job.x, options["baseline"]),
            feature_mask=features,
            n_samples=options["samples"],
            perturbations_per_eval=job.batch_size,
        )


def _segments(x: Tensor, features: Tensor | None) -> Tensor:
    """The segment of each entry of one input."""
    if features is None:
        return _grid(x).expand_as(x[:1])
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


def _grid(x: Tensor) -> Tensor:
    """Segments: an 8 x 8 grid of an image [B, C, H, W], or each entry (token) of dimension 1."""
    if x.ndim != 4:
        return torch.arange(x.shape[1], device=x.device).view(1, -1, *[1] * (x.ndim - 2))
    rows = torch.arange(x.shape[2], device=x.device) * 8 // x.shape[2]
    cols = torch.arange(x.shape[3], device=x.device) * 8 // x.shape[3]
    segments = rows[:, None] * 8 + cols
    return segments.unique(return_inverse=True)[1][None, None]


def _occlusion(job: Job, options: dict[str, Any]) -> Tensor:
    shape = tuple(job.x.shape[1:])
    for name in ("window", "stride"):
        if options[name] is not None:
            check_int("attribute", name, options[name], 1, min(shape[-2:]))
            if job.x.ndim != 4:
                raise ValueError(f"attribute: {name} needs x [B, C, H, W], got shape {(1, *shape)}")
    default: tuple[int, ...]
    if job.x.ndim == 4:
        default = (shape[0], max(1, shape[1] // 8), max(1, shape[2] // 8))
    else:
        default = (1, *shape[1:])
    window = _sizes(options["window"], default)
    stride = _sizes(options["stride"], tuple(max(1, w // 2) for w in window[-2:]))
    if job.x.ndim != 4:
        stride = (1, *window[1:])
    elif stride[0] > window[1] or stride[1] > window[2]:
        raise ValueError(
            f"attribute: stride must be at most the window {window[1:]}, got {stride[0]}"
        )
    return captum.Occlusion(job.forward).attribute(
        **job.captum(),
        sliding_window_shapes=window,
        strides=(shape[0], *stride) if job.x.ndim == 4 else stride,
        baselines=_baseline(job.x, options["baseline"]),
        perturbations_per_eval=job.batch_size,
    )


def _sizes(value: int | None, default: tuple[int, ...]) -> tuple[int, ...]:
    """An option in pixels for both sides of an image, or the default."""
    if value is None:
        return default
    return (*default[:-2], value, value)


def _integrated_gradients(job: Job, options: dict[str, Any]) -> Tensor:
    check_int("attribute", "steps", options["steps"], 1)
    return captum.IntegratedGradients(job.forward).attribute(
        **job.captum(),
        baselines=_baseline(job.x, options["baseline"]),
        n_steps=options["steps"],
        internal_batch_size=job.batch_size,
    )


def _gradient_shap(job: Job, options: dict[str, Any]) -> Tensor:
    """E[(x - b) * gradient at b + u (x + noise - b)] over baselines b, u in [0, 1] and noise.

    The draws are made here, from a generator of their own: captum's GradientShap takes them from the global states of
    torch and NumPy, in an order that depends on the batch.
    """
    x, samples = job.x, check_int("attribute", "samples", options["samples"], 1)
    check_range("attribute", "noise", options["noise"], 0.0, sys.float_info.max)
    generator = torch.Generator().manual_seed(job.seed)
    baselines = _baseline(x, options["baseline"], several=True)
    pick = torch.randint(len(baselines), (samples,), generator=generator)
    u = torch.rand(samples, *[1] * (x.ndim - 1), generator=generator)
    noise = torch.randn(samples, *x.shape[1:], generator=generator) * options["noise"]
    gradient = captum.Saliency(job.forward)
    total = torch.zeros_like(x, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
    for part in slices(samples, job.batch_size):
        b = baselines[pick[part].to(x.device, non_blocking=True)]
        noisy = x + noise[part].to(x, non_blocking=True)
        count = len(noisy)
        slope = gradient.attribute(
            inputs=b + u[part].to(x, non_blocking=True) * (noisy - b),
            target=job.target.expand(count),
            additional_forward_args=_repeat(job.extra, count) or None,
            abs=False,
        )
        total += ((noisy - b) * slope).sum(0)
    return (total / samples).to(x.dtype)


def _repeat(extra: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    """Further arguments of one input, for as many inputs as given."""

    def expand(value: Any) -> Any:
        one = isinstance(value, Tensor) and value.ndim > 0 and len(value) == 1
        return value.expand(count, *value.shape[1:]) if one else value

    return tuple(expand(v) for v in extra)


def _baseline(x: Tensor, baseline: float | Tensor, several: bool = False) -> Tensor:
    """The baseline of each input, or for several=True a set of baselines [K, ...]."""
    if isinstance(baseline, bool) or not isinstance(baseline, (int, float, Tensor)):
        kind = type(baseline).__name__
        raise TypeError(f"attribute: baseline must be a number or a tensor, got {kind}")
    value = torch.as_tensor(baseline, dtype=x.dtype, device=x.device)
    check_finite("attribute", "baseline", value)
    try:
        if several:
            value = value if value.ndim == x.ndim else value.expand(1, *x.shape[1:])
            return value.expand(len(value), *x.shape[1:])
        return value.expand_as(x)
    except RuntimeError as error:
        raise ValueError(
            f"attribute: baseline must broadcast to one input {tuple(x.shape[1:])}, "
            f"got shape {tuple(value.shape)}"
        ) from error


RUN: dict[str, Callable[[Job, dict[str, Any]], Tensor]] = {
    "saliency": _saliency,
    "input_x_gradient": _input_x_gradient,
    "deep_lift": _deep_lift,
    "lrp": _lrp,
    "guided_backprop": _guided_backprop,
    "guided_grad_cam": _guided_grad_cam,
    "lime": _lime,
    "occlusion": _occlusion,
    "integrated_gradients": _integrated_gradients,
    "gradient_shap": _gradient_shap,
}
