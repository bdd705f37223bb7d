"""Classifiers and options of methods for the tests of attribution."""

from types import SimpleNamespace

import torch
from torch import nn

FEW = {
    "lime": {"samples": 24},
    "gradient_shap": {"samples": 6},
    "integrated_gradients": {"steps": 9},
    "smooth_grad": {"samples": 6},
}
POWER = {"guided_grad_cam": 2}
"""How maps grow with the logits, where it is not in proportion."""


class Net(nn.Module):
    """A residual network with a shared in-place ReLU and logits in an object, as transformers gives them."""

    def __init__(self, wrapped=True):
        super().__init__()
        self.wrapped = wrapped
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.norm, self.act = nn.BatchNorm2d(6), nn.ReLU(inplace=True)
        self.fc = nn.Linear(6, 4)

    def forward(self, x, scale=None):
        x = self.act(self.a(x))
        out = self.norm(self.b(x))
        out += x
        out = self.fc(self.act(out).mean((2, 3)))
        out = out if scale is None else out * scale
        return SimpleNamespace(logits=out) if self.wrapped else out


def residual_case():
    """A model with running statistics, three inputs and a class for each."""
    torch.manual_seed(0)
    model = Net().double()
    model(torch.randn(8, 3, 16, 16, dtype=torch.float64))  # running statistics
    return model.eval(), torch.randn(3, 3, 16, 16, dtype=torch.float64), torch.tensor([0, 3, 1])


class Scaled(nn.Module):
    """Two linear layers that read inputs of scales far apart."""

    def __init__(self, scale):
        super().__init__()
        self.scale, self.first, self.second = scale, nn.Linear(12, 6), nn.Linear(12, 4)

    def forward(self, x):
        return self.first(x * self.scale).sum(1, keepdim=True) * 0 + self.second(x)
