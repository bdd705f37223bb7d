"""The values of each attribution method: by hand, by captum where it is right, by completeness."""

import warnings

import captum.attr
import pytest
import torch
from classifiers import FEW, Net, residual_case
from torch import nn
from torch.nn import functional as F

from spade_xai.attribution.attribute import attribute
from spade_xai.exceptions import CompletenessWarning
from spade_xai.models.prepare import prepare


@pytest.fixture
def case():
    return residual_case()


CAPTUM = {
    "deep_lift": lambda model, x, target: captum.attr.DeepLift(model).attribute(x, 0.1 * x, target),
    "guided_backprop": lambda model, x, target: captum.attr.GuidedBackprop(model).attribute(
        x, target
    ),
    "integrated_gradients": lambda model, x, target: captum.attr.IntegratedGradients(
        model
    ).attribute(x, 0.1 * x, target, n_steps=7),
    "occlusion": lambda model, x, target: captum.attr.Occlusion(model).attribute(
        x, (3, 4, 4), (3, 2, 2), 0.1 * x, target
    ),
}


@pytest.mark.parametrize("method", list(CAPTUM))
def test_is_captum_where_captum_is_right(case, method):
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(6 * 25, 4),
    ).double()  # fmt: skip
    _, x, target = case
    options = {
        "deep_lift": {"baseline": 0.1 * x[:1]},
        "integrated_gradients": {"baseline": 0.1 * x[:1], "steps": 7},
        "occlusion": {"baseline": 0.1 * x[:1], "window": 4, "stride": 2},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = CAPTUM[method](model, x[:1], target[:1]).detach()
    got = attribute(model, x[:1], target[:1], method, **options.get(method, {}))
    torch.testing.assert_close(got, expected.to(got), rtol=1e-6, atol=1e-9)


def test_saliency_is_the_gradient(case):
    model, x, target = case
    leaf = x.clone().requires_grad_()
    model(leaf).logits[range(3), target].sum().backward()
    torch.testing.assert_close(attribute(model, x, target, "saliency"), leaf.grad)
    torch.testing.assert_close(attribute(model, x, target, "input_x_gradient"), leaf.grad * x)


@pytest.mark.parametrize("method", ["deep_lift", "integrated_gradients"])
def test_completeness(case, method):
    model, x, target = case
    options = {"steps": 400} if method == "integrated_gradients" else {}
    got = attribute(model, x, target, method, baseline=0.2, **options)
    with torch.no_grad():
        logits, at_baseline = model(x).logits, model(torch.full_like(x, 0.2)).logits
    difference = (logits - at_baseline)[range(3), target]
    tolerance = 1e-9 if method == "deep_lift" else 2e-3
    torch.testing.assert_close(got.sum((1, 2, 3)), difference, rtol=tolerance, atol=tolerance)


class Modern(nn.Module):
    """Layer norm, GELU, a gate: captum's DeepLift is off on each."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.gate = nn.Conv2d(3, 8, 3), nn.LayerNorm(14), nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        x = F.gelu(self.norm(self.conv(x)))
        x = x * torch.sigmoid(self.gate(x))
        return self.fc(F.silu(x).mean((2, 3)))


def test_deep_lift_is_complete_with_gelu_layer_norm_and_gates(case):
    torch.manual_seed(0)
    model, x, target = Modern().double(), case[1], case[2]
    baseline = torch.full_like(x[:1], 0.1)
    with torch.no_grad():
        difference = (model(x) - model(baseline))[range(3), target]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = captum.attr.DeepLift(model).attribute(x, baseline, target)
    assert (plain.sum((1, 2, 3)) - difference).abs().max() > 1e-4
    got = attribute(model, x, target, "deep_lift", baseline=baseline)
    torch.testing.assert_close(got.sum((1, 2, 3)), difference, rtol=1e-9, atol=1e-12)


def test_deep_lift_warns_where_it_is_incomplete(case):
    class Detached(nn.Module):
        def forward(self, x):
            return (x * x.detach()).flatten(1)[:, :4]

    with pytest.warns(CompletenessWarning, match="miss the difference .* the model detaches data"):
        attribute(Detached(), case[1], 0, "deep_lift", baseline=0.5)

    class Jump(nn.Module):
        def forward(self, x):
            return torch.fmod(x * 30, 1.0).flatten(1)[:, :4]

    with pytest.warns(CompletenessWarning, match="averaged gradients of torch.fmod are not exact"):
        attribute(Jump(), case[1], 0, "deep_lift")


def test_guided_backprop_by_hand():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
    model[0].weight.data = torch.tensor([[1.0, 2.0], [3.0, 1.0]])
    model[2].weight.data = torch.tensor([[1.0, -1.0], [0.0, 1.0]])
    # Of the gradients 1 and -1 at the hidden units only the positive one passes.
    got = attribute(model, torch.tensor([[1.0, 1.0]]), 0, "guided_backprop")
    assert got.tolist() == [[1.0, 2.0]]


def test_guided_grad_cam_finds_or_takes_the_layer(case):
    model, x, target = case
    found = attribute(model, x, target, "guided_grad_cam", interpolation="nearest")
    prepared = prepare(Net(wrapped=False).double().eval(), x)
    prepared.load_state_dict(model.state_dict(), strict=False)
    last = [n for n, m in prepared.named_modules() if isinstance(m, nn.ReLU)][-1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        method = captum.attr.GuidedGradCam(prepared, prepared.get_submodule(last))
        expected = method.attribute(x, target)
    torch.testing.assert_close(found, expected.detach())
    named = attribute(model, x, target, "guided_grad_cam", layer="b")
    assert not torch.allclose(named, found)


def test_grad_cam_needs_feature_maps():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match="guided_grad_cam needs a layer with a feature map"):
        attribute(model, torch.ones(1, 1, 2, 2), 0, "guided_grad_cam")
    with pytest.raises(ValueError, match="guided_grad_cam needs x"):
        attribute(model, torch.ones(1, 4), 0, "guided_grad_cam")


def test_occlusion_and_lime_of_a_linear_model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2, bias=False)).double()
    x = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    share = x * model[1].weight[1].view(1, 1, 8, 8).detach()
    occlusion = attribute(model, x, 1, "occlusion", window=2, stride=2)
    blocks = F.avg_pool2d(share, 2) * 4  # removing a block lowers the output by its share
    torch.testing.assert_close(
        occlusion, F.interpolate(blocks, scale_factor=2.0), rtol=1e-4, atol=1e-6
    )
    features = torch.arange(4).view(2, 2).repeat_interleave(4, 0).repeat_interleave(4, 1)
    lime = attribute(model, x, 1, "lime", features=features, samples=64, alpha=1e-6)
    quarters = F.avg_pool2d(share, 4) * 16
    expected = F.interpolate(quarters, scale_factor=4.0)
    torch.testing.assert_close(lime, expected, rtol=1e-3, atol=1e-3)


def test_gradient_shap_of_a_linear_model_and_its_seeds(case):
    linear = nn.Sequential(nn.Flatten(), nn.Linear(768, 2)).double()
    x = case[1]
    got = attribute(linear, x, 0, "gradient_shap", noise=0.0, baseline=0.5)
    weight = linear[1].weight[0].view(x[0].shape).detach()
    torch.testing.assert_close(got, (x - 0.5) * weight)
    several = attribute(
        linear, x, 0, "gradient_shap", noise=0.0, baseline=torch.stack([x[0], x[1]])
    )
    between = torch.minimum((x - x[0]) * weight, (x - x[1]) * weight)
    assert (several >= between - 1e-12).all()
    model, _, target = case
    for method in ("gradient_shap", "lime"):
        runs = [attribute(model, x, target, method, seed=s, **FEW[method]) for s in (1, 1, 2)]
        assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
