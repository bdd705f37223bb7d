"""What can be explained: one logit, any function of the outputs, inner layers; of images, signals and volumes."""

import warnings

import captum.attr
import pytest
import torch
from classifiers import FEW, residual_case
from torch import nn

from spade_xai import METHODS, attribute, trace
from spade_xai.attribution.methods import RECORDS
from spade_xai.exceptions import DegenerateMapWarning

QUIET = {"progress": False}
OF_THE_SCORE = (  # methods that look at the target's score alone
    "saliency", "input_x_gradient", "guided_backprop", "integrated_gradients", "gradient_shap", "smooth_grad",
    "deep_lift", "lrp", "lime", "occlusion",
)  # fmt: skip


@pytest.fixture
def case():
    return residual_case()


@pytest.mark.parametrize("method", (*OF_THE_SCORE, "grad_cam", "guided_grad_cam"))
def test_functions_of_the_outputs(case, method):
    model, x, _ = case
    options = FEW.get(method, {}) | QUIET
    expected = attribute(model, x, 2, method, batch_size=2, **options)
    got = attribute(model, x, lambda out: out.logits[:, 2], method, batch_size=2, **options)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)


def test_differences_of_logits(case):
    model, x, _ = case

    def contrast(outputs):
        return outputs.logits[:, 1] - outputs.logits[:, 0]

    for method in ("saliency", "deep_lift", "integrated_gradients"):
        first, second = (attribute(model, x, k, method, **QUIET) for k in (1, 0))
        torch.testing.assert_close(attribute(model, x, contrast, method, **QUIET), first - second)
    relevance = attribute(model, x, contrast, "lrp", rule="epsilon", epsilon=1e-12, **QUIET)
    torch.testing.assert_close(relevance.sum((1, 2, 3)), contrast(model(x)).detach())
    for wrong, message in (
        (lambda out: out.logits, r"one floating-point number per input, \[1\], got \(1, 4\)"),
        (lambda out: out, "got SimpleNamespace"),
        (lambda out: out.logits.argmax(1), r"got \(1,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            attribute(model, x, wrong, batch_size=1, **QUIET)


class Squeezed(nn.Module):
    def __init__(self, classes, squeeze):
        super().__init__()
        self.linear, self.squeeze = nn.Linear(6, classes), squeeze

    def forward(self, x):
        out = self.linear(x)
        return out.squeeze() if self.squeeze else out


@pytest.mark.parametrize("method", OF_THE_SCORE)
@pytest.mark.parametrize("squeeze", [False, True])
@pytest.mark.filterwarnings("ignore:attribute. guided_backprop found no ReLU")
def test_one_logit(method, squeeze):
    torch.manual_seed(0)
    model, x = Squeezed(1, squeeze).eval(), torch.randn(3, 6)
    options = FEW.get(method, {}) | QUIET
    got = attribute(model, x, None, method, **options)
    assert got.any() and torch.equal(got, attribute(model, x, 0, method, **options))
    torch.testing.assert_close(attribute(model, x[:1], None, method, **options), got[:1])
    with pytest.raises(ValueError, match=r"target must be in \[0, 0\], got 1"):
        attribute(model, x, 1, method, **options)


def test_a_batch_of_one_that_the_model_squeezes():
    model, x = Squeezed(4, True).eval(), torch.randn(3, 6)
    whole = attribute(model, x, [2, 1, 0], **QUIET)
    torch.testing.assert_close(attribute(model, x[:1], 2, **QUIET), whole[:1])
    torch.testing.assert_close(attribute(model, x, [2, 1, 0], batch_size=1, **QUIET), whole)


@pytest.mark.parametrize("method", METHODS)
def test_inference_mode(method):
    def network():
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
        ).eval()

    options = FEW.get(method, {}) | QUIET
    torch.manual_seed(0)
    with torch.inference_mode():
        frozen, image = network(), torch.rand(2, 3, 8, 8)
    usual = network()
    usual.load_state_dict({k: v.clone() for k, v in frozen.state_dict().items()})
    expected = attribute(usual, image.clone(), 0, method, **options)
    for model, x in ((usual, image), (frozen, image.clone()), (frozen, image)):
        torch.testing.assert_close(attribute(model, x, 0, method, **options), expected)
    with torch.inference_mode():
        torch.testing.assert_close(
            attribute(frozen, image, None, method, **options).shape, expected.shape
        )
    with torch.no_grad():
        torch.testing.assert_close(attribute(usual, image, 0, method, **options), expected)


@pytest.mark.parametrize(("conv", "sides"), [(nn.Conv1d, (40,)), (nn.Conv3d, (8, 8, 8))])
@pytest.mark.parametrize("method", [m for m in METHODS if not m.endswith("grad_cam")])
def test_signals_and_volumes(conv, sides, method):
    torch.manual_seed(0)
    model = nn.Sequential(conv(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)).eval()
    x = torch.rand(2, 2, *sides)
    model(x)
    got = attribute(model, x, 0, method, **(FEW.get(method, {}) | QUIET))
    assert got.shape == x.shape and got[0, 0].unique().numel() >= 8


@pytest.mark.parametrize("sides", [(12,), (6, 4, 6)])
def test_occlusion_of_signals_and_volumes(sides):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(2, bias=False)).double()
    x = torch.rand(2, 3, *sides, dtype=torch.float64)
    model(x)
    share = (x * model[1].weight[1].view(x.shape[1:])).detach().sum(1, keepdim=True)
    got = attribute(model, x, 1, "occlusion", window=2, stride=2, **QUIET)
    pool = {1: nn.AvgPool1d, 3: nn.AvgPool3d}[len(sides)](2)
    blocks = pool(share) * 2 ** len(sides)
    expected = nn.functional.interpolate(blocks, scale_factor=2.0).expand_as(x)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
    each = attribute(model, x, 1, "occlusion", window=[2] * len(sides), stride=2, **QUIET)
    assert torch.equal(each, got)
    with pytest.raises(ValueError, match=r"window must be an int or .* ints, got 2 of them"):
        attribute(model, x, 1, "occlusion", window=[2, 2], **QUIET)


