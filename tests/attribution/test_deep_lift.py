"""DeepLIFT sums to f(x) - f(baseline) through whatever a model calls, or says why not."""

import warnings

import captum.attr
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from spade_xai import attribute
from spade_xai.exceptions import CompletenessWarning

ACTIVATIONS = {
    "relu": F.relu,
    "relu by keyword": lambda x: F.relu(input=x),
    "in place": lambda x: F.relu(x, inplace=True),
    "method in place": lambda x: x.relu_(),
    "relu6": F.relu6,
    "prelu": nn.PReLU(),
    "leaky_relu": F.leaky_relu,
    "rrelu": nn.RReLU().eval(),
    "elu": F.elu,
    "selu": F.selu,
    "celu": F.celu,
    "gelu": F.gelu,
    "gelu by keyword": lambda x: F.gelu(input=x, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "hardtanh": F.hardtanh,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "threshold": lambda x: F.threshold(x, 0.1, -0.2),
    "clamp": lambda x: x.clamp(min=0),
    "clamp_": lambda x: x.clamp_(-0.2, 0.3),
    "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "minimum of constant and x": lambda x: torch.minimum(torch.full((1,), 0.2).to(x), x),
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "where with a constant": lambda x: torch.where(x > 0, x, 0.0),
    "abs": torch.abs,
    "exp and log": lambda x: torch.log1p(torch.exp(x)),
    "reciprocal": lambda x: 1 / (3 + x),
    "sqrt": lambda x: (x * x + 1).sqrt(),
    "power": lambda x: x**3,
    "hand-written gelu": lambda x: 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.044715 * torch.pow(x, 3)))),
    "sin": torch.sin,
    "glu": lambda x: F.glu(x, dim=1).repeat(1, 2, 1, 1),
    "gate": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "maximum of two": lambda x: torch.maximum(x, x.flip(1)),
    "maxout": lambda x: x.unflatten(1, (4, 2)).amax(2).repeat(1, 2, 1, 1),
    "max with indices": lambda x: x.unflatten(1, (4, 2)).max(dim=2).values.repeat(1, 2, 1, 1),
    "min over two dimensions": lambda x: x - x.amin((2, 3), keepdim=True),
    "max over all": lambda x: torch.stack([v * v.max() for v in x]),
    "softmax": lambda x: x.softmax(1),
    "layer norm": lambda x: F.layer_norm(x, x.shape[-1:]),
    "group norm": lambda x: F.group_norm(x, 2),
    "instance norm": F.instance_norm,
    "rms norm": lambda x: F.rms_norm(x, x.shape[-1:]),
    "normalize": lambda x: F.normalize(x, dim=1),
    "l2 norm": lambda x: x / torch.linalg.vector_norm(x, dim=1, keepdim=True),
    "local response norm": lambda x: F.local_response_norm(x, 3),
    "max pool": lambda x: F.max_pool2d(x, 3, 2, 1),
    "overlapping max pool by keyword": lambda x: F.max_pool2d(input=x, kernel_size=3, stride=1),
    "max pool with indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "adaptive max pool": lambda x: F.adaptive_max_pool2d(x, 3),
    "max pool in one dimension": lambda x: F.max_pool1d(x.flatten(2), 3)[..., None],
    "max pool in three": lambda x: F.max_pool3d(x[:, None], 2)[:, 0].repeat(1, 2, 1, 1),
    "neg": lambda x: -x,
    "addcmul": lambda x: torch.addcmul(x, x, torch.ones_like(x), value=0.5),
    "assignment": lambda x: assigned(x),
}  # fmt: skip


def assigned(x):
    out = torch.zeros_like(x)
    out[:, ::2] = x[:, 1::2]
    return out


class Around(nn.Module):
    """The function between two layers, called twice; torch.fx cannot trace it."""

    def __init__(self, act):
        super().__init__()
        self.act = act
        self.a, self.b, self.h = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x):
        if x.sum() > 1e9:
            x = -x
        x = self.act(self.a(x) * 1.0)
        x = self.act(self.b(x) * 1.0)
        return self.h(x.mean((2, 3)))


