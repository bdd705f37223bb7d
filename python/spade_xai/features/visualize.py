"""Feature visualisation: an input that a neuron responds to most (section 4.2 of the paper; Olah et al., 2017)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spade_ext.checks import check_finite, check_int, check_range, check_seed, check_tensor
from spade_xai.models.copies import check_model, duplicate, unwrap
from spade_xai.progress import Progress, reporting


def visualize(
    model: nn.Module,
    neuron: int,
    shape: Sequence[int],
    *,
    layer: str | None = None,
    start: Tensor | None = None,
    parametrization: str | None = None,
    steps: int = 256,
    rate: float = 0.05,
    jitter: int = 4,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
    progress: Progress = True,
) -> Tensor:
    """Maximise a neuron's response over inputs by Adam, from a seeded start.

    Images are sigmoid(F^-1(c / f)): their Fourier coefficients c are scaled by the inverse of the frequency f, so
    that no scale of detail learns faster than another, and values stay in (0, 1). Before each step the image is
    shifted at random by up to jitter pixels, which removes high-frequency patterns that respond only in one position.

    Args:
        model: Not modified. Sparse traces of a sample show the neuron's facet that the sample uses.
        neuron: Index of the logit, or of the channel of layer's outputs (averaged over positions).
        shape: Of one input: (C, H, W) for images, or any other.
        layer: Name of a module; None for the model's logits.
        start: First input, in the shape; only with parametrization "raw". None: small seeded noise.
        parametrization: "fourier" (default for images) or "raw": the values of the input themselves, unbounded.
        steps: Steps of Adam.
        rate: Its learning rate.
        jitter: Greatest shift in pixels; images only.
        mean: Of each channel in the model's preprocessing: the model is given (image - mean) / std.
        std: Of each channel in the model's preprocessing.
        seed: Of the start and the shifts.
        progress: True for a bar, or callback(stage, done, total).

    Returns:
        float32 in the shape; images of the Fourier parametrization in (0, 1), before preprocessing.

    Raises:
        TypeError: An argument is of another type.
        ValueError: An argument is out of its range, or the model's response is not finite.
    """
    function = "visualize"
    check_model(function, model)
    check_int(function, "neuron", neuron, 0)
    if not isinstance(shape, Sequence) or not len(shape):
        raise TypeError(f"{function}: shape must be a sequence of sizes, got {shape!r}")
    size = tuple(check_int(function, "shape", n, 1) for n in shape)
    check_int(function, "steps", steps, 1)
    check_range(function, "rate", rate, 0.0)
    check_int(function, "jitter", jitter, 0)
    check_seed(function, seed)
    if start is not None:
        check_finite(function, "start", check_tensor(function, "start", start))
    image = len(size) == 3
    kind = ("fourier" if image else "raw") if parametrization is None else parametrization
    if kind not in ("fourier", "raw") or (kind == "fourier" and not image):
        raise ValueError(
            "visualize: parametrization must be 'raw', or 'fourier' for a shape (C, H, W), "
            f"got {parametrization!r} for {size}"
        )
    if start is not None and (kind != "raw" or tuple(start.shape) != size):
        raise ValueError(
            f"visualize: start must have shape {size} and the raw parametrization, "
            f"got {tuple(start.shape)} and {kind!r}"
        )
    copy = duplicate(model)
    first = next(copy.parameters(), torch.zeros(()))
    generator = torch.Generator().manual_seed(seed)
    values = _start(size, kind, start, generator).to(first.device).requires_grad_()
    response = _Response(copy, neuron, layer)
    optimizer = torch.optim.Adam([values], lr=rate)
    shift = _per_channel("mean", mean, size, first.device)
    scale = _per_channel("std", std, size, first.device)
    with reporting(progress, "visualize") as report, torch.enable_grad():
        for step in range(steps):
            x = _decode(values, kind, size)
            if image and jitter:
                dy, dx = torch.randint(-jitter, jitter + 1, (2,), generator=generator).tolist()
                x = x.roll((dy, dx), (1, 2))
            x = x if shift is None else x - shift
            x = x if scale is None else x / scale
            # the gradient of the input alone: parameters may require gradients of their own
            (values.grad,) = torch.autograd.grad(-response(x[None].to(first.dtype)), values)
            optimizer.step()
            if report is not None:
                report(step + 1, steps)
    found = _decode(values, kind, size).detach()
    if not bool(found.isfinite().all()):
        raise ValueError(
            "visualize: model must give finite responses and gradients, got NaN or Inf"
        )
    return found


class _Response:
    """Mean activation of one neuron."""

    def __init__(self, model: nn.Module, neuron: int, layer: str | None) -> None:
        self.model, self.neuron, self.layer = model, neuron, layer
        self.output: Tensor | None = None
        if layer is not None:
            names = dict(model.named_modules())
            if layer not in names:
                raise ValueError(f"visualize: layer must name a module, got {layer!r}")
            names[layer].register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, args: object, output: Tensor) -> Tensor:
        self.output = output
        return output.clone()  # what follows in place must not touch the kept tensor

    def __call__(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        output = unwrap(logits) if self.layer is None else self.output
        if not isinstance(output, Tensor) or output.ndim < 2:
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"visualize: layer must be one that gives a tensor [1, neurons, ...], got {got} "
                f"of {self.layer!r}"
            )
        if not 0 <= self.neuron < output.shape[1]:
            raise ValueError(
                f"visualize: neuron must be in [0, {output.shape[1] - 1}], got {self.neuron}"
            )
        return output[:, self.neuron].mean()


def _start(
    size: tuple[int, ...], kind: str, start: Tensor | None, generator: torch.Generator
) -> Tensor:
    if kind == "raw":
        noise = torch.randn(size, generator=generator) * 0.01
        return noise if start is None else start.detach().float().cpu().clone()
    channels, height, width = size
    # [C, H, W // 2 + 1, 2]: real and imaginary parts
    return torch.randn(channels, height, width // 2 + 1, 2, generator=generator) * 0.01


def _decode(values: Tensor, kind: str, size: tuple[int, ...]) -> Tensor:
    """The input from its parametrization."""
    if kind == "raw":
        return values
    _, height, width = size
    fy = torch.fft.fftfreq(height, device=values.device)[:, None]
    fx = torch.fft.rfftfreq(width, device=values.device)
    frequency = (fy.square() + fx.square()).sqrt().clamp_min(1 / max(height, width))
    spectrum = torch.view_as_complex(values) / frequency
    pixels = torch.fft.irfft2(spectrum, s=(height, width), norm="ortho")
    return torch.sigmoid(pixels)


def _per_channel(
    name: str, values: Sequence[float] | None, size: tuple[int, ...], device: torch.device
) -> Tensor | None:
    if values is None:
        return None
    if not isinstance(values, (list, tuple)) or len(size) != 3 or len(values) != size[0]:
        raise ValueError(
            f"visualize: mean and std must have one value a channel of {size}, got {name}={values!r}"
        )
    for value in values:
        least = 0.0 if name == "std" else -float("inf")
        if check_range("visualize", name, value, least) == 0 and name == "std":
            raise ValueError("visualize: std must be above 0, got 0")
    return torch.tensor(values, device=device).view(-1, 1, 1)
