"""Feature visualisation: an input that a neuron responds to most (section 4.2 of the paper; Olah et al., 2017)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from spade_ext.checks import check_finite, check_int, check_range, check_seed, check_tensor
from spade_xai.features.parametrization import Fourier, Maco, Raw
from spade_xai.features.response import Response
from spade_xai.features.transforms import RandomTransforms
from spade_xai.models.copies import check_model, duplicate
from spade_xai.progress import Progress, reporting

PARAMETRIZATIONS = ("fourier", "maco", "raw")

Transforms = Callable[[Tensor, torch.Generator], Tensor]
"""Takes images [B, C, H, W] and a generator, returns images that gradients flow through."""


def visualize(
    model: nn.Module,
    neuron: int,
    shape: Sequence[int],
    *,
    layer: str | None = None,
    position: int | Sequence[int] | None = None,
    batch: int | None = None,
    start: Tensor | None = None,
    parametrization: str | None = None,
    decorrelate: bool | None = None,
    spectrum: Tensor | None = None,
    transforms: Transforms | str | None = "lucid",
    steps: int = 512,
    rate: float = 0.05,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
    progress: Progress = True,
) -> Tensor:
    """Maximise a neuron's response over inputs by Adam, from a seeded start.

    Images are sigmoid(A F^-1(c / f) / 4): their Fourier coefficients c are scaled by the inverse of the frequency f
    and mixed by the colours A of photographs, so that no scale of detail and no direction of colour learns faster than
    another. Before each step the image is padded, shifted, scaled and rotated at random, which removes
    high-frequency patterns that respond only in one position.

    Args:
        model: Not modified. Sparse traces of a sample show the neuron's facet that the sample uses.
        neuron: Index of the logit, or of the channel of layer's outputs [B, neurons, ...], of sequences
            [B, places, neurons].
        shape: The shape of one input: (C, H, W) of images, or any other.
        layer: Name of a module; None for the model's logits.
        position: Row and column of the layer's feature map, or place in its sequence; None: mean over all.
        batch: Number of inputs, from different starts; None: one, without a dimension for them.
        start: First input, in the shape; only with parametrization "raw". None: small seeded noise.
        parametrization: "fourier" (default for images); "maco": images with the spectrum of photographs, whose phases
            alone are optimised; "raw": the values of the input themselves, unbounded.
        decorrelate: Whether to mix three channels by the colours of photographs; None: where there are three.
        spectrum: Magnitudes [C, H, W // 2 + 1] for "maco", as `mean_spectrum` gives them; None: `natural_spectrum`.
        transforms: "lucid": `RandomTransforms.for_size`; other `RandomTransforms`; any function of images and a
            generator; None: none. Images only.
        steps: Steps of Adam.
        rate: Its learning rate.
        mean: The mean of each channel in the model's preprocessing: the model is given (image - mean) / std.
        std: The standard deviation of each channel in the model's preprocessing.
        seed: The seed of the starts and the transforms.
        progress: True for a bar, or callback(stage, done, total).

    Returns:
        float32 in the shape, or [batch, *shape]; images, but raw ones, in (0, 1), before preprocessing.

    Raises:
        TypeError: An argument is of another type.
        ValueError: An argument is out of its range, or the model's response is not finite.

    Example:
        >>> import torch
        >>> from spade_xai import visualize
        >>> model = torch.nn.Linear(2, 2)
        >>> visualize(model, 1, (2,), steps=4).shape
        torch.Size([2])
    """
    function = "visualize"
    check_model(function, model)
    check_int(function, "neuron", neuron, 0)
    if not isinstance(shape, Sequence) or not len(shape):
        raise TypeError(f"{function}: shape must be a sequence of sizes, got {shape!r}")
    size = tuple(check_int(function, "shape", n, 1) for n in shape)
    count = 1 if batch is None else check_int(function, "batch", batch, 1)
    check_int(function, "steps", steps, 1)
    check_range(function, "rate", rate, 0.0)
    check_seed(function, seed)
    image = len(size) == 3
    generator = torch.Generator().manual_seed(seed)
    made = _parametrization(size, count, generator, parametrization, start, decorrelate, spectrum)
    transform = _transforms(transforms, size) if image else None
    copy = duplicate(model, frozen=True)
    first = next(copy.parameters(), torch.zeros(()))
    values = made.values.to(first.device).requires_grad_()
    response = Response(function, copy, neuron, layer, position)
    optimizer = torch.optim.Adam([values], lr=rate)
    shift = _per_channel("mean", mean, size, first.device)
    scale = _per_channel("std", std, size, first.device)
    with reporting(progress, function) as report, torch.enable_grad():
        for step in range(steps):
            x = made.inputs(values)
            x = x if transform is None else transform(x, generator)
            x = x if shift is None else x - shift
            x = x if scale is None else x / scale
            loss = -response(x.to(first.dtype)).sum()
            (values.grad,) = torch.autograd.grad(loss, values)
            optimizer.step()
            if report is not None:
                report(step + 1, steps)
    found = made.inputs(values).detach()
    if not bool(found.isfinite().all()):
        raise ValueError(
            "visualize: model must give finite responses and gradients, got NaN or Inf"
        )
    return found[0] if batch is None else found


def _parametrization(
    size: tuple[int, ...],
    count: int,
    generator: torch.Generator,
    kind: str | None,
    start: Tensor | None,
    decorrelate: bool | None,
    spectrum: Tensor | None,
) -> Fourier | Maco | Raw:
    image = len(size) == 3
    chosen = ("fourier" if image else "raw") if kind is None else kind
    if chosen not in PARAMETRIZATIONS or (chosen != "raw" and not image):
        raise ValueError(
            "visualize: parametrization must be 'raw', or 'fourier' or 'maco' for a shape (C, H, W), "
            f"got {kind!r} for {size}"
        )
    if start is not None:
        check_finite("visualize", "start", check_tensor("visualize", "start", start))
        if chosen != "raw" or tuple(start.shape) != size:
            raise ValueError(
                f"visualize: start must have shape {size} and the raw parametrization, "
                f"got {tuple(start.shape)} and {chosen!r}"
            )
    if decorrelate and (chosen == "raw" or size[0] != 3):
        raise ValueError(
            f"visualize: decorrelate must be False for {chosen!r} inputs {size}: it is about three colours"
        )
    if spectrum is not None:
        check_finite("visualize", "spectrum", check_tensor("visualize", "spectrum", spectrum))
        expected = (*size[:-1], size[-1] // 2 + 1)
        if chosen != "maco" or tuple(spectrum.shape) != expected:
            raise ValueError(
                f"visualize: spectrum must have shape {expected} and the parametrization 'maco', "
                f"got {tuple(spectrum.shape)} and {chosen!r}"
            )
    colors = image and size[0] == 3 if decorrelate is None else decorrelate
    if chosen == "raw":
        return Raw(size, count, generator, start)
    if chosen == "maco":
        return Maco(size, count, generator, colors, spectrum)
    return Fourier(size, count, generator, colors)


def _transforms(given: Transforms | str | None, size: tuple[int, ...]) -> Transforms | None:
    if given is None or callable(given):
        return given
    if given != "lucid":
        raise ValueError(
            f"visualize: transforms must be 'lucid', a function or None, got {given!r}"
        )
    return RandomTransforms.for_size(*size[1:])


def _per_channel(
    name: str, values: Sequence[float] | None, size: tuple[int, ...], device: torch.device
) -> Tensor | None:
    if values is None:
        return None
    if not isinstance(values, (list, tuple)) or len(size) != 3 or len(values) != size[0]:
        raise ValueError(
            f"visualize: mean and std must have one value per channel of {size}, got {name}={values!r}"
        )
    for value in values:
        least = 0.0 if name == "std" else -float("inf")
        if check_range("visualize", name, value, least) == 0 and name == "std":
            raise ValueError("visualize: std must be above 0, got 0")
    return torch.tensor(values, device=device).view(-1, 1, 1)
