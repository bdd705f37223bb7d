"""Guided backpropagation guides every ReLU, however it is written, and says where there is none."""

import warnings

import captum.attr
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from spade_xai import attribute
from spade_xai.exceptions import PlainGradientWarning

SPELLINGS = {
    "module": nn.ReLU(),
    "module in place": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "torch.relu": torch.relu,
    "x.relu()": lambda x: x.relu(),
    "x.relu_()": lambda x: x.relu_(),
    "clamp": lambda x: x.clamp(min=0),
    "clamp_": lambda x: x.clamp_(min=0),
    "clamp_min": lambda x: x.clamp_min(0.0),
    "clamp with a tensor": lambda x: x.clamp(min=torch.zeros(())),
    "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "max": lambda x: torch.max(torch.zeros(()), x),
    "fmax": lambda x: torch.fmax(x, torch.zeros(())),
    "threshold": lambda x: F.threshold(x, 0.0, 0.0),
}
BOUNDED = {
    "ReLU6": nn.ReLU6(),
    "F.relu6": F.relu6,
    "hardtanh(0, 6)": lambda x: F.hardtanh(x, 0.0, 6.0),
    "clamp(0, 6)": lambda x: x.clamp(0, 6),
    "relu.clamp": lambda x: F.relu(x).clamp(max=6),
}
NOT_GUIDED = [nn.LeakyReLU(0.1), nn.PReLU(), nn.GELU(), nn.SiLU(), nn.Hardtanh(), nn.ELU(), nn.Hardswish()]  # fmt: skip


class Branching(nn.Module):
    """Cannot be traced by torch.fx; the inner block takes two arguments."""

    def __init__(self, act):
        super().__init__()
        self.a, self.b, self.h = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 5)
        self.inner = Inner(act)
        self.act = act

    def forward(self, x):
        x = self.inner(self.a(x), 1.0)
        if x.sum() < -1e9:
            x = -x
        return self.h(self.act(self.b(x)).mean((2, 3)))


class Inner(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.act = act

    def forward(self, x, scale):
        return self.act(x * scale)


def network(act):
    torch.manual_seed(0)
    return Branching(act).double().eval()


def guided(act, x):
    with warnings.catch_warnings():
        warnings.simplefilter("error", PlainGradientWarning)
        return attribute(network(act), x, 0, "guided_backprop", progress=False)


@pytest.fixture
def x():
    return torch.randn(2, 3, 16, 16, dtype=torch.float64)


@pytest.fixture
def by_captum(x):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 5),
    ).double()  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return captum.attr.GuidedBackprop(model).attribute(x, target=0)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_guided(spelling, x, by_captum):
    torch.testing.assert_close(guided(SPELLINGS[spelling], x), by_captum)
    assert not torch.allclose(
        attribute(network(SPELLINGS[spelling]), x, 0, progress=False), by_captum
    )


@pytest.mark.parametrize("spelling", BOUNDED)
def test_relu6_is_guided(spelling, x):
    expected = guided(BOUNDED["relu.clamp"], 20 * x)
    torch.testing.assert_close(guided(BOUNDED[spelling], 20 * x), expected)
    assert not torch.allclose(guided(F.relu, 20 * x), expected)


@pytest.mark.parametrize("act", NOT_GUIDED, ids=lambda act: type(act).__name__)
def test_others_are_not_guided_and_said_so(act, x):
    model = network(act)
    with pytest.warns(PlainGradientWarning, match="found no ReLU .* the plain gradient"):
        got = attribute(model, x, 0, "guided_backprop", progress=False)
    torch.testing.assert_close(got, attribute(model, x, 0, progress=False))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_parts_are_guided_or_refused(reentrant, x, by_captum):
    def act(v):
        return checkpoint(F.relu, v, use_reentrant=reentrant)

    if reentrant:
        with pytest.raises(ValueError, match=r"must see the functions .* a part \(Check"):
            guided(act, x)
    else:
        torch.testing.assert_close(guided(act, x), by_captum)


def test_guided_grad_cam_takes_the_guided_gradient(x):
    model = network(F.relu)
    cam = attribute(model, x, 0, "grad_cam", progress=False).sum(1, keepdim=True)
    expected = cam * guided(F.relu, x)
    got = attribute(model, x, 0, "guided_grad_cam", progress=False)
    torch.testing.assert_close(got, expected)
