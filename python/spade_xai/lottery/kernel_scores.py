"""What a weight is worth by this project's kernels: on Hessians of training pictures, and by its effect on Grad-CAM.

"sparsegpt": w^2 / U_jj^2 with U the upper Cholesky factor of H^-1, as `sparsegpt_prune` scores a block as wide as the
layer. "obc": the loss at which exact OBC eliminates the weight, 0.5 w^2 / [H_K^-1]_jj for the set K that is left then.
"gradcam": |w| times the mean over pictures of |d M / d w|, M being the sum of the picture's Grad-CAM map.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from spade_ext import DampingWarning, damped_inverse, obc_trace
from spade_xai.lottery.masks import Masks
from spade_xai.models.copies import duplicate
from spade_xai.models.layers import find_layers
from spade_xai.tracing.hessians import Hessians

DAMP = 0.01


def hessian_scores(
    model: nn.Module, masks: Masks, images: Iterable[Tensor], method: str
) -> dict[str, Tensor]:
    """Scores of the weights of convolutions and linear layers, by "sparsegpt" or "obc".

    Args:
        model: Trained, for the images as given. Not modified.
        masks: Whose parameters to score. Weights of layers that the network does not use score |w|.
        images: Batches of normalised training pictures.
        method: "sparsegpt" or "obc".

    Raises:
        ValueError: A parameter belongs to no layer that can be pruned.
    """
    layers = {layer.parameters[0]: layer for layer in find_layers(model)}
    unknown = [name for name in masks if name not in layers]
    if unknown:
        raise ValueError(
            f"find_tickets: criterion {method!r} needs weights of layers that can be pruned, got {unknown[0]}"
        )
    chosen = [layers[name] for name in masks]
    hessians = Hessians(duplicate(model), chosen, "find_tickets")
    with torch.no_grad():
        hessians.run(images)
    scores = {}
    for name, layer in zip(masks, chosen, strict=True):
        hessian = hessians.take(layer)
        weight = layer.read(model) * layer.matrices(masks[name]).to(model.get_parameter(name))
        if hessian is None:
            score = weight.abs()
        else:
            score = _SCORED_BY[method](weight, hessian)
        scores[name] = layer.shaped(score.float()).reshape(masks[name].shape).cpu()
    return scores


def _sparsegpt(weight: Tensor, hessian: Tensor) -> Tensor:
    scores = []
    for w, h in zip(weight, hessian, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DampingWarning)
            inverse, _ = damped_inverse(h, DAMP)
        factor = torch.linalg.cholesky(inverse.double(), upper=True)
        score = (w.double() / factor.diagonal()).square()
        dead = h.diagonal() == 0  # inputs that are always 0: their weights go first
        scores.append(torch.where(dead, 0.0, score))
    return torch.stack(scores)


def _obc(weight: Tensor, hessian: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DampingWarning)
        order = obc_trace(weight, hessian, damp=DAMP)
    # A row goes in its own order: a later step costs at least what the row has cost so far.
    loss = order.loss.double().cummax(-1).values
    score = torch.zeros_like(loss)
    score.scatter_(-1, order.order.long(), loss)
    return score


def gradcam_scores(
    model: nn.Module,
    masks: Masks,
    pictures: Iterator[tuple[Tensor, Tensor]],
    differentiable_maps: Callable[[nn.Module, Tensor, Tensor], Tensor],
) -> dict[str, Tensor]:
    """|w| times the mean over pictures of |d sum(M) / d w|.

    Args:
        model: Trained. Not modified.
        masks: Whose parameters to score.
        pictures: Normalised images [1, C, H, W] and labels [1], one by one.
        differentiable_maps: Grad-CAM of network, images and labels with its graph.
    """
    copy = duplicate(model)
    weights = [copy.get_parameter(name).requires_grad_() for name in masks]
    totals = [torch.zeros_like(weight) for weight in weights]
    count = 0
    for image, label in pictures:
        total = differentiable_maps(copy, image, label).sum()
        if total.requires_grad:  # a map that is zero everywhere may depend on nothing
            for sum_, g in zip(
                totals, torch.autograd.grad(total, weights, allow_unused=True), strict=True
            ):
                if g is not None:
                    sum_ += g.abs()
        count += 1
    return {
        name: (weight.detach().abs() * total / max(count, 1)).cpu()
        for name, weight, total in zip(masks, weights, totals, strict=True)
    }


_SCORED_BY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"sparsegpt": _sparsegpt, "obc": _obc}
