import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from zennit import rules as zennit_rules
from zennit.attribution import Gradient
from zennit.composites import LayerMapComposite, NameMapComposite
from zennit.layer import Sum
from zennit.torchvision import ResNetCanonizer
from zennit.types import Activation, AvgPool, BatchNorm, Convolution, Linear

from spade_xai.attribution.attribute import attribute
from spade_xai.attribution.lrp.propagate import relevance
from spade_xai.models.prepare import prepare

ZENNIT = {
    "epsilon": lambda eps, **kw: zennit_rules.Epsilon(epsilon=eps, **kw),
    "alpha_beta": lambda eps, **kw: zennit_rules.AlphaBeta(alpha=2, beta=1, stabilizer=eps, **kw),
    "z_plus": lambda eps, **kw: zennit_rules.ZPlus(stabilizer=eps, **kw),
}


def convolutional(seed=0, bias=True):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=bias),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2, bias=bias),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * 2 * 2, 5, bias=bias),
    ).double()


def by_zennit(model, x, target, composite, rule):
    one_hot = torch.eye(5, dtype=x.dtype)[target]
    with Gradient(model=model, composite=composite) as attributor:
        return attributor(x, lambda out: one_hot * (out if rule == "epsilon" else out.abs()))[1]


def composite_of(rule, canonizers=None, eps=1e-6, **kw):
    layers = [
        (Sum, zennit_rules.Norm(stabilizer=eps)),
        (Activation, zennit_rules.Pass()),
        (AvgPool, zennit_rules.Norm(stabilizer=eps)),
        (Convolution, ZENNIT[rule](eps, **kw)),
        (Linear, ZENNIT[rule](eps, **kw)),
        (BatchNorm, zennit_rules.Pass()),
    ]
    return LayerMapComposite(layers, canonizers=canonizers)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rule", ["epsilon", "alpha_beta", "z_plus"])
def test_agrees_with_zennit_on_plain_network(rule, bias):
    model = convolutional()
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    target = torch.tensor([0, 1, 2, 4])
    kw = {} if bias else {"zero_params": ["bias"]}
    expected = by_zennit(model, x, target, composite_of(rule, **kw), rule)
    got = relevance(model, x, target, rule=rule, alpha=2.0, bias=bias)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("rule", ["epsilon", "z_plus"])
def test_agrees_with_zennit_on_torchvision_resnet(rule):
    torch.manual_seed(1)
    model = torchvision.models.resnet.ResNet(
        torchvision.models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=5
    )
    model = model.double().eval()
    for module in model.modules():  # batch norms as after training, with weights of both signs
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-14  # zennit's merged batch norms still divide by (1 + eps)^1/2
            nn.init.normal_(module.weight, 0.7, 0.5)
            nn.init.normal_(module.bias, 0, 0.1)
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    target = torch.tensor([3, 1])
    # A large stabiliser: sums of both signs nearly cancel somewhere in a random network.
    composite = composite_of(rule, [ResNetCanonizer()], eps=0.01, zero_params=["bias"])
    expected = by_zennit(model, x, target, composite, rule)
    got = attribute(model, x, target, "lrp", rule=rule, epsilon=0.01)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


def test_z_box_agrees_with_zennit():
    model = convolutional(2)
    x = torch.rand(3, 3, 16, 16, dtype=torch.float64) * 2 - 1
    target = torch.tensor([0, 1, 2])
    rule = {"zero_params": ["bias"]}
    names = [
        (["0"], zennit_rules.ZBox(low=-torch.ones_like(x), high=torch.ones_like(x), **rule)),
        (["1", "4"], zennit_rules.Pass()),
        (["5"], zennit_rules.Norm()),
        (["3", "7"], zennit_rules.ZPlus(**rule)),
    ]
    expected = by_zennit(model, x, target, NameMapComposite(names), "z_plus")
    got = relevance(model, x, target, rule="z_plus", bounds=(-1.0, 1.0))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_z_box_of_a_padded_input_is_that_of_a_layer_that_pads():
    own = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2)
    ).double()
    apart = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3), *own[1:]).double()
    apart[1].load_state_dict(own[0].state_dict())
    x, target = torch.rand(2, 3, 8, 8).double() * 2 - 1, torch.tensor([0, 1])
    expected = relevance(own, x, target, bounds=(-1.0, 1.0))
    torch.testing.assert_close(relevance(apart, x, target, bounds=(-1.0, 1.0)), expected)
    twice = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.ZeroPad2d((1, 0, 1, 0)), *apart[1:])
    torch.testing.assert_close(relevance(twice, x, target, bounds=(-1.0, 1.0)), expected)


def test_linear_layer_by_hand():
    layer = nn.Linear(3, 2, bias=False).double()
    layer.weight.data = torch.tensor([[1.0, -2.0, 3.0], [0.0, 1.0, 1.0]]).double()
    x = torch.tensor([[2.0, 1.0, -1.0]]).double()
    # z_0 = 2 - 2 - 3 = -3: positive part 2, negative part -5
    zero = torch.tensor([0])
    epsilon = relevance(layer, x, zero, rule="epsilon")
    torch.testing.assert_close(
        epsilon, torch.tensor([[2.0, -2.0, -3.0]]).double(), atol=1e-5, rtol=0
    )
    plus = relevance(layer, x, zero, rule="z_plus")
    torch.testing.assert_close(plus, torch.tensor([[3.0, 0.0, 0.0]]).double(), atol=1e-5, rtol=0)
    both = relevance(layer, x, zero, rule="alpha_beta", alpha=2.0)
    expected = torch.tensor([[2 * 3.0, -(2 / 5) * 3.0, -(3 / 5) * 3.0]]).double()
    torch.testing.assert_close(both, expected, atol=1e-5, rtol=0)