def sums(model, x, baseline, **options):
    """Sums of attributions and what they should be; incompleteness is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", CompletenessWarning)
        got = attribute(model, x, 1, "deep_lift", baseline=baseline, progress=False, **options)
    with torch.no_grad():
        expected = model(x)[:, 1] - model(baseline.expand_as(x).clone())[:, 1]
    return got.flatten(1).sum(1), expected


@pytest.fixture
def x():
    return torch.rand(2, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_sums_to_the_difference_of_outputs(name, x):
    model = Around(ACTIVATIONS[name]).double().eval()
    baseline = 0.3 * x[:1].flip(-1)
    got, expected = sums(model, x, baseline)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("deep", [2, 3])
def test_through_blocks_of_max_pooling(deep, x):
    blocks = [
        m for k in range(deep) for m in (nn.Conv2d(3 if k == 0 else 8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    ]  # fmt: skip
    model = nn.Sequential(*blocks, nn.Flatten(), nn.LazyLinear(5)).double()
    x = x.repeat(1, 1, 2, 2)[..., :16, :16]
    model(x)
    got, expected = sums(model, x, torch.zeros_like(x[:1]))
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


def test_max_pooling_by_hand():
    model = nn.Sequential(nn.MaxPool1d(2), nn.Flatten())
    x, baseline = torch.tensor([[[5.0, 1.0, 2.0, 1.0]]]), torch.tensor([[[0.0, 4.0, 6.0, 0.0]]])
    got = attribute(model, x, 0, "deep_lift", baseline=baseline, progress=False)
    # From 4 at the second entry to 5 at the first: max(5, 4) - 4 = 1 to the first, 5 - max(5, 4) = 0 to the second.
    assert got.tolist() == [[[1.0, 0.0, 0.0, 0.0]]]
    got = attribute(model, x, 1, "deep_lift", baseline=baseline, progress=False)
    assert got.tolist() == [[[0.0, 0.0, -4.0, 0.0]]]


class Transformer(nn.Module):
    """Attention with the batch in the second dimension, by module, by function and by hand; then a recurrent layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16)
        self.lstm, self.head = nn.LSTM(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        x = self.layer(x.transpose(0, 1))  # [T, B, E]
        q = x.transpose(0, 1)
        x = x + F.scaled_dot_product_attention(q, q, q).transpose(0, 1)
        x = x + ((q @ q.transpose(1, 2)).softmax(-1) @ q).transpose(0, 1)
        x, _ = self.lstm(x)
        return self.head(x[-1])


def test_attention_and_the_batch_in_another_dimension():
    torch.manual_seed(3)
    model, x = Transformer().double().eval(), torch.randn(3, 5, 8, dtype=torch.float64)
    got, expected = sums(model, x, torch.randn(1, 5, 8, dtype=torch.float64) * 0.5)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-9)
    alone, _ = sums(model, x[1:2], torch.zeros(1, 5, 8, dtype=torch.float64))
    together, _ = sums(model, x, torch.zeros(1, 5, 8, dtype=torch.float64), batch_size=2)
    torch.testing.assert_close(alone, together[1:2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_models_are_computed_in_float32(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 5),
    ).eval()  # fmt: skip
    x = torch.rand(1, 3, 16, 16).to(dtype)
    x[..., :4] = 0  # as the baseline
    narrow = model.to(dtype)
    got = attribute(narrow, x, 0, "deep_lift", progress=False)
    assert got.dtype == dtype and got.isfinite().all() and next(narrow.parameters()).dtype == dtype
    expected = attribute(narrow.float(), x.float(), 0, "deep_lift", progress=False)
    torch.testing.assert_close(got.float(), expected, rtol=1e-2, atol=1e-4)


def test_is_captum_on_networks_of_relus(x):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 3),
    )
    model = model.double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = captum.attr.DeepLift(model).attribute(x, 0 * x, 2).detach()
    got = attribute(model, x, 2, "deep_lift", progress=False)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)


def test_parameters_outside_of_the_registers_are_constants(x):
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks, self.h = [nn.Linear(432, 6)], nn.Linear(6, 3)
            self.scale = {"s": torch.full((6,), 2.0, requires_grad=True, dtype=torch.float64)}

        def forward(self, x):
            return self.h(torch.relu(self.blocks[0](x.flatten(1))) * self.scale["s"])

    model = Listed().double()
    model.blocks[0].double()
    got, expected = sums(model, x, 0 * x[:1])
    torch.testing.assert_close(got, expected)


def test_not_finite_is_seen():
    class Overflows(nn.Module):
        def forward(self, x):
            return torch.exp(x * 200).flatten(1)[:, :3]

    with pytest.warns(CompletenessWarning, match="miss the difference of outputs by inf"):
        attribute(Overflows(), torch.ones(1, 3), 0, "deep_lift", progress=False)


def test_another_path_on_the_baseline_is_refused():
    class Turns(nn.Module):
        def forward(self, x):
            return torch.tanh(x) if x.sum() > 1 else torch.sigmoid(x)

    with pytest.raises(RuntimeError, match="calls the same functions on x and on the baseline"):
        attribute(Turns(), torch.ones(1, 3), 0, "deep_lift", progress=False)


def test_reading_an_overwritten_tensor_is_refused():
    class Overwrites(nn.Module):
        def forward(self, x):
            y = x * 2
            F.relu_(y)
            return y

    with pytest.raises(RuntimeError, match="does not read tensors it has overwritten"):
        attribute(Overwrites(), torch.tensor([[1.0, -1.0]]), 1, "deep_lift", progress=False)
