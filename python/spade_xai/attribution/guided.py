"""Guided backpropagation, on the graph that autograd records.

The gradient passes a ReLU only where it is positive. Rules on modules miss the ReLUs that a model calls as functions;
the graph has a node for each, whatever it was called from.

Source: Springenberg et al. (ICLR 2015 workshop), section 3.4.
"""

import warnings
from typing import Any

import torch
from torch import Tensor

from spade_xai.attribution.calls import check_open, graph_nodes
from spade_xai.attribution.method import Job
from spade_xai.exceptions import PlainGradientWarning


def gradient(job: Job) -> Tensor:
    """Gradient of the target's score, of which only positive parts pass each ReLU, in the shape of x.

    A ReLU is what is 0 below 0 and the identity above, up to a bound if it has one: relu, relu6, clamp(min=0),
    maximum with 0 and threshold at 0. LeakyReLU, PReLU, ELU, GELU, SiLU and Hardtanh below 0 have no dead half, and
    are not guided.
    """
    with torch.enable_grad():
        x = job.x.detach().clone().requires_grad_()
        score = job.score(x)
        check_open("guided_backprop", score)
        found = 0
        for node in graph_nodes(score.grad_fn):
            name = node.name()
            if _is_relu(name, node):
                node.register_prehook(_positive)
                found += 1
        if not found:
            warnings.warn(
                "attribute: guided_backprop found no ReLU in the model, so that the result is the plain gradient",
                PlainGradientWarning,
                stacklevel=2,
            )
        if score.grad_fn is None:
            return torch.zeros_like(job.x)
        (result,) = torch.autograd.grad(score.sum(), x, allow_unused=True)
    return torch.zeros_like(job.x) if result is None else result


def _positive(grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return tuple(None if g is None else g.clamp_min(0) for g in grads)


def _is_relu(name: str, node: Any) -> bool:
    if name.startswith("ReluBackward"):
        return True
    if name.startswith("ThresholdBackward"):
        return bool(node._saved_threshold == 0)
    if name.startswith("HardtanhBackward"):  # relu6
        return bool(node._saved_min_val == 0)
    if name in ("ClampMinBackward0", "ClampBackward1"):
        return bool(node._saved_min == 0)
    if name in ("MaximumBackward0", "FmaxBackward0", "ClampMinBackward1", "ClampBackward0"):
        # One of the two carries no gradient and is 0 everywhere.
        constant = [k for k, (following, _) in enumerate(node.next_functions) if following is None]
        names = ("_saved_self", "_saved_min" if "Clamp" in name else "_saved_other")
        value = getattr(node, names[constant[0]], None) if constant else None
        return isinstance(value, Tensor) and not bool(value.any())
    return False