def test_windows_need_sides():
    with pytest.raises(ValueError, match=r"window needs x \[B, C, ...\] with sides"):
        attribute(nn.Linear(6, 2), torch.rand(1, 6), 0, "occlusion", window=2, **QUIET)


def test_lime_sees_the_segment_that_counts():
    class Middle(nn.Module):
        def forward(self, x):
            return x[..., 16:20].sum((1, 2))[:, None] * torch.tensor([1.0, -1.0])

    got = attribute(Middle(), torch.ones(1, 1, 64), 0, "lime", samples=256, alpha=1e-6, **QUIET)
    assert got[0, 0, 16:20].min() > 0.9 and got[0, 0, :16].abs().max() < 0.1


def by_captum(method, model, layer, x, target):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return method(model, layer).attribute(x, target=target)


@pytest.fixture
def plain():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(150, 4)
    ).double()  # fmt: skip


def test_layer_attribution_is_captums(plain):
    x, layer = torch.rand(2, 3, 14, 14, dtype=torch.float64), plain[2]
    expected = by_captum(captum.attr.LayerGradientXActivation, plain, layer, x, 1)
    got = attribute(plain, x, 1, "input_x_gradient", layer="2", **QUIET)
    torch.testing.assert_close(got, expected.detach())
    values, rest = plain[:3](x).detach(), plain[3:]
    for method in [m for m in METHODS if not RECORDS[m].feature_map]:
        options = FEW.get(method, {}) | QUIET
        got = attribute(plain, x, 1, method, layer="2", batch_size=1, **options)
        torch.testing.assert_close(got, attribute(rest, values, 1, method, **options))


def test_layer_attribution_of_inner_blocks_and_tuples(case):
    model, x, target = case
    whole = attribute(model, x, target, "input_x_gradient", layer="b", **QUIET)
    assert whole.shape == (3, 6, 16, 16)
    found = attribute(
        model, x, target, "lrp", layer="norm", kwargs={"scale": torch.ones(3, 1).double()}, **QUIET
    )
    assert found.any()
    for name, message in (
        ("zz", "layer must name a layer of the model, got 'zz'"),
        ("act", "layer must run once per pass .* got 2 calls of 'act'"),
    ):
        with pytest.raises(ValueError, match=message):
            attribute(model, x, target, layer=name, **QUIET)

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 2)

        def forward(self, x):
            out, (state, _) = self.lstm(x)
            return self.head(out[:, -1]) + 0 * state.sum()

    lstm, x = Pair().eval(), torch.rand(2, 5, 4)
    got = attribute(lstm, x, 1, "input_x_gradient", layer="lstm", **QUIET)
    last = lstm.lstm(x)[0][:, -1]
    torch.testing.assert_close(got[:, -1], (last * lstm.head.weight[1]).detach())
    assert not got[:, :-1].any()


def test_layers_of_token_models():
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.mix, self.head = nn.Embedding(9, 4), nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, ids):
            return self.head(torch.tanh(self.mix(self.embed(ids))).mean(1))

    got = attribute(Text(), torch.tensor([[1, 2, 3]]), 0, "deep_lift", layer="mix", **QUIET)
    assert got.shape == (1, 3, 5) and got.any()


