"""What an optimised input is a function of: its Fourier coefficients, their phases alone, or its own values."""

from collections.abc import Sequence

import torch
from torch import Tensor

# Columns: directions of colour in ImageNet's photographs, each times its standard deviation; Lucid's values. Divided by
# the largest norm of a column.
COLORS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
LUCID_SCALE = 4.0  # divides the coefficients
# Of a photograph's logits along the directions of COLORS, and how their magnitudes fall with the frequency: measured on
# 72 photographs.
MACO_DEVIATIONS = (1.6, 1.5, 1.5)
MACO_EXPONENT = 1.4
START = 0.01  # standard deviation of the first values


class Raw:
    """The values of the input themselves, unbounded."""

    def __init__(
        self, size: Sequence[int], batch: int, generator: torch.Generator, start: Tensor | None
    ) -> None:
        if start is None:
            self.values = torch.randn(batch, *size, generator=generator) * START
        else:
            self.values = start.detach().float().cpu().expand(batch, *size).clone()

    def inputs(self, values: Tensor) -> Tensor:
        """[B, ...] to inputs of the same shape."""
        return values


class Fourier:
    """Images sigmoid(A F^-1(c / f) / 4): no scale of detail and no direction of colour learns faster than another.

    c are Fourier coefficients, f their frequencies, A the colours of photographs (for three channels).

    Source: Olah et al. (Distill 2017); Lucid.
    """

    def __init__(
        self, size: Sequence[int], batch: int, generator: torch.Generator, decorrelate: bool
    ) -> None:
        channels, height, width = size
        self.height, self.width, self.decorrelate = height, width, decorrelate
        # real and imaginary parts
        shape = (batch, channels, height, width // 2 + 1, 2)
        self.values = torch.randn(shape, generator=generator) * START

    def inputs(self, values: Tensor) -> Tensor:
        """[B, C, H, W // 2 + 1, 2] to images [B, C, H, W] in (0, 1)."""
        frequency = _frequencies(self.height, self.width).to(values.device)
        spectrum = torch.view_as_complex(values) / (LUCID_SCALE * frequency)
        return _image(spectrum, self.height, self.width, self.decorrelate)


class Maco:
    """Images whose Fourier coefficients have the magnitudes of photographs; only their phases are optimised.

    Source: Fel et al., "Unlocking Feature Visualization for Deeper Networks with MAgnitude Constrained Optimization"
    (NeurIPS 2023).
    """

    def __init__(
        self,
        size: Sequence[int],
        batch: int,
        generator: torch.Generator,
        decorrelate: bool,
        spectrum: Tensor | None,
    ) -> None:
        channels, self.height, self.width = size
        self.decorrelate = decorrelate
        if spectrum is None:
            spectrum = natural_spectrum(channels, self.height, self.width)
        self.magnitudes = spectrum.float()
        shape = (batch, channels, self.height, self.width // 2 + 1)
        self.values = (torch.rand(shape, generator=generator) * 2 - 1) * torch.pi

    def inputs(self, values: Tensor) -> Tensor:
        """Phases [B, C, H, W // 2 + 1] to images [B, C, H, W] in (0, 1)."""
        magnitudes = self.magnitudes.to(values.device)
        spectrum = torch.polar(magnitudes.expand_as(values), values)
        return _image(spectrum, self.height, self.width, self.decorrelate)


def natural_spectrum(channels: int, height: int, width: int) -> Tensor:
    """Magnitudes that fall with the frequency as those of photographs do on average, f^-1.4, [C, H, W // 2 + 1].

    Those of three channels belong to the directions of COLORS, with MACO_DEVIATIONS.
    """
    magnitudes = _frequencies(height, width) ** -MACO_EXPONENT
    magnitudes[0, 0] = 0.0  # the mean: grey
    fx = torch.arange(magnitudes.shape[1])
    once = (fx == 0) | (2 * fx == width)  # the other columns stand for two frequencies, f and -f
    power = (magnitudes.square() * torch.where(once, 1.0, 2.0)).sum() / (height * width)
    deviations = MACO_DEVIATIONS if channels == 3 else MACO_DEVIATIONS[:1] * channels
    return torch.stack([deviation / power.sqrt() * magnitudes for deviation in deviations])


def mean_spectrum(images: Tensor, decorrelate: bool | None = None) -> Tensor:
    """Mean magnitudes of the Fourier coefficients of images, for MACO in place of `natural_spectrum`.

    Of logit(x) along the directions of COLORS, so that images made from the magnitudes are as varied as these.

    Args:
        images: [N, C, H, W] in [0, 1]. Not modified.
        decorrelate: Whether to go to the directions of COLORS; None: for three channels.

    Returns:
        float32 [C, H, W // 2 + 1].
    """
    values = torch.logit(images.float(), eps=0.02)
    if decorrelate or (decorrelate is None and images.shape[1] == 3):
        values = torch.einsum("dc,bchw->bdhw", torch.linalg.inv(_colors()), values)
    return torch.fft.rfft2(values, norm="ortho").abs().mean(0)


def _image(spectrum: Tensor, height: int, width: int, decorrelate: bool) -> Tensor:
    pixels = torch.fft.irfft2(spectrum, s=(height, width), norm="ortho")
    if decorrelate:
        pixels = torch.einsum("dc,bchw->bdhw", _colors().to(pixels.device), pixels)
    return torch.sigmoid(pixels)


def _frequencies(height: int, width: int) -> Tensor:
    """|f| in cycles per pixel, [H, W // 2 + 1], at least one cycle per image."""
    fy, fx = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)
    return (fy.square() + fx.square()).sqrt().clamp_min(1 / max(height, width))


def _colors() -> Tensor:
    colors = torch.tensor(COLORS)
    return colors / colors.norm(dim=0).max()
