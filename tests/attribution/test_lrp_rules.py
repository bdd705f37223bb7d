"""LRP conserves relevance through the functions that models call, however they are called."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from spade_xai import attribute
from spade_xai.exceptions import DegenerateMapWarning

FUNCTIONS = {
    "prelu": nn.PReLU(),
    "leaky_relu by keyword": lambda x: F.leaky_relu(input=x, negative_slope=0.2),
    "maximum with a constant": lambda x: torch.maximum(x, torch.full((), -0.1).to(x)),
    "maximum of two": lambda x: torch.maximum(x, x.flip(1)),
    "threshold": lambda x: F.threshold(x, -5.0, 0.0),
    "softsign": F.softsign,
    "neg": lambda x: -x,
    "normalize": lambda x: F.normalize(x, dim=1),
    "divided by its norm": lambda x: x / torch.linalg.vector_norm(x, dim=1, keepdim=True),
    "x.norm()": lambda x: x / x.norm(dim=1, keepdim=True),
    "rms norm by hand": lambda x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6),
    "global response norm": lambda x: x + x * (x.norm(dim=(2, 3), keepdim=True) / 3),
    "addcmul": lambda x: torch.addcmul(x, x, torch.full_like(x, 0.5)),
    "transposed convolution": nn.ConvTranspose2d(8, 8, 2, 2, bias=False),
    "grouped transposed convolution": nn.ConvTranspose2d(8, 8, 2, 2, groups=2, bias=False),
    "convolution by keyword": lambda x: F.conv2d(input=x, weight=torch.linspace(-1, 2, 64).view(8, 8, 1, 1).to(x)),
    "mean by keyword": lambda x: torch.mean(input=x, dim=(2, 3), keepdim=True),
    "sum by keyword": lambda x: torch.add(input=x, other=x.flip(1)),
    "concatenation by keyword": lambda x: torch.cat(tensors=[x[:, :4], x[:, 4:]], dim=1),
    "addmm": lambda x: addmm(x),
    "einsum": lambda x: torch.einsum("bchw,dc->bdhw", x, torch.linspace(-1, 2, 64).view(8, 8).to(x)),
    "hand-written gelu": lambda x: 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.044715 * torch.pow(x, 3)))),
    "assignment": lambda x: assigned(x),
    "max pooling with indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "checkpoint": lambda x: checkpoint(torch.relu, x, use_reentrant=False),
}  # fmt: skip


def addmm(x):
    flat = x.permute(0, 2, 3, 1).reshape(-1, 8)
    weight = torch.linspace(-1, 2, 64).view(8, 8).to(x)
    y = torch.addmm(torch.zeros(8).to(x), flat, weight)
    return y.view(len(x), *x.shape[2:], 8).permute(0, 3, 1, 2)


def assigned(x):
    out = torch.zeros_like(x)
    out[:, ::2], out[:, 1::2] = x[:, 1::2], x[:, ::2]
    return out


class Around(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.a, self.h = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x):
        if x.sum() > 1e9:  # torch.fx cannot trace it
            x = -x
        return self.h(self.function(self.a(x)).mean((2, 3)))


def relevance(model, x, target=1, **options):
    return attribute(model, x, target, "lrp", rule="epsilon", progress=False, **options)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_relevance_is_conserved(name):
    torch.manual_seed(1)
    model = Around(FUNCTIONS[name]).double().eval()
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    got = relevance(model, x, epsilon=1e-12).sum((1, 2, 3))
    torch.testing.assert_close(got, model(x)[:, 1].detach(), rtol=1e-6, atol=1e-9)


def test_transposed_convolution_is_its_matrix():
    torch.manual_seed(0)
    layer = nn.ConvTranspose1d(2, 3, 3, stride=2, bias=False).double()
    model = nn.Sequential(layer, nn.Flatten())
    x = torch.randn(1, 2, 4, dtype=torch.float64)
    matrix = torch.func.jacrev(lambda v: model(v[None])[0])(x[0]).flatten(1)  # [27, 8]
    as_linear = nn.Linear(8, 27, bias=False).double()
    as_linear.weight.data = matrix
    for rule in ("epsilon", "alpha_beta", "z_plus"):
        options = {"rule": rule, "alpha": 2.0 if rule == "alpha_beta" else 1.0, "progress": False}
        got = attribute(model, x, 5, "lrp", **options)
        expected = attribute(as_linear, x.flatten(1), 5, "lrp", **options)
        torch.testing.assert_close(got.flatten(1), expected)


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 8, 3), nn.Linear(8, 8)], ids=["conv", "linear"])
def test_batch_norm_is_folded_wherever_it_is_called(layer):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8) if isinstance(layer, nn.Conv2d) else nn.BatchNorm1d(8)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            tensor.normal_()
        norm.running_var.uniform_(0.5, 2)

    class Called(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm = layer, norm
            self.head = nn.LazyLinear(3)

        def forward(self, x):
            if x.sum() > 1e9:
                x = -x
            return self.head(torch.relu(self.norm(self.layer(x))).flatten(1))

    model = Called().double().eval()
    x = torch.randn(2, 3, 6, 6) if isinstance(layer, nn.Conv2d) else torch.randn(2, 8)
    x = x.double()
    model(x)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    folded = nn.Sequential(
        type(layer)(*((3, 8, 3) if x.ndim == 4 else (8, 8))), nn.ReLU(), nn.Flatten(), model.head
    )
    folded = folded.double()
    with torch.no_grad():
        folded[0].weight.copy_(layer.weight * scale.view(-1, *[1] * (layer.weight.ndim - 1)))
        folded[0].bias.copy_((layer.bias - norm.running_mean) * scale + norm.bias)
    for bias in (False, True):
        options = {"bias": bias, "alpha": 2.0, "progress": False}
        got = attribute(model, x, 1, "lrp", **options)
        torch.testing.assert_close(got, attribute(folded, x, 1, "lrp", **options))


def test_parameters_outside_of_the_registers_are_constants():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks, self.h = [nn.Linear(6, 6).double()], nn.Linear(6, 3)
            self.factor = [torch.full((6,), 2.0, requires_grad=True)]

        def forward(self, x):
            return self.h(self.blocks[0](x).relu() * self.factor[0])

    model, x = Listed().double(), torch.rand(4, 6, dtype=torch.float64)
    got = relevance(model, x, epsilon=1e-12)
    torch.testing.assert_close(got.sum(1), model(x)[:, 1].detach())


def test_functions_without_a_rule_are_named():
    class Sine(nn.Module):
        def forward(self, x):
            return torch.sin(input=x)

    with pytest.raises(NotImplementedError, match=r"lrp: model calls torch.sin, which has no rule"):
        relevance(Sine(), torch.ones(1, 3))


def test_relevance_that_outgrows_the_logit_is_told():
    torch.manual_seed(0)
    layers = [m for _ in range(12) for m in (nn.Linear(64, 64), nn.GELU())]
    model, x = nn.Sequential(*layers).eval(), torch.randn(4, 64)
    with pytest.warns(
        DegenerateMapWarning, match="magnitudes of relevance sum to .* times the logit"
    ):
        relevance(model, x, epsilon=1e-9)
    deep = nn.Sequential(*layers * 8).eval()
    with pytest.warns(DegenerateMapWarning, match="magnitudes of relevance overflow"):
        relevance(deep, x, epsilon=1e-30)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_models_are_computed_in_float32(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).to(dtype)
    x = torch.rand(3, 6).to(dtype)
    got = attribute(model, x, 1, "lrp", progress=False)
    expected = attribute(model.float(), x.float(), 1, "lrp", progress=False)
    torch.testing.assert_close(got.float(), expected, rtol=2e-2, atol=1e-3)


class Checkpointed(nn.Module):
    """A block, as it is or computed again in the backward pass."""

    def __init__(self, reentrant):
        super().__init__()
        self.reentrant = reentrant
        self.block = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 6))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        if self.reentrant is None:
            return self.head(self.block(x))
        return self.head(checkpoint(self.block, x, use_reentrant=self.reentrant))


@pytest.mark.parametrize("method", ["lrp", "deep_lift"])
def test_checkpoints_keep_the_rules_or_are_refused(method):
    plain, kept, opaque = (Checkpointed(kind).double().eval() for kind in (None, False, True))
    kept.load_state_dict(plain.state_dict())
    x = torch.randn(2, 6, dtype=torch.float64)
    expected = attribute(plain, x, 1, method, progress=False)
    torch.testing.assert_close(attribute(kept, x, 1, method, progress=False), expected)
    with pytest.raises(ValueError, match=rf"{method} must see the functions .*CheckpointFunction"):
        attribute(opaque, x, 1, method, progress=False)


def test_padding_masks_of_attention_modules():
    torch.manual_seed(0)

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.head = (
                nn.MultiheadAttention(8, 2, batch_first=True),
                nn.Linear(8, 3),
            )

        def forward(self, x, ignored=None, forbidden=None):
            y = self.attention(
                x, x, x, key_padding_mask=ignored, attn_mask=forbidden, need_weights=False
            )
            return self.head(y[0][:, 0])

    model, x = Masked().double().eval(), torch.randn(2, 5, 8, dtype=torch.float64)
    ignored = torch.tensor([[False, False, False, True, True], [False] * 4 + [True]])
    forbidden = torch.ones(5, 5, dtype=torch.bool).triu(3)
    kwargs = {"ignored": ignored, "forbidden": forbidden}
    got = relevance(model, x, epsilon=1e-12, kwargs=kwargs)
    torch.testing.assert_close(got.sum((1, 2)), model(x, **kwargs)[:, 1].detach())
    assert not got[:, 3:].any() and got[:, :3].any(-1).all()


class Products(nn.Module):
    """Sums of a signal and a product of two signals."""

    def __init__(self, combine):
        super().__init__()
        self.first, self.last, self.combine = nn.Linear(6, 12), nn.Linear(4, 3, bias=False), combine

    def forward(self, x):
        c, p, q = self.first(x).relu().unflatten(1, (3, 2, 2)).unbind(1)
        return self.last(self.combine(c, p, q).flatten(1))


SUMS_OF_PRODUCTS = {
    "baddbmm": torch.baddbmm,
    "addmm": lambda c, p, q: torch.stack([torch.addmm(*t) for t in zip(c, p, q, strict=True)]),
    "addbmm": lambda c, p, q: torch.stack(
        [torch.addbmm(a, b[None], d[None]) for a, b, d in zip(c, p, q, strict=True)]
    ),
    "addmv": lambda c, p, q: torch.stack(
        [torch.stack([torch.addmv(a[:, k], b, d[:, k]) for k in range(2)], 1) for a, b, d in zip(c, p, q, strict=True)]
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", ["epsilon", "alpha_beta"])
@pytest.mark.parametrize("name", SUMS_OF_PRODUCTS)
def test_fused_sums_of_products_are_those_spelled_out(name, rule):
    torch.manual_seed(0)
    model = Products(lambda c, p, q: c + p @ q).double().eval()
    x = torch.rand(2, 6, dtype=torch.float64)
    options = {"rule": rule, "epsilon": 1e-12, "progress": False}
    expected = attribute(model, x, 1, "lrp", **options)
    model.combine = SUMS_OF_PRODUCTS[name]
    torch.testing.assert_close(attribute(model, x, 1, "lrp", **options), expected)
    model.combine = lambda c, p, q: torch.baddbmm(c, p, q, beta=0.5, alpha=-2)
    got = relevance(model, x, epsilon=1e-12).sum(1)
    torch.testing.assert_close(got, model(x)[:, 1].detach(), rtol=1e-6, atol=1e-9)


CLAMPS = {
    "min=": (lambda a, b: torch.clamp(a, min=b), torch.maximum),
    "max=": (lambda a, b: a.clamp(max=b), torch.minimum),
    "clamp_min": (torch.clamp_min, torch.maximum),
    "clip": (lambda a, b: torch.clip(a, b), torch.maximum),
}


@pytest.mark.parametrize("name", CLAMPS)
def test_a_clamp_at_a_signal_is_a_maximum(name):
    class Clamped(nn.Module):
        def __init__(self, bound):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.last, self.bound = (
                nn.Linear(6, 8),
                nn.Linear(6, 8),
                nn.Linear(8, 3),
                bound,
            )

        def forward(self, x):
            return self.last(self.bound(self.a(x), self.b(x)))

    x = torch.rand(2, 6, dtype=torch.float64)
    got, expected = (relevance(Clamped(bound).double(), x) for bound in CLAMPS[name])
    torch.testing.assert_close(got, expected)


MATRICES = {
    "x @ w": lambda x, w: x @ w.t(),
    "matmul": lambda x, w: torch.matmul(input=x, other=w.T),
    "mm": lambda x, w: torch.mm(x, w.t()),
    "addmm": lambda x, w: torch.addmm(torch.zeros(len(w)).to(x), x, w.t()),
    "einsum": lambda x, w: torch.einsum("bi,oi->bo", x, w),
}


@pytest.mark.parametrize("name", MATRICES)
def test_a_constant_matrix_is_a_linear_layer_however_it_is_called(name):
    torch.manual_seed(0)
    a, b = nn.Linear(6, 8, bias=False), nn.Linear(8, 3, bias=False)

    class Called(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = a, b

        def forward(self, x):
            product = MATRICES[name]
            return product(product(x, self.a.weight).relu(), self.b.weight)

    plain = nn.Sequential(a, nn.ReLU(), b).double()
    x = torch.rand(1, 6, dtype=torch.float64)
    for options in ({}, {"alpha": 2.0}, {"rule": "epsilon"}, {"bounds": (0.0, 1.0)}):
        options["progress"] = False
        got = attribute(Called().double(), x, 1, "lrp", **options)
        torch.testing.assert_close(got, attribute(plain, x, 1, "lrp", **options))


@pytest.mark.parametrize("method", ["lrp", "deep_lift"])
def test_models_that_draw_are_refused_with_that_cause(method):
    class Drawing(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 64), nn.Linear(64, 3)

        def forward(self, x):
            return self.b(F.dropout(self.a(x).relu(), 0.5))

    with pytest.raises(RuntimeError, match="gives the same outputs for the same input"):
        attribute(Drawing().eval(), torch.rand(1, 6), 1, method, progress=False)


@pytest.mark.parametrize("method", ["lrp", "deep_lift"])
def test_the_callers_autocast_does_not_reach_the_quotients(method):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(800, 4)).eval()
    x = torch.rand(2, 3, 12, 12)
    expected = attribute(model, x, 1, method, progress=False)
    with torch.autocast("cpu", torch.bfloat16):
        got = attribute(model, x, 1, method, progress=False)
    torch.testing.assert_close(got, expected)