def test_smooth_grad_is_the_mean_over_noise(plain):
    x = torch.rand(1, 3, 14, 14, dtype=torch.float64)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(588, 2)).double()
    torch.testing.assert_close(
        attribute(linear, x, 1, "smooth_grad", samples=3, **QUIET), attribute(linear, x, 1, **QUIET)
    )
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(4, 3, 14, 14, generator=generator).double() * 0.2 * float(x.max() - x.min())
    for of in ("saliency", "guided_backprop", "deep_lift", "lrp"):
        options = {"of_options": {"alpha": 2.0}} if of == "lrp" else {}
        expected = torch.stack(
            [
                attribute(plain, x + n, 1, of, **QUIET, **options.get("of_options", {}))[0]
                for n in noise
            ]
        ).mean(0)
        for batch_size in (64, 3):
            got = attribute(
                plain,
                x,
                1,
                "smooth_grad",
                of=of,
                samples=4,
                noise=0.2,
                seed=5,
                batch_size=batch_size,
                **options,
                **QUIET,
            )
            torch.testing.assert_close(got[0], expected)
    with pytest.raises(ValueError, match=r"of must be one of saliency, .*, got 'smooth_grad'"):
        attribute(plain, x, 1, "smooth_grad", of="smooth_grad", **QUIET)
    with pytest.raises(TypeError, match=r"options of lrp are .*, got 'steps'"):
        attribute(plain, x, 1, "smooth_grad", of="lrp", of_options={"steps": 3}, **QUIET)


def test_maps_of_zeros_and_of_nan_are_told():
    class Sum(nn.Module):
        def __init__(self, weight):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(weight))

        def forward(self, x):
            return (x * self.weight).sum(1, keepdim=True).expand(-1, 2)

    x = torch.ones(3, 4)
    with pytest.warns(
        DegenerateMapWarning, match="of saliency are 0 everywhere for 3 of 3 inputs, the first 0"
    ):
        attribute(Sum(0.0), x, 0, **QUIET)
    with pytest.warns(DegenerateMapWarning, match="of saliency are not finite for 3 of 3 inputs"):
        attribute(Sum(float("nan")), x, 0, **QUIET)
    x[1] = 0
    with pytest.warns(
        DegenerateMapWarning, match="of input_x_gradient are 0 .* 1 of 3 inputs, the first 1"
    ):
        attribute(Sum(2.0), x, 0, "input_x_gradient", **QUIET)


@pytest.mark.parametrize("method", [m for m in METHODS if not RECORDS[m].feature_map])
def test_arguments_that_are_not_split_with_the_batch(method):
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(6, 3)

        def forward(self, x, weights=None, scale=None, how=None):
            assert weights.shape == (6,) and len(scale) == len(x) and how == "relu"
            return self.head(torch.relu(x * weights)) * scale

    torch.manual_seed(0)
    model, x = Weighted().eval(), torch.rand(3, 6) + 0.1
    kwargs = {
        "weights": torch.rand(6) + 0.1,
        "scale": torch.tensor([[1.0], [2.0], [3.0]]),
        "how": "relu",
    }
    options = FEW.get(method, {}) | QUIET
    got = attribute(model, x, 1, method, kwargs=kwargs, batch_size=2, **options)
    for k in range(3):
        one = kwargs | {"scale": kwargs["scale"][k : k + 1]}
        alone = attribute(model, x[k : k + 1], 1, method, kwargs=one, **options)
        torch.testing.assert_close(got[k : k + 1], alone, rtol=1e-4, atol=1e-6)


NOT_REAL = {
    "meta": lambda: torch.rand(1, 6, device="meta"),
    "sparse": lambda: torch.rand(1, 6).to_sparse(),
    "complex": lambda: torch.rand(1, 6, dtype=torch.complex64),
    "quantised": lambda: torch.quantize_per_tensor(torch.rand(1, 6), 0.1, 0, torch.quint8),
}


@pytest.mark.parametrize("kind", NOT_REAL)
def test_tensors_without_real_values_are_refused(kind):
    model = nn.Linear(6, 3).eval()
    with pytest.raises(TypeError, match="attribute: x must be a dense tensor of real numbers, got"):
        attribute(model, NOT_REAL[kind](), 1, "saliency", **QUIET)
    with pytest.raises(TypeError, match="trace: sample must be a dense tensor of real numbers"):
        trace(model, (NOT_REAL[kind](),), augment=None, **QUIET)
