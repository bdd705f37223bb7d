"""Each kind of layer: its Hessian against unfolded inputs in float64, its weights as a matrix."""

import copy

import pytest
import torch
from torch import nn

from spade_xai import trace
from spade_xai.models import unfold
from spade_xai.models.copies import duplicate
from spade_xai.models.layers import find_layers
from spade_xai.tracing.hessians import Hessians

CONVOLUTIONS = [  # class, channels, shape of the input after them, options
    (nn.Conv1d, 2, (9,), dict(kernel_size=4)),
    (nn.Conv1d, 4, (11,), dict(kernel_size=3, stride=2, padding=1, dilation=2, groups=2)),
    (nn.Conv1d, 2, (9,), dict(kernel_size=4, padding="same", dilation=2)),
    (nn.Conv1d, 2, (9,), dict(kernel_size=3, padding=2, padding_mode="circular")),
    (nn.Conv2d, 2, (6, 7), dict(kernel_size=(2, 3), padding="same")),
    (nn.Conv2d, 2, (6, 7), dict(kernel_size=3, padding="valid", padding_mode="reflect")),
    (nn.Conv3d, 2, (4, 5, 6), dict(kernel_size=(2, 3, 2))),
    (nn.Conv3d, 2, (7, 6, 8), dict(kernel_size=(3, 2, 2), stride=(2, 1, 3), padding=(1, 0, 2), dilation=(2, 1, 2))),
    (nn.Conv3d, 4, (4, 4, 4), dict(kernel_size=2, padding="same", groups=2)),
    (nn.Conv3d, 1, (4, 4, 4), dict(kernel_size=3, padding=(1, 2, 0), padding_mode="replicate")),
    (nn.ConvTranspose1d, 2, (5,), dict(kernel_size=4)),
    (nn.ConvTranspose1d, 4, (6,), dict(kernel_size=3, stride=3, padding=2, output_padding=1, dilation=2, groups=2)),
    (nn.ConvTranspose2d, 2, (4, 3), dict(kernel_size=2, stride=2)),
    (nn.ConvTranspose2d, 4, (4, 3), dict(kernel_size=(3, 2), stride=(2, 1), padding=1, output_padding=(1, 0))),
    (nn.ConvTranspose2d, 4, (4, 3), dict(kernel_size=(3, 2), stride=2, padding=(0, 1), groups=2)),
    (nn.ConvTranspose2d, 2, (4, 5), dict(kernel_size=1, stride=2, output_padding=1)),
    (nn.ConvTranspose3d, 2, (3, 2, 3), dict(kernel_size=(2, 3, 2), stride=2, padding=(0, 1, 1), dilation=(1, 2, 1))),
]  # fmt: skip
IDS = [f"{c.__name__}-{i}" for i, (c, *_) in enumerate(CONVOLUTIONS)]


def only(model):
    (layer,) = find_layers(model)
    return layer


def hessian(model, *batches):
    sums = Hessians(duplicate(model), find_layers(model), "test")
    with torch.no_grad():
        sums.run(batches)
    return sums.take(only(model))


def unfolded(cls, channels, options, x):
    """What each output reads [groups, cols, N]: the layer's outputs where its matrix is the identity."""
    groups = options.get("groups", 1)
    cols = only(nn.Sequential(cls(channels, groups, bias=False, **options))).cols
    model = nn.Sequential(cls(channels, groups * cols, bias=False, **options)).double()
    identity = torch.eye(cols, dtype=torch.float64).expand(groups, cols, cols)
    only(model).write(model, identity)
    with torch.no_grad():
        return model(x.double()).unflatten(1, (groups, cols)).movedim(0, 2).flatten(2)


@pytest.mark.parametrize(("cls", "channels", "size", "options"), CONVOLUTIONS, ids=IDS)
@pytest.mark.parametrize("largest", [1, 2**26])
def test_hessian_is_that_of_unfolded_inputs(monkeypatch, largest, cls, channels, size, options):
    monkeypatch.setattr(unfold, "_LARGEST", largest)
    model = nn.Sequential(cls(channels, 6, **options)).double()
    x = torch.randn(3, channels, *size, dtype=torch.float64)
    patches = unfolded(cls, channels, options, x)
    found = hessian(model, x[:2], x[2:])
    torch.testing.assert_close(found, patches @ patches.mT, rtol=1e-10, atol=1e-10)
    layer = only(model)
    product = layer.read(model) @ patches
    with torch.no_grad():
        y = model(x) - model[0].bias.view(-1, *[1] * len(size))
    expected = y.unflatten(1, (layer.groups, -1)).movedim(0, 2).flatten(2)
    torch.testing.assert_close(product, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("cls", "channels", "size", "options"), CONVOLUTIONS, ids=IDS)
def test_weights_are_read_and_written_in_their_shape(cls, channels, size, options):
    model = nn.Sequential(cls(channels, 6, **options))
    other, layer = duplicate(model), only(model)
    assert layer.kind == cls.__name__.replace("ConvT", "Conv_t").lower()
    weights = layer.read(model)
    assert weights.shape == (layer.groups, layer.rows // layer.groups, layer.cols)
    assert torch.equal(layer.shaped(weights), model[0].weight)
    layer.write(other, 2 * weights)
    assert torch.equal(other[0].weight, 2 * model[0].weight)


@pytest.mark.parametrize("batched", [True, False])
def test_inputs_without_a_batch(batched):
    model = nn.Sequential(nn.Conv1d(2, 3, 3))
    x = torch.randn(1, 2, 8)
    sums = Hessians(duplicate(model), find_layers(model), "test")
    with torch.no_grad():
        sums.run([x if batched else x[0]])
    patches = unfolded(nn.Conv1d, 2, dict(kernel_size=3), x)
    torch.testing.assert_close(sums.take(only(model)).double(), (patches @ patches.mT)[0][None])


class Signals(nn.Module):
    """A one-dimensional autoencoder with a head."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv1d(2, 8, 4, stride=2, padding=1)
        self.up = nn.ConvTranspose1d(8, 4, 4, stride=2, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.up(self.down(x).relu()).relu().mean(2))


@pytest.mark.parametrize("method", ["obc", "sparsegpt"])
def test_signals_are_traced(method):
    model, x = Signals().eval(), torch.randn(12, 2, 16)
    before = copy.deepcopy(model.state_dict())
    found = trace(model, x, augment=None, sparsity=0.5, method=method, progress=False)
    assert [(x.name, x.status) for x in found.layers] == [
        ("down", "pruned"), ("up", "pruned"), ("head", "pruned"),
    ]  # fmt: skip
    for name, mask in found.masks().items():
        weight = found.model.get_submodule(name).weight
        assert mask.shape == weight.shape
        assert torch.equal(mask, weight != 0)
        if name != "head":  # three rows have no half
            assert mask.float().mean() == pytest.approx(0.5, abs=0.05)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    # The loss is that of the layer's outputs.
    (up,) = [x for x in found.layers if x.name == "up"]
    with torch.no_grad():
        y = model.down(x).relu()
        sparse = found.model.up
        change = nn.functional.conv_transpose1d(y, model.up.weight - sparse.weight, None, 2, 1)
    assert up.loss == pytest.approx(float(change.square().sum()), rel=1e-4)
