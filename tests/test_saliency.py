import copy
import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import captum.attr
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from spade_xai import metrics
from spade_xai.prepare import prepare
from spade_xai.saliency import METHODS, OPTIONS, attribute, pixel_map

GRADIENT = [m for m in METHODS if m not in ("lime", "occlusion")]
FEW = {
    "lime": {"samples": 24},
    "gradient_shap": {"samples": 6},
    "integrated_gradients": {"steps": 9},
}


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


@pytest.fixture
def case():
    torch.manual_seed(0)
    model = Net().double()
    model(torch.randn(8, 3, 16, 16, dtype=torch.float64))  # running statistics
    return model.eval(), torch.randn(3, 3, 16, 16, dtype=torch.float64), torch.tensor([0, 3, 1])


@pytest.mark.parametrize("method", METHODS)
def test_does_not_depend_on_batching(case, method):
    model, x, target = case
    options = FEW.get(method, {})
    whole = attribute(model, x, target, method, **options)
    assert whole.shape == x.shape and whole.dtype == x.dtype and whole.abs().sum() > 0
    close = {"rtol": 1e-9, "atol": 1e-12}
    if method in ("lime", "occlusion"):  # captum computes these in float32
        close = {"rtol": 1e-4, "atol": 1e-6}
    small = attribute(model, x, target, method, batch_size=2, **options)
    torch.testing.assert_close(small, whole, **close)
    alone = attribute(model, x[1:2], 3, method, batch_size=5, **options)
    torch.testing.assert_close(alone, whole[1:2], **close)


@pytest.mark.parametrize("method", METHODS)
def test_leaves_everything_as_it_was(case, method):
    model, x, target = case
    model.train()
    model.fc.eval()
    state, inputs = copy.deepcopy(model.state_dict()), x.clone()
    modes = [m.training for m in model.modules()]
    random, numpy_random = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    attribute(model, x, target, method, **FEW.get(method, {}))
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(x, inputs) and not x.requires_grad
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), random)
    assert np.array_equal(np.random.get_state()[1], numpy_random)  # noqa: NPY002
    hooks = [m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules()]
    assert not any(hooks) and model.act.inplace


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
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(),
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
    class Sine(nn.Module):
        def forward(self, x):
            return torch.sin(x * 3).flatten(1)[:, :4]

    with pytest.warns(UserWarning, match="deep_lift attributions miss the difference of outputs"):
        attribute(Sine(), case[1], 0, "deep_lift")


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


def test_target_defaults_to_the_prediction(case):
    model, x, _ = case
    predicted = model(x).logits.argmax(1)
    assert torch.equal(attribute(model, x), attribute(model, x, predicted))
    assert torch.equal(attribute(model, x, [1, 1, 1]), attribute(model, x, 1))


@pytest.mark.parametrize("method", METHODS)
def test_further_arguments_of_the_model(case, method):
    model, x, target = case
    scale = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    options = FEW.get(method, {})
    plain = attribute(model, x, target, method, **options)
    scaled = attribute(model, x, target, method, kwargs={"scale": scale}, batch_size=2, **options)
    power = 2 if method == "guided_grad_cam" else 1
    expected = plain * scale[:, :, None, None] ** power
    torch.testing.assert_close(scaled, expected, rtol=1e-4, atol=1e-6)


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 6)
        self.norm, self.hidden, self.head = nn.LayerNorm(6), nn.Linear(6, 6), nn.Linear(6, 3)

    def get_input_embeddings(self):
        return self.embed

    def forward(self, ids, attention_mask=None):
        mask = torch.ones_like(ids) if attention_mask is None else attention_mask
        x = F.gelu(self.hidden(self.norm(self.embed(ids)))) * mask[..., None]
        return SimpleNamespace(logits=self.head(x.sum(1)))


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("guided_grad_cam", "lrp")])
def test_token_ids(method):
    torch.manual_seed(0)
    model = Text().double()
    ids = torch.randint(0, 20, (2, 5))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    got = attribute(model, ids, 1, method, kwargs={"attention_mask": mask}, **FEW.get(method, {}))
    assert got.shape == ids.shape
    # masked tokens change nothing; lime's ridge regression sees that up to its shrinkage
    noise = 0.05 * got.abs().max() if method == "lime" else 1e-9
    assert got[0, 3:].abs().max() < noise and got[1].abs().sum() > 0
    if method == "deep_lift":
        silent = model(ids, torch.zeros_like(mask)).logits
        assert silent.shape == (2, 3)
    assert model.embed(ids).shape == (2, 5, 6)


def test_bfloat16_model():
    torch.manual_seed(0)
    model, x = Net().bfloat16().eval(), torch.randn(1, 3, 16, 16).bfloat16()
    for method in GRADIENT:
        got = attribute(model, x, 0, method, **FEW.get(method, {}))
        assert got.dtype == torch.bfloat16 and torch.isfinite(got).all()


