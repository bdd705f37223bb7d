"""Layers found in a model, chosen by name, read, written, and what they read in a pass."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from spade_xai.exceptions import UnprunedLayerWarning
from spade_xai.models.copies import duplicate
from spade_xai.models.layers import find_layers, matches, select_layers
from spade_xai.tracing.hessians import Hessians, execution_order, plain_attention


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, padding="same", padding_mode="reflect")
        self.depthwise = nn.Conv2d(6, 6, 3, groups=6)
        self.grouped = nn.Conv2d(6, 8, 3, stride=2, groups=2)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.grouped(self.depthwise(self.conv(x))).mean((2, 3)))


def by_name(model):
    return {layer.name: layer for layer in find_layers(model)}


def hessians(model, *inputs):
    sums = Hessians(duplicate(model), find_layers(model), "test")
    with torch.no_grad():
        sums.run(inputs)
    return {layer.name: sums.take(layer) for layer in find_layers(model)}


def gram(x):
    x = x.reshape(-1, x.shape[-1]).double()
    return (x.T @ x).float()[None]


def test_kinds_and_shapes():
    layers = by_name(Block())
    shapes = {n: (x.groups, x.rows, x.cols, x.taps) for n, x in layers.items()}
    assert shapes == {
        "conv": (1, 6, 36, 9),
        "depthwise": (6, 6, 9, 9),
        "grouped": (2, 8, 27, 9),
        "fc": (1, 5, 8, 1),
    }
    assert [n for n, x in layers.items() if x.depthwise] == ["depthwise"]


def test_read_and_write_leave_the_first_parameter_alone():
    model = Block()
    before = copy.deepcopy(model.state_dict())
    other = duplicate(model)
    for layer in find_layers(model):
        weights = layer.read(model)
        assert weights.shape == (layer.groups, layer.rows // layer.groups, layer.cols)
        layer.write(other, weights * 2)
        assert torch.equal(layer.read(other), weights * 2)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    ("pattern", "taken"),
    [
        ("layer4", True),
        ("layer4.*", True),
        ("layer4.0.conv1", True),
        ("layer4.?.conv*", True),
        ("re:.*conv\\d", True),
        ("re:layer4", False),
        ("layer", False),
        ("conv1", False),
    ],
)
def test_patterns(pattern, taken):
    assert matches("layer4.0.conv1", pattern) is taken


def test_selection():
    layers = find_layers(Block())
    assert [x.name for x in select_layers(layers, None)] == ["conv", "grouped", "fc"]
    assert len(select_layers(layers, None, depthwise=True)) == 4
    assert [x.name for x in select_layers(layers, ["fc", "re:.*ed"])] == ["grouped", "fc"]
    with pytest.raises(ValueError, match=r"trace: layers must take a layer, 'head' takes none"):
        select_layers(layers, "head")
    with pytest.raises(ValueError, match="depthwise=True"):
        select_layers(layers, "depthwise")
    with pytest.raises(ValueError, match="valid patterns"):
        select_layers(layers, "re:(")
    with pytest.raises(ValueError, match="must have a layer that can be pruned"):
        select_layers([], None)


def test_hessians_of_convolutions_are_those_of_their_patches():
    torch.manual_seed(0)
    model, x = Block().eval(), torch.randn(3, 4, 9, 9)
    found = hessians(model, x[:1], x[1:])
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
    patches = F.unfold(padded, 3).transpose(1, 2)
    torch.testing.assert_close(found["conv"], gram(patches), rtol=1e-5, atol=1e-3)
    y = model.depthwise(model.conv(x))
    halves = [F.unfold(part, 3, stride=2).transpose(1, 2) for part in y.chunk(2, 1)]
    expected = torch.cat([gram(half) for half in halves])
    torch.testing.assert_close(found["grouped"], expected, rtol=1e-5, atol=1e-3)
    assert found["depthwise"].shape == (6, 9, 9)


class Attends(nn.Module):
    def __init__(self, cross, **options):
        super().__init__()
        self.cross = cross
        sizes = {"kdim": 6, "vdim": 4} if cross else {}
        self.attend = nn.MultiheadAttention(8, 2, **sizes, **options)

    def forward(self, x):
        if self.cross:
            return self.attend(x, key=x[..., :6], value=x[..., 2:6])[0]
        return self.attend(x, x, x, need_weights=False)[0]


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, {"batch_first": True}, {"bias": False, "add_bias_kv": True, "add_zero_attn": True}],
)
def test_hessians_of_attention_projections(cross, options):
    """The output projection's input, checked by undoing the projection of the module's own output."""
    torch.manual_seed(0)
    model, x = Attends(cross, **options).eval(), torch.randn(5, 3, 8)
    found = hessians(model, x)
    key, value = (x[..., :6], x[..., 2:6]) if cross else (x, x)
    for name, read in (("q_proj", x), ("k_proj", key), ("v_proj", value)):
        torch.testing.assert_close(found[f"attend.{name}"], gram(read), rtol=1e-5, atol=1e-4)
    projection = model.attend.out_proj
    with torch.no_grad():
        out = model(x).double()
        bias = 0 if projection.bias is None else projection.bias.double()
        heads = (out - bias) @ torch.linalg.inv(projection.weight.double()).T
    torch.testing.assert_close(found["attend.out_proj"], gram(heads), rtol=1e-3, atol=1e-2)


def test_writing_one_projection_leaves_the_others():
    model = Attends(False)
    layers = by_name(model)
    assert set(layers) == {"attend.q_proj", "attend.k_proj", "attend.v_proj", "attend.out_proj"}
    other = duplicate(model)
    layers["attend.k_proj"].write(other, torch.zeros(1, 8, 8))
    changed = (other.attend.in_proj_weight != model.attend.in_proj_weight).any(1)
    assert changed.tolist() == [False] * 8 + [True] * 8 + [False] * 8


def test_fused_transformer_layers_are_read_and_the_flag_restored():
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    enabled = torch.backends.mha.get_fastpath_enabled()
    with torch.no_grad():
        calls, odd = execution_order(duplicate(model), find_layers(model), torch.randn(2, 3, 8))
    names = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"]
    assert list(calls) == [*names, "linear1", "linear2"]
    assert not odd
    assert torch.backends.mha.get_fastpath_enabled() is enabled


def test_shared_modules_and_tied_weights_are_one_layer_with_all_inputs():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(7, 4)
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight
            self.again = self.a
            self.out = nn.Linear(4, 7, bias=False)
            self.out.weight = self.embed.weight

        def forward(self, ids):
            return self.out(self.again(self.b(self.a(self.embed(ids)))))

    torch.manual_seed(0)
    model, ids = Tied().eval(), torch.arange(7)[None]
    layers = by_name(model)
    assert set(layers) == {"a", "out"}
    assert layers["a"].modules == ("a", "b")
    x = model.embed(ids).detach()
    y = model.a(x).detach()
    z = model.b(y).detach()
    expected = gram(x) + gram(y) + gram(z)
    torch.testing.assert_close(hessians(model, ids)["a"], expected, rtol=1e-5, atol=1e-5)
    other = duplicate(model)
    layers["out"].write(other, torch.zeros(1, 7, 4))
    assert other.embed.weight is model.embed.weight


def test_subclasses():
    class Scaled(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 3

    class Named(nn.Linear):
        def forward(self, x):
            return super().forward(x)

    model = nn.Sequential(Scaled(4, 4), Named(4, 4), nn.Linear(4, 2))
    with torch.no_grad():
        calls, odd = execution_order(duplicate(model), find_layers(model), torch.randn(2, 4))
    assert list(calls) == ["0", "1", "2"]
    assert odd == ["0"]


def test_computed_weights_are_left_out():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 2))
    with pytest.warns(UnprunedLayerWarning, match="layer 0 is left dense: its weight is computed"):
        assert [layer.name for layer in find_layers(model)] == ["1"]


def test_transformers_conv1d():
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
    torch.manual_seed(0)
    model, x = nn.Sequential(conv1d(6, 4)), torch.randn(3, 5, 4)
    (layer,) = find_layers(model)
    assert (layer.rows, layer.cols) == (6, 4)
    assert torch.equal(layer.read(model)[0], model[0].weight.T)
    torch.testing.assert_close(hessians(model, x)["0"], gram(x), rtol=1e-5, atol=1e-5)
    other = duplicate(model)
    layer.write(other, layer.read(model) * 2)
    assert torch.equal(other[0].weight, model[0].weight * 2)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_fast_path_of_attention_is_as_it_was(enabled):
    before = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(enabled)
        with plain_attention():
            assert not torch.backends.mha.get_fastpath_enabled()
        assert torch.backends.mha.get_fastpath_enabled() == enabled
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
