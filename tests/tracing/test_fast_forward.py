"""The faster copy of a model: its layers read what the model's read, and what it cannot be made of stays as it is."""

import pytest
import torch
from classifiers import Net
from torch import nn
from torch.nn import functional as F

from spade_xai.models.copies import unwrap
from spade_xai.models.efficientnet_lite import EfficientNetLite
from spade_xai.models.layers import find_layers
from spade_xai.tracing.fast_forward import fast_forward
from spade_xai.tracing.hessians import Hessians, layer_inputs
from spade_xai.tracing.trace import trace


class Block(nn.Module):
    """Convolutions with batch norms of either sign, activations as modules, functions and shared, and a sum."""

    def __init__(self, classes=5):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8)
        self.wide, self.wide_norm = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8)
        self.act, self.fc = nn.ReLU6(), nn.Linear(8, classes)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        y = self.act(self.wide_norm(self.wide(x)))
        return self.fc(self.act(x + y).mean((2, 3)))


def trained(model):
    """The model with batch norms as training leaves them, in eval mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.weight.data, module.bias.data):
                values.normal_()
            module.running_var.uniform_(0.1, 4)
    return model.eval()


class Noted(Block):
    """Counts its passes."""

    passes = 0

    def forward(self, x):
        self.passes += 1
        return super().forward(x)


class Noisy(Block):
    def forward(self, x):
        return super().forward(x + torch.rand_like(x))


class Branching(Block):
    """Cannot be traced as a whole, and its parts take no part in it as modules."""

    def forward(self, x):
        return super().forward(-x if x.sum() > 0 else x)


class Frozen(Block):
    """What torch.fx makes of it is another model: the tensor made in forward becomes a constant of its first pass."""

    def forward(self, x):
        return super().forward(x * torch.rand(1))


def hessians(model, layers, x):
    sums = Hessians(model, layers, "test")
    with torch.no_grad():
        sums.run([x])
    return {layer.name: sums.take(layer) for layer in layers}


@pytest.mark.parametrize(
    "make",
    [Block, lambda: Net(wrapped=False), lambda: EfficientNetLite("efficientnet_lite0")],
    ids=["block", "residual", "efficientnet_lite0"],
)
def test_layers_read_the_same(make):
    model, x = trained(make()), torch.randn(4, 3, 64, 64)
    layers = find_layers(model)
    with torch.no_grad():
        fast = fast_forward(model, layers, x)
    norms = [m for m in fast.modules() if isinstance(m, nn.BatchNorm2d)]
    assert fast is not model and not norms
    expected, found = hessians(model, layers, x), hessians(fast, layers, x)
    for name, h in expected.items():
        assert float((found[name] - h).norm() / h.norm()) < 1e-5, name


@pytest.mark.parametrize("make", [Noted, Noisy, Branching, Frozen, Net])
def test_a_model_that_no_graph_repeats_runs_as_it_is(make):
    model = trained(make())
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        fast = fast_forward(model, find_layers(model), x)
        state = torch.get_rng_state()
        ours = unwrap(fast(x))
        torch.set_rng_state(state)
        torch.testing.assert_close(ours, unwrap(model(x)))


def test_parts_are_folded_where_the_whole_cannot_be_traced():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = Block(6), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(self.body(x if x.sum() > 0 else -x))

    model = trained(Outer())
    layers, x = find_layers(model), torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        fast = fast_forward(model, layers, x)
    assert not [m for m in fast.modules() if isinstance(m, nn.BatchNorm2d)]
    for name, h in hessians(model, layers, x).items():
        torch.testing.assert_close(hessians(fast, layers, x)[name], h, rtol=1e-4, atol=1e-4)


def test_half_precision_is_not_folded():
    model = trained(Block()).bfloat16()
    assert fast_forward(model, find_layers(model), torch.randn(1, 3, 32, 32).bfloat16()) is model


def test_nothing_of_the_callers_model_changes():
    model = trained(Block())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    held = {name: (id(p), p.stride()) for name, p in model.named_parameters()}
    state = torch.get_rng_state()
    with torch.no_grad():
        fast_forward(model, find_layers(model), torch.randn(2, 3, 32, 32))
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    assert held == {name: (id(p), p.stride()) for name, p in model.named_parameters()}
    assert model.act.inplace is False
    assert not torch.equal(state, torch.get_rng_state())  # drawn by this test alone


@pytest.mark.parametrize("padding", [(0, 1, 0, 1), (1, 2, 0, 3), (2, 0, 1, 1), (0, 0, 0, 7)])
@pytest.mark.parametrize("size", [11, 12])
@pytest.mark.parametrize("of", [{"stride": 2}, {"stride": (1, 3), "dilation": 2, "groups": 4}])
def test_convolutions_that_are_not_pruned_pad_themselves(padding, size, of):
    def convolution(**options):
        return nn.Sequential(
            nn.ZeroPad2d(padding), nn.Conv2d(4, 8, 3, **options), nn.BatchNorm2d(8), nn.ReLU6()
        )

    model = trained(nn.Sequential(convolution(**of), nn.Conv2d(8, 4, 1), convolution()))
    x = torch.randn(2, 4, size, size)
    layers = [layer for layer in find_layers(model) if layer.name != "0.1"]
    with torch.no_grad():
        fast = fast_forward(model, layers, x)
        torch.testing.assert_close(fast(x), model(x))
    assert [type(m) for m in fast.modules()].count(nn.ZeroPad2d) == 1  # of the pruned one
    for name, h in hessians(model, layers, x).items():
        torch.testing.assert_close(hessians(fast, layers, x)[name], h, rtol=1e-4, atol=1e-4)


def test_an_activation_that_others_read_around_is_not_in_place():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act, self.fc = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4, 2)

        def forward(self, x):
            x = self.conv(x)
            return self.fc((self.act(x) - x).mean((2, 3)))

    model, x = Around().eval(), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        fast = fast_forward(model, find_layers(model), x)
        assert fast is not model
        torch.testing.assert_close(fast(x), model(x))


def test_trace_takes_the_weights_of_the_model_and_not_the_folded_ones():
    model, x = trained(Block()), torch.rand(1, 3, 32, 32)
    result = trace(model, x, sparsity=0.0, augmentations=16, progress=False)
    torch.testing.assert_close(
        dict(result.model.state_dict()), dict(model.state_dict()), rtol=0, atol=0
    )
    sparse = trace(
        model, x, sparsity={"stem": 0.5}, augmentations=32, batch_size=16, progress=False
    )
    few = trace(model, x, sparsity={"stem": 0.5}, augmentations=32, batch_size=2, progress=False)
    assert float((sparse.model.stem.weight == 0).double().mean()) == pytest.approx(0.5, abs=0.05)
    assert min(sparse.agreement(few).values()) > 0.99


def test_watching_sees_the_folded_layers_by_their_names():
    model, x, seen = trained(Block()), torch.randn(1, 3, 32, 32), []
    layers = find_layers(model)
    with torch.no_grad():
        fast = fast_forward(model, layers, x)
        with layer_inputs(fast, layers, lambda names, reading: seen.extend(names)):
            fast(x)
    assert seen == ["stem", "wide", "fc"]
