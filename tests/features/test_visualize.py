from types import SimpleNamespace

import pytest
import torch
from torch import nn

from spade_xai.features.parametrization import (
    MACO_DEVIATIONS,
    Fourier,
    mean_spectrum,
    natural_spectrum,
)
from spade_xai.features.visualize import visualize


class Distance(nn.Module):
    """Logit k is highest at the k-th point."""

    def __init__(self, *points):
        super().__init__()
        self.points = nn.Parameter(torch.tensor(points))

    def forward(self, x):
        return SimpleNamespace(logits=-(x[:, None] - self.points).square().flatten(2).sum(2))


def test_finds_the_optimum_of_a_neuron():
    model = Distance([1.0, 2.0], [-3.0, 0.5])
    for k in range(2):
        found = visualize(model, k, (2,), steps=400, rate=0.05)
        torch.testing.assert_close(found, model.points[k].detach(), atol=0.02, rtol=0)
    assert model.points.grad is None


def test_starts_where_told():
    class Bumps(nn.Module):
        """Two local optima, at 3 and -3."""

        def forward(self, x):
            return torch.exp(-((x - 3) ** 2)) + 0.5 * torch.exp(-((x + 3) ** 2))

    near = visualize(Bumps(), 0, (1,), start=torch.tensor([-2.0]), steps=300)
    assert near.item() == pytest.approx(-3, abs=0.05)
    near = visualize(Bumps(), 0, (1,), start=torch.tensor([2.0]), steps=300)
    assert near.item() == pytest.approx(3, abs=0.05)


def test_image_of_a_channel_matches_its_filter():
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 2, 3, bias=False)
    conv.weight.data[1] = torch.tensor([[[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]]) / 4
    model = nn.Sequential(conv, nn.ReLU(inplace=True), nn.Flatten(), nn.LazyLinear(2))
    model(torch.zeros(1, 1, 16, 16))
    options = {"steps": 60, "mean": [0.5], "std": [0.25]}
    image = visualize(model, 1, (1, 16, 16), layer="0", **options)
    assert image.shape == (1, 16, 16) and image.min() >= 0 and image.max() <= 1
    response = conv((image[None] - 0.5) / 0.25)[0, 1].mean()
    assert response > conv((torch.rand(8, 1, 16, 16) - 0.5) / 0.25)[:, 1].mean((1, 2)).max() + 0.1
    again = visualize(model, 1, (1, 16, 16), layer="0", **options)
    assert torch.equal(image, again)
    other = visualize(model, 1, (1, 16, 16), layer="0", seed=1, **options)
    assert not torch.equal(image, other)
    assert not conv._forward_hooks and model[1].inplace
    assert all(p.grad is None for p in model.parameters())


def test_progress():
    seen = []
    model = Distance([0.0])
    visualize(
        model, 0, (1,), steps=3, progress=lambda stage, done, total: seen.append((done, total))
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neuron": 5}, r"neuron must be in \[0, 1\], got 5"),
        ({"layer": "conv"}, "layer must name a module, got 'conv'"),
        ({"parametrization": "fourier"}, "parametrization must be 'raw', or 'fourier' or 'maco'"),
        ({"parametrization": "pixels"}, "parametrization must be 'raw', or .* got 'pixels'"),
        ({"position": 0}, r"position must be one of the layer's \(\) places, got \(0,\)"),
        ({"position": -1}, "position must be at least 0, got -1"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"decorrelate": True}, r"decorrelate must be False for 'raw' inputs \(2,\)"),
        (
            {"shape": (3, 8, 8), "spectrum": torch.ones(3, 8, 8)},
            r"spectrum must have shape \(3, 8, 5\)",
        ),
        ({"shape": (3, 8, 8), "transforms": "jitter"}, "transforms must be 'lucid', a function or"),
        ({"start": torch.zeros(3)}, r"start must have shape \(2,\)"),
        (
            {"mean": [0.5]},
            r"mean and std must have one value per channel of \(2,\), got mean=\[0.5\]",
        ),
        ({"std": 1.0}, r"mean and std must have one value per channel of \(2,\), got std=1.0"),
        ({"neuron": -1}, "neuron must be at least 0, got -1"),
        ({"shape": (0,)}, "shape must be at least 1, got 0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"rate": float("nan")}, r"rate must be in \[0.0, inf\], got nan"),
        ({"seed": 2**70}, "seed must be at most"),
        ({"start": torch.full((2,), torch.nan)}, "start must be finite, got 2 NaN or Inf"),
    ],
)
def test_errors(options, message):
    arguments = {"model": Distance([0.0, 0.0], [1.0, 1.0]), "neuron": 0, "shape": (2,)} | options
    with pytest.raises(ValueError, match=f"visualize: {message}"):
        visualize(**arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": None}, "model must be an nn.Module, got NoneType"),
        ({"neuron": 1.0}, "neuron must be an int, got float"),
        ({"shape": 5}, "shape must be a sequence of sizes, got 5"),
        ({"steps": 1.5}, "steps must be an int, got float"),
        ({"seed": "a"}, "seed must be an int, got str"),
        ({"start": 5}, "start must be a torch.Tensor, got int"),
    ],
)
def test_wrong_types(options, message):
    arguments = {"model": Distance([0.0, 0.0], [1.0, 1.0]), "neuron": 0, "shape": (2,)} | options
    with pytest.raises(TypeError, match=f"visualize: {message}"):
        visualize(**arguments)


