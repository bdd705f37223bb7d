from types import SimpleNamespace

import pytest
import torch
from torch import nn

from spade_xai.visualize import visualize


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
    visualize(model, 0, (1,), steps=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neuron": 5}, r"neuron must be in \[0, 1\], got 5"),
        ({"layer": "conv"}, "layer must name a module, got 'conv'"),
        ({"parametrization": "fourier"}, "parametrization must be 'raw', or 'fourier' for a shape"),
        ({"start": torch.zeros(3)}, r"start must have shape \(2,\)"),
        ({"mean": [0.5]}, r"mean and std must have one value a channel of \(2,\), got 1"),
    ],
)
def test_errors(options, message):
    arguments = {"model": Distance([0.0, 0.0], [1.0, 1.0]), "neuron": 0, "shape": (2,)} | options
    with pytest.raises(ValueError, match=f"visualize: {message}"):
        visualize(**arguments)
