"""The saliency methods behind one call: those of the SPADE paper (appendix A, Table 1) and their kin."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from spade_ext.checks import check_finite
from spade_xai.attribution.forward import Forward, Score, chosen_position, slices, targets
from spade_xai.attribution.layer import AtLayer, embedding_name
from spade_xai.attribution.method import Job
from spade_xai.attribution.methods import METHODS, OPTIONS, RECORDS, MethodName
from spade_xai.choices import misnamed
from spade_xai.exceptions import DegenerateMapWarning
from spade_xai.models.answers import check_real
from spade_xai.models.copies import check_model, duplicate
from spade_xai.models.inputs import check_count
from spade_xai.models.modes import outside_inference_mode
from spade_xai.progress import Progress, reporting

__all__ = ["METHODS", "OPTIONS", "attribute", "pixel_map"]


def attribute(
    model: nn.Module,
    x: Tensor,
    target: int | Sequence[int] | Tensor | Score | None = None,
    method: MethodName = "saliency",
    *,
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress = True,
    kwargs: dict[str, Any] | None = None,
    embedding: str | None = None,
    layer: str | None = None,
    position: int | Sequence[int] | Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Attribute the target's score of each input to the input's entries.

    Nothing depends on batch_size beyond rounding: random draws come from seed and are the same for every input.
    Neither the model nor the global random state is changed. Inputs and weights may come from inference mode.

    Args:
        model: Any classifier with outputs [B, classes] or an object that carries them as `.logits`; of one logit
            also [B]. Not modified.
        x: Inputs [B, ...], floating point, or token ids [B, T]. Not modified.
        target: Class of each input, one for all, or None for the class the model predicts. Class 0 of a model with one
            logit is that logit. A function gets the model's outputs, whatever they are, and returns one number per
            input, [B], to be explained.
        method: One of METHODS.
        batch_size: Inputs, perturbations or integration points in one pass of the model.
        seed: The seed of the draws of lime, gradient_shap and smooth_grad.
        progress: True for a bar over the inputs, or callback(stage, done, total).
        kwargs: Further arguments of the model's forward; tensors of first dimension B are split like x.
        embedding: For token ids: the name of the embedding layer; None asks `model.get_input_embeddings()`.
        layer: Name of a layer. grad_cam and guided_grad_cam weigh its feature map (default: the last one found). Other
            methods explain the layer's outputs in place of x, as captum's LayerGradientXActivation,
            LayerIntegratedGradients and the like; a baseline is then one of the layer's outputs.
        position: Which of the T positions of outputs [B, T, classes], as language models give them; one for all
            inputs or one per input, negative from the end.
        **options: Options of the method with their defaults in OPTIONS: `baseline` (a number or a tensor that
            broadcasts to x: what counts as no input), `steps`, `samples`, `noise` (standard deviation; of
            smooth_grad as a share of the input's range), `of` (the gradient method that smooth_grad averages) and
            `of_options`, `interpolation` (mode of F.interpolate, of feature maps), `window` and `stride` (entries, one
            number or one per side; default an eighth of each side and half a window), `features` (an integer map that
            broadcasts to x, of the segments lime switches; default about 64 of equal size), `alpha` (of lime's ridge
            regression), those of `lrp.relevance`.

    Returns:
        Attributions in the shape and dtype of x (of the layer's outputs); for token ids [B, T], summed over
        the embedding (magnitudes, of plain gradients). `pixel_map` reduces them to maps [B, H, W].

    Raises:
        ValueError, TypeError: An argument is not as above.

    Warns:
        CompletenessWarning: deep_lift's attributions do not sum to the difference of scores.
        PlainGradientWarning: Guided backpropagation found no ReLU.
        DegenerateMapWarning: Attributions of an input are all 0, or not finite.

    Source: Table 1 of the paper's appendix A. Plain gradients, integrated gradients, LIME and occlusion are captum's.

    Example:
        >>> import torch
        >>> from spade_xai import attribute
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> attribute(model, torch.rand(2, 3, 2, 2), method="input_x_gradient").shape
        torch.Size([2, 3, 2, 2])
    """
    _check(model, x, method, batch_size, seed)
    if callable(target) and position is not None:
        raise ValueError("attribute: position goes with a class, not with a function as target")
    record = RECORDS[method]
    settings = record.settings(options)
    # Tensors of inference mode cannot take part in a graph: all work is done on others, outside of it.
    with outside_inference_mode(), torch.enable_grad():
        at = None if record.feature_map else layer
        kwargs = {k: _usable(v) for k, v in (kwargs or {}).items()}
        inputs, forward = _prepared(
            model, _usable(x), kwargs, embedding, at, target, position, batch_size
        )
        classes = targets(forward, inputs, None if callable(target) else target, batch_size)
        tokens = not x.is_floating_point()
        out = []
        with reporting(progress, method) as report, _quiet():
            for part in slices(len(x), 1 if record.repeats else batch_size):
                job = Job(
                    forward, inputs[part], classes[part], forward.extra(part), batch_size,
                    seed % 2**63, tokens and at is None, layer if record.feature_map else None,
                )  # fmt: skip
                out.append(record.run(job, settings).detach().to(inputs.dtype))
                if report is not None:
                    report(min(part.stop, len(x)), len(x))
        result = torch.cat(out)
        _warn_if_degenerate(method, result)
        return record.of_tokens(result) if tokens and at is None else result


