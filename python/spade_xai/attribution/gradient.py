"""Methods made of gradients: saliency, input x gradient, means over paths and noise, guided backpropagation."""

import sys
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from spade_ext.checks import check_int, check_range
from spade_xai.attribution import deep_lift, guided
from spade_xai.attribution.forward import slices
from spade_xai.attribution.lrp import record as lrp
from spade_xai.attribution.method import Job, Method, Option, Options, baseline_of
from spade_xai.choices import misnamed

Name = Literal[
    "saliency",
    "input_x_gradient",
    "guided_backprop",
    "integrated_gradients",
    "gradient_shap",
    "smooth_grad",
]


def _at_least_1(name: str) -> Any:
    return lambda value: check_int("attribute", name, value, 1)


def _not_negative(name: str) -> Any:
    return lambda value: check_range("attribute", name, value, 0.0, sys.float_info.max)


BASELINE = Option(0.0)


def _saliency(job: Job, options: Options) -> Tensor:
    from captum.attr import Saliency

    return Saliency(job.forward).attribute(**job.captum(), abs=False)


def _input_x_gradient(job: Job, options: Options) -> Tensor:
    from captum.attr import InputXGradient

    return InputXGradient(job.forward).attribute(**job.captum())


def _guided_backprop(job: Job, options: Options) -> Tensor:
    return guided.gradient(job)


def _integrated_gradients(job: Job, options: Options) -> Tensor:
    from captum.attr import IntegratedGradients

    return IntegratedGradients(job.forward).attribute(
        **job.captum(),
        baselines=baseline_of(job.x, options["baseline"]),
        n_steps=options["steps"],
        internal_batch_size=job.batch_size,
    )


def _gradient_shap(job: Job, options: Options) -> Tensor:
    """E[(x - b) * gradient at b + u (x + noise - b)] over baselines b, u in [0, 1] and noise.

    The draws are made here, from a generator of their own: captum's GradientShap takes them from the global states of
    torch and NumPy, in an order that depends on the batch.
    """
    x, samples = job.x, options["samples"]
    generator = torch.Generator().manual_seed(job.seed)
    baselines = baseline_of(x, options["baseline"], several=True)
    pick = torch.randint(len(baselines), (samples,), generator=generator)
    u = torch.rand(samples, *[1] * (x.ndim - 1), generator=generator)
    total = _zeros(x)
    for part, noise in _noise(job, samples, options["noise"], generator):
        b = baselines[pick[part].to(x.device, non_blocking=True)]
        noisy = x + noise
        slope = _saliency(job.at(b + u[part].to(x, non_blocking=True) * (noisy - b)), {})
        total += ((noisy - b) * slope).sum(0)
    return (total / samples).to(x.dtype)


def _smooth_grad(job: Job, options: Options) -> Tensor:
    """Mean of a gradient method's attributions over noisy copies, the noise a share of the input's range."""
    x, samples, base = job.x, options["samples"], SMOOTHED[options["of"]]
    generator = torch.Generator().manual_seed(job.seed)
    spread = (x.amax() - x.amin()) * options["noise"]
    settings = base.settings(options["of_options"] or {})
    total = _zeros(x)
    for _, noise in _noise(job, samples, 1.0, generator):
        total += base.run(job.at(x + spread * noise), settings).detach().sum(0)
    return (total / samples).to(x.dtype)


def _zeros(x: Tensor) -> Tensor:
    return torch.zeros_like(x, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)


def _noise(
    job: Job, samples: int, scale: float, generator: torch.Generator
) -> Iterator[tuple[slice, Tensor]]:
    """Standard normal draws times scale on the device, in parts of at most a batch."""
    draws = torch.randn(samples, *job.x.shape[1:], generator=generator) * scale
    for part in slices(samples, job.batch_size):
        yield part, draws[part].to(job.x, non_blocking=True)


def _check_of(value: object) -> None:
    if value not in SMOOTHED:
        raise ValueError(f"attribute: {misnamed('of', SMOOTHED, value)}")


RECORDS = (
    Method(
        "saliency",
        _saliency,
        cost="1",
        use="a first look; noisy on deep networks",
        read="Bright pixels are those whose change by a little would change the class's score most; the map "
        "does not say in which direction.",
        cheap=True,
        tokens="magnitude",  # layer norm makes gradients sum to 0
    ),
    Method(
        "input_x_gradient",
        _input_x_gradient,
        cost="1",
        use="as above, weighted by the input; on piecewise-linear networks without biases equal to `deep_lift`",
        read="Bright pixels are those whose value times the score's gradient is large: they count much, for "
        "or against the class.",
        cheap=True,
    ),
    Method(
        "guided_backprop",
        _guided_backprop,
        cost="1",
        use="crisp pictures of what excites ReLUs; depends little on the class",
        read="Bright pixels excite the units that raise the class's score; edges stand out whatever the "
        "class is.",
        cheap=True,
        tokens="magnitude",
    ),
    Method(
        "integrated_gradients",
        _integrated_gradients,
        cost="`steps` (50)",
        use="the same sum as `deep_lift`, on any differentiable model, attention included",
        read="Bright pixels moved the score most on the way from a blank picture to this one, for or against "
        "the class.",
        options={"baseline": BASELINE, "steps": Option(50, _at_least_1("steps"))},
        repeats=True,
    ),
    Method(
        "gradient_shap",
        _gradient_shap,
        cost="`samples` (32)",
        use="several baselines, smoothed by noise",
        read="Bright pixels moved the score most on the way from blank pictures to noisy copies of this one, "
        "for or against the class.",
        options={
            "baseline": BASELINE,
            "samples": Option(32, _at_least_1("samples")),
            "noise": Option(0.09, _not_negative("noise")),
        },
        repeats=True,
    ),
    Method(
        "smooth_grad",
        _smooth_grad,
        cost="`samples` (32) times the cost of the method `of`",
        use="less noise in the maps of any gradient method (`of`, with `of_options`)",
        read="Bright pixels are those whose change would change the score most, on average over noisy copies "
        "of the picture.",
        options={
            "of": Option("saliency", _check_of),
            "of_options": Option(None),
            "samples": Option(32, _at_least_1("samples")),
            "noise": Option(0.15, _not_negative("noise")),
        },
        repeats=True,
        tokens="magnitude",
    ),
)
SMOOTHED = {m.name: m for m in (*RECORDS, *deep_lift.RECORDS, *lrp.RECORDS) if m.cheap}
"""What `smooth_grad` can average."""
