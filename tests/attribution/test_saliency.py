"""What `attribute` promises of every method: shapes, batches, targets, no traces left, errors."""

import copy
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from classifiers import FEW, POWER, Net, residual_case
from torch import nn
from torch.nn import functional as F

from spade_xai import metrics
from spade_xai.attribution.attribute import attribute, pixel_map
from spade_xai.attribution.methods import METHODS, OPTIONS, RECORDS, MethodName, table

GRADIENT = [m for m in METHODS if m not in ("lime", "occlusion")]


@pytest.fixture
def case():
    return residual_case()


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


def test_target_defaults_to_the_prediction(case):
    model, x, _ = case
    predicted = model(x).logits.argmax(1)
    assert torch.equal(attribute(model, x), attribute(model, x, predicted))
    for one in ([1, 1, 1], np.int64(1), torch.tensor(1)):
        assert torch.equal(attribute(model, x, one), attribute(model, x, 1))


@pytest.mark.parametrize("method", METHODS)
def test_further_arguments_of_the_model(case, method):
    model, x, target = case
    scale = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    options = FEW.get(method, {})
    plain = attribute(model, x, target, method, **options)
    scaled = attribute(model, x, target, method, kwargs={"scale": scale}, batch_size=2, **options)
    expected = plain * scale[:, :, None, None] ** POWER.get(method, 1)
    torch.testing.assert_close(scaled, expected, rtol=1e-4, atol=1e-6)


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


@pytest.mark.parametrize("method", [m for m in METHODS if not m.endswith("grad_cam")])
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
        model,
        x,
        target,
        batch_size=2,
        progress=lambda stage, done, total: seen.append((done, total)),
    )
    assert seen == [(2, 3), (3, 3)]


def test_pixel_map():
    a = torch.tensor([1.0, -3.0]).view(1, 2, 1, 1)
    assert pixel_map(a, "saliency").item() == 4 and pixel_map(a).item() == 4
    assert pixel_map(a, "occlusion").item() == -2
    with pytest.raises(ValueError, match=r"pixel_map: attribution must have shape \[B, C, H, W\]"):
        pixel_map(a[0])
    with pytest.raises(
        ValueError, match=r"pixel_map: method must be one of saliency, .*, got 'grad'"
    ):
        pixel_map(a, "grad")
    with pytest.raises(TypeError, match=r"attribution must be a torch\.Tensor, got NoneType"):
        pixel_map(None)


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
        (
            {"target": 1.5},
            ValueError,
            "target must be an int or 3 ints, got shape .* of torch.float32",
        ),
        ({"target": "cat"}, TypeError, "attribute: target must be an int or 3 ints, got 'cat'"),
        ({"x": torch.full((1, 3, 16, 16), torch.nan)}, ValueError, "attribute: x must be finite"),
        ({"seed": 0.5}, TypeError, "attribute: seed must be an int, got float"),
        ({"method": "lime", "samples": 0}, ValueError, "samples must be at least 1, got 0"),
        ({"method": "lime", "alpha": -1.0}, ValueError, "alpha must be in .* got -1"),
        (
            {"method": "lime", "features": 3},
            TypeError,
            "features must be a tensor of ints, got int",
        ),
        (
            {"method": "lime", "features": torch.zeros(5, 5).long()},
            ValueError,
            r"features must broadcast to one input \(3, 16, 16\), got shape \(5, 5\)",
        ),
        ({"method": "occlusion", "window": 0}, ValueError, "window must be at least 1, got 0"),
        ({"method": "occlusion", "window": 17}, ValueError, "window must be at most 16, got 17"),
        ({"method": "occlusion", "stride": 0}, ValueError, "stride must be at least 1, got 0"),
        (
            {"method": "occlusion", "window": 4, "stride": 5},
            ValueError,
            r"stride must be at most the window \(4, 4\), got 5",
        ),
        ({"method": "integrated_gradients", "steps": 0}, ValueError, "steps must be at least 1"),
        (
            {"method": "gradient_shap", "samples": 0},
            ValueError,
            "samples must be at least 1, got 0",
        ),
        ({"method": "gradient_shap", "noise": -1.0}, ValueError, "noise must be in .* got -1"),
        (
            {"method": "deep_lift", "baseline": "a"},
            TypeError,
            "baseline must be a number or a tensor",
        ),
        ({"method": "deep_lift", "baseline": torch.nan}, ValueError, "baseline must be finite"),
        (
            {"method": "guided_grad_cam", "layer": "zz"},
            ValueError,
            "layer must name a layer .* 'zz'",
        ),
        (
            {"method": "guided_grad_cam", "layer": "fc"},
            ValueError,
            "layer must have outputs .* got layer='fc'",
        ),
        (
            {"method": "guided_grad_cam", "interpolation": "zz"},
            ValueError,
            "interpolation must be a mode of F.interpolate .* got 'zz'",
        ),
        ({"method": "lrp", "bounds": 3}, TypeError, "lrp: bounds must be two numbers, got 3"),
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


def test_methods_derive_from_their_records():
    names = [name for part in get_args(MethodName) for name in get_args(part) or (part,)]
    assert sorted(names) == sorted(METHODS)
    assert set(OPTIONS) == set(METHODS)
    assert all(f"| `{name}` |" in table() for name in METHODS)


def test_the_page_says_how_to_read_each_method():
    page = (Path(__file__).parents[2] / "docs" / "reading.md").read_text()
    for record in RECORDS.values():
        assert f"| `{record.name}` | {record.read} |" in page
        assert record.read.endswith(".") and len(record.read) < 160


def test_python_of_the_page():
    page = (Path(__file__).parents[2] / "docs" / "interpretation.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {}
    exec(program, names)
    assert names["difference"].n == 4 and names["maps"].shape == (4, 32, 32)