def pixel_map(attribution: Tensor, method: str | None = None) -> Tensor:
    """Reduce attributions [B, C, H, W] to maps [B, H, W], or [B, ..., E] over tokens alike.

    Gradient methods are reduced to the sum of magnitudes over channels, sum_c |a_c|: their sign is that of a change,
    not of importance. Maps of lrp, lime and occlusion, whose sign says for or against the target, keep it: sum_c a_c.

    Args:
        attribution: What `attribute` returned for images. Not modified.
        method: Its method; None takes magnitudes.

    Example:
        >>> import torch
        >>> from spade_xai import pixel_map
        >>> pixel_map(torch.randn(2, 3, 32, 32), "saliency").shape
        torch.Size([2, 32, 32])
    """
    if not isinstance(attribution, Tensor):
        raise TypeError(
            f"pixel_map: attribution must be a torch.Tensor, got {type(attribution).__name__}"
        )
    if method is not None and method not in METHODS:
        raise ValueError(f"pixel_map: {misnamed('method', METHODS, method)}")
    if attribution.ndim != 4:
        raise ValueError(
            f"pixel_map: attribution must have shape [B, C, H, W], got {tuple(attribution.shape)}"
        )
    signed = method is not None and RECORDS[method].signed
    return (attribution if signed else attribution.abs()).sum(1)


def _check(model: object, x: object, method: str, batch_size: int, seed: object) -> None:
    if method not in METHODS:
        raise ValueError(f"attribute: {misnamed('method', METHODS, method)}")
    check_model("attribute", model)
    x = check_real("attribute", "x", x)
    if x.ndim < 2 or len(x) == 0:
        raise ValueError(f"attribute: x must be a batch [B >= 1, ...], got shape {tuple(x.shape)}")
    if x.is_floating_point():
        check_finite("attribute", "x", x)
    check_count("attribute", "batch_size", batch_size)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"attribute: seed must be an int, got {type(seed).__name__}")


def _prepared(
    model: nn.Module,
    x: Tensor,
    kwargs: dict[str, Any],
    embedding: str | None,
    layer: str | None,
    target: Any,
    position: Any,
    batch_size: int,
) -> tuple[Tensor, Forward]:
    """The floating-point tensor to explain and the model as a function of it."""
    model = duplicate(model)
    count = len(x)
    score = target if callable(target) else None
    where = chosen_position(position, count, x.device)
    if layer is None and x.is_floating_point():
        return x.detach(), Forward(model, kwargs, count, score, where)
    lookup = layer is None
    at = AtLayer(model, embedding_name(model, embedding) if layer is None else layer, lookup)
    plain = Forward(nn.Identity(), kwargs, count)
    with torch.no_grad():
        read = [
            at.read(x[p], {**plain.fixed, **dict(zip(plain.split, plain.extra(p), strict=True))})
            for p in slices(count, count if lookup else batch_size)
        ]
    return torch.cat(read), Forward(at, {**kwargs, "at_input": x.detach()}, count, score, where)


def _usable(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def _warn_if_degenerate(method: str, result: Tensor) -> None:
    """Say so where the attributions of an input are all 0, or not finite."""
    flat = result.flatten(1).abs()
    broken = ~flat.sum(1).isfinite()
    empty = ~(flat > 0).any(1) & ~broken
    if not bool((broken | empty).any()):
        return
    for which, what in ((broken, "not finite"), (empty, "0 everywhere")):
        if bool(which.any()):
            found = which.nonzero()[:, 0].tolist()
            more = f"{len(found)} of {len(result)}"
            warnings.warn(
                f"attribute: attributions of {method} are {what} for {more} inputs, the first {found[0]}",
                DegenerateMapWarning,
                stacklevel=3,
            )


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
