from types import SimpleNamespace

import pytest
import torch
from torch import nn

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
    options = {"steps": 60, "jitter": 2, "mean": [0.5], "std": [0.25]}
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
        ({"parametrization": "fourier"}, "parametrization must be 'raw', or 'fourier' for a shape"),
        ({"start": torch.zeros(3)}, r"start must have shape \(2,\)"),
        (
            {"mean": [0.5]},
            r"mean and std must have one value a channel of \(2,\), got mean=\[0.5\]",
        ),
        ({"std": 1.0}, r"mean and std must have one value a channel of \(2,\), got std=1.0"),
        ({"neuron": -1}, "neuron must be at least 0, got -1"),
        ({"shape": (0,)}, "shape must be at least 1, got 0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"rate": float("nan")}, r"rate must be in \[0.0, inf\], got nan"),
        ({"jitter": -1}, "jitter must be at least 0, got -1"),
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
