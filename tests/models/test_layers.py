"""Layers found in a model, chosen by name, read, written, and what they read in a pass."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from spade_xai import trace
from spade_xai.models.copies import duplicate
from spade_xai.models.layers import (
    find_layers,
    find_unsupported,
    fitting,
    matches,
    select_layers,
)
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


def test_patterns_fit_with_and_without_the_prefix_of_a_wrapper():
    wrapped = ["network.layer4.conv", "network.fc"]
    plain = ["layer4.conv", "fc"]
    for pattern in ("layer4", "network.layer4.*", "module.layer4", "_orig_mod.module.layer4.conv"):
        assert fitting(wrapped, pattern) == wrapped[:1]
        assert fitting(plain, pattern) == plain[:1]
    for pattern in ("re:layer4.*", "re:network.layer4.*", r"re:module\.layer4\.conv"):
        assert fitting(wrapped, pattern) == wrapped[:1]
        assert fitting(plain, pattern) == plain[:1]
    both = ["module.fc", "fc"]  # a child of that name is no wrapper
    assert fitting(both, "module.fc") == ["module.fc"]
    assert fitting(plain, "module*") == []


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


def test_subclasses_are_read_where_their_weight_is_used():
    class Scaled(nn.Linear):
        def forward(self, x):
            return super().forward(x + 1) * 3

    model, x = nn.Sequential(Scaled(4, 4), nn.Linear(4, 2)), torch.randn(5, 4)
    torch.testing.assert_close(hessians(model, x)["0"], gram(x + 1), rtol=1e-5, atol=1e-5)


def test_weights_used_outside_their_module():
    """As in timm's BEiT: the attention calls F.linear with the weight of a module that is never called."""

    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.out = nn.Linear(4, 12, bias=False), nn.Linear(12, 2)
            self.bias = nn.Parameter(torch.randn(12))

        def forward(self, x):
            return self.out(F.linear(input=x, weight=self.qkv.weight, bias=self.bias))

    model, x = Joined(), torch.randn(5, 4)
    torch.testing.assert_close(hessians(model, x)["qkv"], gram(x), rtol=1e-5, atol=1e-5)


def test_tied_convolutions_of_other_strides_are_read_as_they_are_called():
    model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, stride=2))
    model[1].weight = model[0].weight
    x = torch.randn(2, 3, 8, 8)
    y = model[0](x).detach()
    expected = gram(F.unfold(x, 3, padding=1).mT) + gram(F.unfold(y, 3, stride=2).mT)
    torch.testing.assert_close(hessians(model, x)["0"], expected, rtol=1e-5, atol=1e-4)


def test_weights_that_the_forward_pass_computes_with_are_told():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return F.conv2d(x, weight, self.bias)

    model = nn.Sequential(Standardised(3, 4, 3), nn.Flatten(), nn.Linear(36, 2), nn.Linear(2, 2))
    with torch.no_grad():
        calls, odd = execution_order(
            duplicate(model[:3]), find_layers(model[:3]), torch.randn(2, 3, 5, 5)
        )
    assert list(calls) == ["2"]
    assert list(odd) == ["0"]
    assert "gives its weight to torch.Tensor.mean and not to a conv2d layer" in odd["0"]


def test_transformers_conv1d_is_a_transposed_linear_layer():
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
    torch.manual_seed(0)
    model, x = nn.Sequential(conv1d(6, 4)), torch.randn(3, 5, 4)
    (layer,) = find_layers(model)
    assert (layer.kind, layer.rows, layer.cols) == ("transposed_linear", 6, 4)
    assert torch.equal(layer.read(model)[0], model[0].weight.T)
    torch.testing.assert_close(hessians(model, x)["0"], gram(x), rtol=1e-5, atol=1e-5)
    other = duplicate(model)
    layer.write(other, layer.read(model) * 2)
    assert torch.equal(other[0].weight, model[0].weight * 2)


def test_linear_layers_that_an_attention_takes_as_its_projections():
    """As in CLIP's attention pooling, which calls the function with the weights of four linear layers."""

    class Pool(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
            self.c = nn.Linear(8, 4)

        def forward(self, x):
            bias = torch.cat([self.q.bias, self.k.bias, self.v.bias])
            return F.multi_head_attention_forward(
                x[:1], x, x, 8, 2, None, bias, None, None, False, 0.0, self.c.weight, self.c.bias,
                use_separate_proj_weight=True, q_proj_weight=self.q.weight,
                k_proj_weight=self.k.weight, v_proj_weight=self.v.weight, need_weights=False,
            )[0].squeeze(0)  # fmt: skip

    model, x = Pool().eval(), torch.randn(5, 16, 8)
    found = hessians(model, x)
    torch.testing.assert_close(found["q"], gram(x[:1]), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found["v"], gram(x), rtol=1e-5, atol=1e-4)
    with torch.no_grad():
        y = (model(x) - model.c.bias).double()
    loss = model.c.weight.double() @ found["c"][0].double() @ model.c.weight.double().T
    torch.testing.assert_close(loss, y.T @ y, rtol=1e-4, atol=1e-4)


HOLDERS = {  # modules that hold weights but are no layers, and what their reason says
    "lstm": (nn.LSTM(3, 4), "nn.Linear", 2),
    "gru": (nn.GRU(3, 4, bidirectional=True), "nn.Linear", 4),
    "cell": (nn.RNNCell(3, 4), "nn.Linear", 2),
    "bilinear": (nn.Bilinear(2, 3, 4), "outer product", 1),
    "embedding": (nn.Embedding(5, 3), "prune the layers after it", 1),
    "bag": (nn.EmbeddingBag(5, 1), "prune the layers after it", 1),
    "table": (nn.ParameterList([nn.Parameter(torch.zeros(3, 4))]), "ParameterList", 1),
    "integers": (nn.Linear(3, 4), "torch.int8", 1),
}


@pytest.mark.parametrize("name", HOLDERS)
def test_what_holds_weights_and_is_no_layer_is_told(name):
    module, reason, count = HOLDERS[name]
    if name == "integers":
        module.weight = nn.Parameter(module.weight.to(torch.int8), requires_grad=False)
    model = nn.ModuleDict({name: module, "norm": nn.LayerNorm((3, 4)), "head": nn.Linear(2, 2)})
    found = find_unsupported(model)
    assert len(found) == count
    assert all(x.name.startswith(name) and reason in x.reason for x in found)
    assert [x.name for x in find_layers(model)] == ["head"]
    only = nn.ModuleDict({name: module})
    with pytest.raises(ValueError, match="must have a layer that can be pruned, got none; "):
        select_layers(find_layers(only), None, unsupported=find_unsupported(only))
    with pytest.raises(ValueError, match=f"{name}.* is left dense: "):
        select_layers(find_layers(model), name, unsupported=find_unsupported(model))


def test_modules_in_plain_lists_are_told():
    class Lists(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks, self.h = [nn.Sequential(nn.Linear(6, 6))], nn.Linear(6, 3)

        def forward(self, x):
            return self.h(self.blocks[0](x).relu())

    rows = trace(Lists(), torch.randn(9, 6), augment=None, sparsity=0.5, progress=False).layers
    assert [(x.name, x.status) for x in rows] == [("h", "pruned"), ("blocks.0.0", "unsupported")]
    assert "nn.ModuleList" in rows[1].reason


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
