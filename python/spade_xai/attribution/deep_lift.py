"""DeepLIFT with multipliers for whatever function a model calls.

The model runs on the baseline first, then on x. Where a function is not linear, the pass on x puts a multiplier m in
the place of its gradient, made from the call of the same place in the pass on the baseline, so that

    sum_i m_i (x_i - x0_i) = f(x) - f(x0)

holds for each function, and with it for the model:

    one input at a time      rescale rule: m = (f(x) - f(x0)) / (x - x0)
    max pooling, maximum     the rise from x0 to max(f, f0) goes to the winner, the rest to the baseline's winner
    products                 m_a = (b + b0) / 2, m_b = (a + a0) / 2
    layer, group, RMS norm   spelled out in sums, products and functions of one input
    softmax, attention and   the gradient's mean over the straight line from x0 to x (Gauss-Legendre, 16 points),
      all others             exact for smooth functions but for the quadrature

The passes pair calls by their order, so nothing depends on where a tensor has its batch.

Sources: Shrikumar et al. (ICML 2017), section 3.5.1; Lundberg and Lee (NeurIPS 2017) for products and maxima;
Sundararajan et al. (ICML 2017) for the mean gradient of a path.
"""

import warnings
from typing import Literal

import torch
from torch import Tensor

from spade_xai.attribution.calls import check_outputs, constants, full_precision, run_under, wide
from spade_xai.attribution.method import Job, Method, Option, Options, baseline_of
from spade_xai.attribution.multipliers import Baseline, Multipliers
from spade_xai.exceptions import CompletenessWarning

Name = Literal["deep_lift"]

_TOLERANCE = 1e-3


def _deep_lift(job: Job, options: Options) -> Tensor:
    with full_precision(job.x):
        return _contributions(job, options)


def _contributions(job: Job, options: Options) -> Tensor:
    x, state = wide(job.x), constants(job.forward)
    extra = tuple(wide(v) for v in job.extra)
    x0 = baseline_of(x, options["baseline"])
    chosen = job.target[:, None]

    leaf = x0.detach().clone().requires_grad_()
    first = Baseline(leaf)
    at_baseline = (
        run_under("deep_lift", first, job.forward, state, leaf, extra).detach().gather(1, chosen)
    )
    leaf = x.detach().clone().requires_grad_()
    second = Multipliers(leaf, first.seen)
    outputs = run_under("deep_lift", second, job.forward, state, leaf, extra)
    check_outputs(
        "deep_lift",
        outputs,
        lambda: torch.func.functional_call(job.forward, state, (x.clone(), *extra)),
    )
    scores = outputs.gather(1, chosen)
    if not scores.requires_grad:
        raise RuntimeError("attribute: deep_lift needs outputs that depend on x, got constant ones")
    (multipliers,) = torch.autograd.grad(scores.sum(), leaf)
    result = multipliers * (x - x0)
    _check_sum(result, scores.detach(), at_baseline, second.approximate)
    return result


def _check_sum(result: Tensor, at_x: Tensor, at_baseline: Tensor, approximate: set[str]) -> None:
    """Warn where attributions do not sum to f(x) - f(x0), or are not finite."""
    difference = (at_x - at_baseline)[:, 0]
    miss = (result.flatten(1).sum(1) - difference).abs()
    scale = 1e-5 * torch.maximum(at_x.abs(), at_baseline.abs())[:, 0]  # rounding
    relative = miss / torch.maximum(difference.abs(), scale / _TOLERANCE).clamp_min(1e-30)
    worst = float(torch.where(relative.isfinite(), relative, torch.inf).max())
    if worst <= _TOLERANCE:
        return
    if approximate:
        cause = f"averaged gradients of {', '.join(sorted(approximate))} are not exact enough"
    else:
        cause = "a layer norm divides by almost 0 on the baseline, or the model detaches data from its input"
    warnings.warn(
        f"attribute: deep_lift attributions miss the difference of outputs by {worst:.1e} of it: {cause}",
        CompletenessWarning,
        stacklevel=6,
    )


RECORDS = (
    Method(
        "deep_lift",
        _deep_lift,
        cost="about 2: a third forward pass checks the rules",
        use="contributions that sum to f(x) - f(baseline) at the price of a few passes",
        read="Bright pixels moved the score most between a blank picture and this one, for or against the "
        "class.",
        options={"baseline": Option(0.0)},
        cheap=True,
    ),
)
