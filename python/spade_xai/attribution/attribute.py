"""The ten attribution methods of the SPADE paper (appendix A, Table 1) behind one call."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from spade_ext.checks import check_finite
from spade_xai.attribution.forward import inputs_and_forward, slices, targets
from spade_xai.attribution.methods import RUN, Job
from spade_xai.models.inputs import check_count
from spade_xai.progress import Progress, reporting

# Options of each method with their defaults; None means a default that depends on the input.
OPTIONS: dict[str, dict[str, Any]] = {
    "saliency": {},
    "input_x_gradient": {},
    "deep_lift": {"baseline": 0.0},
    "lrp": {"rule": "alpha_beta", "alpha": 1.0, "epsilon": 1e-6, "bias": False, "bounds": None},
    "guided_backprop": {},
    "guided_grad_cam": {"layer": None, "interpolation": "bilinear"},
    "lime": {"baseline": 0.0, "samples": 256, "features": None, "alpha": 1.0},
    "occlusion": {"baseline": 0.0, "window": None, "stride": None},
    "integrated_gradients": {"baseline": 0.0, "steps": 50},
    "gradient_shap": {"baseline": 0.0, "samples": 32, "noise": 0.09},
}
METHODS = tuple(OPTIONS)
# Methods that hook modules need the rewritten copy, LRP also one with batch norms folded.
_PREPARATION = {
    "deep_lift": "plain",
    "guided_backprop": "plain",
    "guided_grad_cam": "plain",
    "lrp": "fused",
}
# Methods whose sign says for or against the target; the others are summed by magnitude.
_SIGNED = {"lrp", "lime", "occlusion"}


def attribute(
    model: nn.Module,
    x: Tensor,
    target: int | Sequence[int] | Tensor | None = None,
    method: str = "saliency",
    *,
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress = True,
    kwargs: dict[str, Any] | None = None,
    embedding: str | None = None,
    **options: Any,
) -> Tensor:
    """Attribute the target logit of each input to the input's entries.

    Nothing depends on batch_size beyond rounding: random draws come from seed and are the same for every input.
    Neither the model nor the global random state is changed.

    Args:
        model: Any classifier with outputs [B, classes] or an object that carries them as `.logits`. A model that
            comes from `prepare` is used as it is, which saves its preparation in repeated calls.
        x: Inputs [B, ...], floating point, or token ids [B, T]. Not modified.
        target: Class of each input, one for all, or None for the class the model predicts.
        method: One of METHODS.
        batch_size: Inputs, perturbations or integration points in one pass of the model.
        seed: Of the draws of lime and gradient_shap.
        progress: True for a bar over the inputs, or callback(stage, done, total).
        kwargs: Further arguments of the model's forward; tensors of first dimension B are split like x.
        embedding: For token ids: the name of the embedding layer; None asks `model.get_input_embeddings()`.
        **options: Options of the method with their defaults in OPTIONS: `baseline` (a number or a tensor that
            broadcasts to x: what counts as no input), `steps`, `samples`, `noise` (standard deviation), `layer`
            (name; default: the last one with a feature map of more than one position), `window` and
            `stride` (pixels; default an eighth of the image and half a window), `features` (an integer map that
            broadcasts to x, of the segments lime switches; default an 8 x 8 grid), `alpha` (of lime's ridge
            regression), those of `lrp.relevance`.

    Returns:
        Attributions in the shape and dtype of x; for token ids [B, T], summed over
        the embedding (magnitudes, of plain gradients). `pixel_map` reduces them to maps [B, H, W].

    Raises:
        ValueError, TypeError: An argument is not as above.

    Source: Table 1 of the paper's appendix A; all through captum except LRP.
    """
    allowed = _check(model, x, method, batch_size, seed, options)
    wanted = _PREPARATION.get(method)
    inputs, forward = inputs_and_forward(model, x, kwargs, embedding, wanted)
    classes = targets(forward, x, inputs, target, batch_size)
    settings = {**allowed, **options}
    run = RUN[method]
    # Sampling and perturbing methods repeat an input many times: one input at a time fills the batch.
    repeats = method in ("lime", "occlusion", "integrated_gradients", "gradient_shap")
    size = 1 if repeats else batch_size
    out = []
    with reporting(progress, method) as report, _quiet():
        for part in slices(len(x), size):
            job = Job(
                forward, inputs[part], classes[part], forward.extra(part), batch_size, seed % 2**63
            )
            out.append(run(job, settings).detach().to(inputs.dtype))
            if report is not None:
                report(min(part.stop, len(x)), len(x))
    result = torch.cat(out)
    if x.is_floating_point():
        return result
    if method in ("lime", "occlusion"):  # a token's one value at each entry of its embedding
        return result.mean(-1)
    if method in ("saliency", "guided_backprop"):  # layer norm makes gradients sum to 0
        return result.abs().sum(-1)
    return result.sum(-1)


def pixel_map(attribution: Tensor, method: str | None = None) -> Tensor:
    """Reduce attributions [B, C, H, W] to maps [B, H, W], or [B, ..., E] over tokens alike.

    Gradient methods are reduced to the sum of magnitudes over channels, sum_c |a_c|: their sign is that of a change,
    not of importance. Maps of lrp, lime and occlusion, whose sign says for or against the target, keep it: sum_c a_c.

    Args:
        attribution: What `attribute` returned for images. Not modified.
        method: Its method; None takes magnitudes.
    """
    if not isinstance(attribution, Tensor):
        raise TypeError(
            f"pixel_map: attribution must be a torch.Tensor, got {type(attribution).__name__}"
        )
    if method is not None and method not in METHODS:
        raise ValueError(f"pixel_map: method must be one of {', '.join(METHODS)}, got {method!r}")
    if attribution.ndim != 4:
        raise ValueError(
            f"pixel_map: attribution must have shape [B, C, H, W], got {tuple(attribution.shape)}"
        )
    return (attribution if method in _SIGNED else attribution.abs()).sum(1)


def _check(
    model: object, x: object, method: str, batch_size: int, seed: object, options: dict[str, Any]
) -> dict[str, Any]:
    if method not in OPTIONS:
        raise ValueError(f"attribute: method must be one of {', '.join(METHODS)}, got {method!r}")
    if not isinstance(model, nn.Module):
        raise TypeError(f"attribute: model must be an nn.Module, got {type(model).__name__}")
    if not isinstance(x, Tensor):
        raise TypeError(f"attribute: x must be a torch.Tensor, got {type(x).__name__}")
    if x.ndim < 2 or len(x) == 0:
        raise ValueError(f"attribute: x must be a batch [B >= 1, ...], got shape {tuple(x.shape)}")
    if x.is_floating_point():
        check_finite("attribute", "x", x)
    check_count("attribute", "batch_size", batch_size)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"attribute: seed must be an int, got {type(seed).__name__}")
    for name in options:
        if name not in OPTIONS[method]:
            known = ", ".join(OPTIONS[method]) or "none"
            raise TypeError(f"attribute: options of {method} are {known}, got {name!r}")
    return OPTIONS[method]


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop captum's warnings about hooks it sets and removes and about gradients it asks for."""
    with warnings.catch_warnings():
        for text in (
            ".*[Ss]etting (forward|backward).*hooks",
            ".*required_grads",
            ".*Input Tensor",
        ):
            warnings.filterwarnings("ignore", message=text)
        warnings.filterwarnings("ignore", message=".*non-full backward hook.*")
        yield
