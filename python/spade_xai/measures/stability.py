"""Similarity of gradients under noise on the input (appendix I of the paper)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spade_xai.attribution.forward import slices
from spade_xai.models.answers import check_finite_logits, check_real, class_logits
from spade_xai.models.copies import check_model, duplicate, find_module


def gradient_noise_similarity(
    model: nn.Module,
    x: Tensor,
    target: int,
    *,
    noise: float = 0.1,
    copies: int = 100,
    layers: Sequence[str] = (),
    batch_size: int = 64,
    seed: int = 0,
) -> dict[str, float]:
    """Mean cosine similarity between the gradients of noisy copies of one input, for every pair of copies.

    With unit gradients u_i the mean over pairs is (|sum_i u_i|^2 - n) / (n (n - 1)), so no pair is formed.

    Args:
        model: A classifier. Not modified.
        x: One input [1, ...], floating point. Not modified.
        target: The class whose logit is differentiated.
        noise: Standard deviation of the Gaussian noise, in units of x.
        copies: Noisy copies, n.
        layers: Names of modules; gradients with respect to their outputs.
        batch_size: Copies in one pass.
        seed: The seed of the noise.

    Returns:
        {"input": similarity, layer: similarity, ...}, each in [-1 / (n - 1), 1]. Copies with a zero gradient count 0.

    Source: appendix I (100 copies; its noise level is not given).
    """
    function = "gradient_noise_similarity"
    check_model(function, model)
    if not check_real(function, "x", x).is_floating_point():
        raise TypeError(f"{function}: x must be of floating point, got {x.dtype}")
    if not torch.isfinite(x).all():
        raise ValueError(f"{function}: x must be finite, got NaN or Inf")
    if x.ndim < 2 or len(x) != 1:
        raise ValueError(
            f"gradient_noise_similarity: x must be one input [1, ...], got shape {tuple(x.shape)}"
        )
    if not isinstance(copies, int) or copies < 2:
        raise ValueError(
            f"gradient_noise_similarity: copies must be an int of at least 2, got {copies}"
        )
    if not noise >= 0:
        raise ValueError(f"gradient_noise_similarity: noise must be at least 0, got {noise}")
    model = duplicate(model)
    modules = {name: find_module(model, name) for name in layers}
    unknown = [name for name, module in modules.items() if module is None]
    if unknown:
        raise ValueError(f"gradient_noise_similarity: layers must name modules, got {unknown}")
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: object, output: Tensor) -> Tensor:
            outputs[name] = output
            return output.clone()  # what follows in place must not touch the kept tensor

        return hook

    for name, module in modules.items():
        assert module is not None
        module.register_forward_hook(keep(name))
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(copies, *x.shape[1:], generator=generator) * noise
    sums: dict[str, Tensor] = {}  # of unit gradients
    nonzero: dict[str, Tensor] = {}
    finite = torch.ones((), dtype=torch.bool, device=x.device)
    for part in slices(copies, batch_size):
        noisy = (x.detach() + draws[part].to(x, non_blocking=True)).requires_grad_()
        with torch.enable_grad():
            logits = class_logits(function, model(noisy * 1), len(noisy))
            finite &= logits.isfinite().all()
            if not 0 <= target < logits.shape[1]:
                raise ValueError(
                    f"{function}: target must be in [0, {logits.shape[1] - 1}], got {target}"
                )
            logit = logits[:, target].sum()
        wanted = {"input": noisy, **{name: outputs[name] for name in layers}}
        gradients = torch.autograd.grad(logit, list(wanted.values()))
        for name, gradient in zip(wanted, gradients, strict=True):
            flat = gradient.flatten(1).double()
            units = flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-300)
            sums[name] = sums.get(name, torch.zeros_like(units[0])) + units.sum(0)
            count = (flat.abs().amax(1) > 0).sum()
            nonzero[name] = nonzero[name] + count if name in nonzero else count
    check_finite_logits(function, finite)
    pairs = copies * (copies - 1)
    return {
        name: float((total.square().sum() - nonzero[name]) / pairs) for name, total in sums.items()
    }