class Block(nn.Module):
    """Functional calls, a shared activation, both signs of addition, gates and layer norm."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.norm, self.ln = nn.BatchNorm2d(8), nn.LayerNorm(8)
        self.gate, self.scale = nn.Conv2d(8, 8, 1), nn.Parameter(torch.randn(8, 1, 1))
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.act(self.norm(self.a(x)))
        out = self.b(x)
        out += x
        out = F.gelu(out) * self.scale
        out = out * torch.sigmoid(self.gate(F.adaptive_avg_pool2d(out, 1)))
        out = self.act(x - 0.5 * out)
        out = F.max_pool2d(out, 2).flatten(2).transpose(1, 2)
        return self.head(self.ln(out).mean(1))


@pytest.mark.parametrize(
    ("rule", "alpha"), [("epsilon", 1.0), ("alpha_beta", 2.0), ("z_plus", 1.0)]
)
def test_relevance_is_conserved(rule, alpha):
    torch.manual_seed(3)
    model = Block().double().eval()
    model.a.bias.data += 2  # few dead units, so that every output has terms of both signs
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    target = torch.tensor([0, 2, 4])
    got = relevance(model, x, target, rule=rule, alpha=alpha, epsilon=1e-12)
    logit = model(x)[range(3), target].detach()
    begin = logit if rule == "epsilon" else logit.abs()
    torch.testing.assert_close(got.sum((1, 2, 3)), begin, rtol=1e-6, atol=1e-8)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.head, self.explicit = nn.Linear(6, 18), nn.Linear(6, 5), False

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        if self.explicit:
            mixed = (q @ k.transpose(1, 2) / 6**0.5).softmax(-1) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v)
        return self.head((x + mixed).mean(1))


def test_attention_gives_relevance_to_values():
    torch.manual_seed(0)
    model = Attention().double()
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    target = torch.tensor([1, 2])
    fused = relevance(model, x, target, rule="epsilon", epsilon=1e-12)
    model.explicit = True
    explicit = relevance(model, x, target, rule="epsilon", epsilon=1e-12)
    torch.testing.assert_close(explicit, fused, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(fused.sum((1, 2)), model(x)[range(2), target].detach())


def test_model_and_inputs_are_unchanged():
    model = prepare(convolutional(), fuse_batch_norm=True)
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    before = x.clone()
    relevance(model, x, torch.tensor([0, 1]))
    assert torch.equal(x, before) and not x.requires_grad
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "gamma"}, "lrp: rule must be one of epsilon, alpha_beta, z_plus, got 'gamma'"),
        ({"alpha": 0.5}, "lrp: alpha must be at least 1, got 0.5"),
        ({"epsilon": 0.0}, "lrp: epsilon must be above 0, got 0.0"),
        ({"bounds": (1.0, 2.0)}, "lrp: bounds must enclose 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        relevance(convolutional(), torch.zeros(1, 3, 16, 16).double(), torch.tensor([0]), **options)


def test_bounds_need_a_layer_on_the_input():
    model = nn.Sequential(nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(ValueError, match="bounds need a layer that reads x"):
        relevance(model, torch.ones(1, 3), torch.tensor([0]), bounds=(0.0, 1.0))


def test_unknown_function_and_softmax_end_are_refused():
    class Sine(nn.Module):
        def forward(self, x):
            return torch.sin(x)

    with pytest.raises(NotImplementedError, match=r"torch.sin, which has no rule"):
        relevance(Sine(), torch.ones(1, 3), torch.tensor([0]))
    model = nn.Sequential(nn.Linear(3, 2), nn.Softmax(1))
    with pytest.raises(RuntimeError, match="does it end in softmax"):
        relevance(model, torch.ones(1, 3), torch.tensor([0]))


def test_reading_an_overwritten_tensor_is_refused():
    class Overwrites(nn.Module):
        def forward(self, x):
            y = x * 2
            F.relu_(y)
            return y

    with pytest.raises(RuntimeError, match="does not read tensors it has overwritten"):
        relevance(Overwrites(), torch.tensor([[1.0, -1.0]]), torch.tensor([1]))


def test_multihead_attention_module_is_conserved():
    torch.manual_seed(0)

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.attention = (
                nn.LayerNorm(8),
                nn.MultiheadAttention(8, 2, batch_first=True),
            )
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            y = self.norm(x)
            x = x + self.attention(y, y, y, need_weights=False)[0]
            return self.head(x[:, 0])

    model, x = Encoder().double().eval(), torch.randn(2, 5, 8, dtype=torch.float64)
    target = torch.tensor([0, 2])
    got = relevance(model, x, target, rule="epsilon", epsilon=1e-12)
    assert got[:, 1:].abs().sum() > 0  # the first token's logits draw on the others' values
    torch.testing.assert_close(got.sum((1, 2)), model(x)[range(2), target].detach())


def test_model_in_training_mode_keeps_its_statistics():
    model = Block().train()
    mean = model.norm.running_mean.clone()
    relevance(model, torch.randn(2, 3, 8, 8), torch.tensor([0, 1]))
    assert torch.equal(model.norm.running_mean, mean) and model.training


def test_epsilon_with_biases_is_input_times_gradient_on_relu_networks():
    torch.manual_seed(4)
    block = torchvision.models.resnet.BasicBlock
    model = torchvision.models.resnet.ResNet(block, [1, 1, 1, 1], num_classes=5).double()
    model(torch.randn(8, 3, 32, 32, dtype=torch.float64))  # running statistics
    model.eval()
    x, target = torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.tensor([1, 4])
    got = attribute(model, x, target, "lrp", rule="epsilon", epsilon=1e-14, bias=True)
    expected = attribute(model, x, target, "input_x_gradient")
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))