class Window(nn.Module):
    """Sees nothing but an 8 x 8 window of its input."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        x = F.relu(self.b(F.relu(self.a(x[:, :, 8:16, 4:12]))))
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize("method", [m for m in METHODS if m != "guided_grad_cam"])
def test_every_method_points_to_what_the_model_sees(method):
    torch.manual_seed(0)
    model, x = Window().eval(), torch.rand(2, 3, 24, 24) + 0.1
    mask = torch.zeros(2, 24, 24, dtype=torch.bool)
    mask[:, 8:16, 4:12] = True
    options = {"lime": {"features": mask[:1, None].long()}}.get(method, {})
    got = attribute(model, x, model(x).argmin(1), method, **options)
    # argmin: a logit below 0 here, so that signed maps are negative inside
    assert metrics.auroc(pixel_map(got), mask).min() > 0.9
    assert metrics.pointing_game(pixel_map(got), mask).tolist() == [1, 1]


def test_progress(case):
    model, x, target = case
    seen = []
    attribute(
        model, x, target, batch_size=2, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(2, 3), (3, 3)]


def test_pixel_map():
    a = torch.tensor([1.0, -3.0]).view(1, 2, 1, 1)
    assert pixel_map(a, "saliency").item() == 4 and pixel_map(a).item() == 4
    assert pixel_map(a, "occlusion").item() == -2
    with pytest.raises(ValueError, match=r"pixel_map: attribution must have shape \[B, C, H, W\]"):
        pixel_map(a[0])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"method": "grad"},
            ValueError,
            "attribute: method must be one of saliency, .*, got 'grad'",
        ),
        ({"model": 3}, TypeError, "attribute: model must be an nn.Module, got int"),
        ({"x": [1]}, TypeError, "attribute: x must be a torch.Tensor, got list"),
        ({"x": torch.zeros(3)}, ValueError, r"attribute: x must be a batch .*, got shape \(3,\)"),
        (
            {"batch_size": 0},
            ValueError,
            "attribute: batch_size must be an int of at least 1, got 0",
        ),
        ({"target": 4}, ValueError, r"attribute: target must be in \[0, 3\], got 4"),
        ({"target": [0, 1]}, ValueError, "attribute: target must be an int or 3 ints"),
        ({"steps": 3}, TypeError, "attribute: options of saliency are none, got 'steps'"),
        (
            {"method": "occlusion", "baseline": torch.zeros(7)},
            ValueError,
            r"baseline must broadcast to one input \(3, 16, 16\), got shape \(7,\)",
        ),
        (
            {"x": torch.zeros(3, 4, dtype=torch.long)},
            ValueError,
            "embedding must name the embedding",
        ),
    ],
)
def test_errors_name_what_is_wrong(case, change, error, message):
    model, x, target = case
    with pytest.raises(error, match=message):
        attribute(**({"model": model, "x": x, "target": target} | change))


def test_grad_cam_needs_feature_maps():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match="guided_grad_cam needs a layer with outputs"):
        attribute(model, torch.ones(1, 1, 2, 2), 0, "guided_grad_cam")
    with pytest.raises(ValueError, match="guided_grad_cam needs x"):
        attribute(model, torch.ones(1, 4), 0, "guided_grad_cam")


def test_options_table_is_complete():
    assert set(OPTIONS) == set(METHODS) and len(METHODS) == 10


def test_python_of_the_page():
    page = (Path(__file__).parent.parent / "docs" / "interpretation.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {}
    exec(program, names)
    assert names["difference"].n == 4 and names["maps"].shape == (4, 32, 32)


def test_transformers_classifier():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    model = transformers.BertForSequenceClassification(config).double()
    ids, mask = torch.randint(0, 50, (2, 6)), torch.ones(2, 6, dtype=torch.long)
    mask[0, 4:] = 0
    kwargs = {"attention_mask": mask}
    for method in ("saliency", "integrated_gradients", "lrp", "occlusion"):
        got = attribute(model, ids, 1, method, kwargs=kwargs, batch_size=7, **FEW.get(method, {}))
        assert got.shape == ids.shape and torch.isfinite(got).all() and got[1].abs().min() > 1e-9
    model.eval()
    got = attribute(model, ids, 1, "integrated_gradients", kwargs=kwargs, steps=200)
    embed = model.get_input_embeddings()
    vectors = embed(ids)
    with torch.no_grad():
        whole, none = (
            model(inputs_embeds=v, attention_mask=mask).logits[:, 1]
            for v in (vectors, torch.zeros_like(vectors))
        )
    torch.testing.assert_close(got.sum(1), whole - none, rtol=1e-2, atol=1e-4)