@pytest.mark.parametrize("std", [(0, 1, 1), (1, -1, 1), (1, 1, float("nan"))])
def test_a_deviation_is_above_zero(std):
    with pytest.raises(ValueError, match="visualize: std must be"):
        visualize(torch.nn.Flatten(), 0, (3, 4, 4), std=std)


def test_responses_that_are_not_finite():
    model = torch.nn.Linear(2, 2)
    model.weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match="visualize: model must give finite responses"):
        visualize(model, 0, (2,), steps=2)


def test_a_layer_that_is_not_used():
    model = torch.nn.Linear(2, 2)
    model.other = torch.nn.Identity()
    model.forward = lambda x: x
    with pytest.raises(
        ValueError, match=r"layer must be one that gives .* got NoneType of 'other'"
    ):
        visualize(model, 0, (2,), layer="other")


def test_a_position_of_a_layer():
    """Where the layer's map is watched at one place, only the pixels that this place sees change from grey."""
    conv = nn.Conv2d(1, 1, 3, bias=False)
    conv.weight.data.fill_(1.0)
    model = nn.Sequential(conv, nn.Flatten())
    options = {
        "layer": "0",
        "parametrization": "raw",
        "start": torch.zeros(1, 8, 8),
        "transforms": None,
    }
    found = visualize(model, 0, (1, 8, 8), position=(1, 2), steps=5, **options)
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[1:4, 2:5] = True
    assert torch.equal(found[0] > 0, expected)
    with pytest.raises(ValueError, match=r"position must be one of the layer's \(6, 6\) places"):
        visualize(model, 0, (1, 8, 8), position=(6, 0), steps=1, **options)


def test_a_place_and_a_neuron_of_a_sequence():
    """Outputs [B, places, neurons]: the neuron is the last dimension."""
    model = nn.Sequential(nn.Unflatten(1, (4, 2)), nn.Linear(2, 3, bias=False), nn.Flatten())
    found = visualize(model, 2, (8,), layer="1", position=3, steps=5, start=torch.zeros(8))
    assert found.nonzero().flatten().tolist() == [6, 7]
    assert torch.equal(found[6:].sign(), model[1].weight[2].sign())


def test_a_batch_starts_from_different_noise():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    both = visualize(model, 0, (3, 4, 4), batch=2, steps=3, transforms=None)
    assert both.shape == (2, 3, 4, 4) and not torch.equal(both[0], both[1])


def test_maco_keeps_the_spectrum():
    """Only phases are optimised: the magnitudes of the result are those that were given."""
    images = torch.rand(3, 1, 12, 16) * 0.8 + 0.1
    spectrum = mean_spectrum(images)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12 * 16, 2))
    options = {"parametrization": "maco", "spectrum": spectrum, "transforms": None}
    found = visualize(model, 1, (1, 12, 16), steps=20, **options)
    got = torch.fft.rfft2(torch.logit(found), norm="ortho").abs()
    real = [0, 8]  # columns that stand for themselves: the imaginary part of their sum drops out
    inner = [k for k in range(9) if k not in real]
    torch.testing.assert_close(got[..., inner], spectrum[..., inner], rtol=1e-3, atol=1e-3)
    other = visualize(model, 1, (1, 12, 16), steps=1, **options)
    assert model(found[None])[0, 1] > model(other[None])[0, 1]


def test_the_natural_spectrum_has_its_deviations():
    """Random phases give the deviation of pixels that is promised, for odd and even widths."""
    for width in (16, 17):
        spectrum = natural_spectrum(3, 15, width)
        phases = (torch.rand(64, *spectrum.shape) * 2 - 1) * torch.pi
        waves = torch.polar(spectrum.expand_as(phases), phases)
        found = torch.fft.irfft2(waves, s=(15, width), norm="ortho").square().mean((0, 2, 3)).sqrt()
        torch.testing.assert_close(found, torch.tensor(MACO_DEVIATIONS), rtol=0.1, atol=0)


def test_decorrelated_colors():
    """A step along the strongest direction of colour is grey: all three channels change alike."""
    values = torch.zeros(1, 3, 4, 3, 2)
    values[:, 0, 0, 0, 0] = 1.0
    made = Fourier((3, 4, 4), 1, torch.Generator(), True)
    pixels = torch.logit(made.inputs(values))[0, :, 0, 0]
    assert pixels.max() / pixels.min() < 1.05
    assert torch.allclose(made.inputs(torch.zeros_like(values)), torch.tensor(0.5))
