"""Grad-CAM weighs true feature maps: channels last are permuted, tokens put in rows and columns, attention refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from spade_xai import attribute
from spade_xai.attribution.feature_maps import Following, Layout
from spade_xai.exceptions import DegenerateMapWarning


def cam(features, gradient, size):
    """relu(sum_c w_c A_c) of maps [B, C, h, w] at the size of the image."""
    maps = (gradient.mean((2, 3), keepdim=True) * features).sum(1, keepdim=True).relu()
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def by_hook(model, layer, x, target):
    """A layer's outputs and the gradient of the logit with respect to them."""
    kept = []
    hook = layer.register_forward_hook(lambda m, a, out: kept.append(out))
    score = model(x)[:, target].sum()
    hook.remove()
    return kept[-1].detach(), torch.autograd.grad(score, kept[-1])[0]


def got(model, x, **options):
    return attribute(model, x, 1, "grad_cam", progress=False, **options).sum(1, keepdim=True)


def test_convolutional_network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.Conv2d(6, 6, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(6, 4),
    ).double()  # fmt: skip
    x = torch.rand(3, 3, 12, 12, dtype=torch.float64)
    expected = cam(*by_hook(model, model[3], x, 1), (12, 12))
    torch.testing.assert_close(got(model, x), expected)
    torch.testing.assert_close(got(model, x, batch_size=1), expected)
    model[1].inplace = model[3].inplace = False
    first = cam(*by_hook(model, model[0], x, 1), (12, 12))
    model[1].inplace = model[3].inplace = True
    torch.testing.assert_close(got(model, x, layer="0"), first)  # not what the ReLU made of it
    full = attribute(model, x, 1, "grad_cam", progress=False)
    assert full.shape == x.shape and torch.equal(full[:, 0], full[:, 2])


def timm_model(name, **options):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=5, **options).double().eval()


def test_swin_is_permuted():
    model = timm_model(
        "swin_tiny_patch4_window7_224",
        img_size=56,
        depths=(1, 1, 2),
        num_heads=(2, 2, 4),
        embed_dim=24,
    )
    x = torch.rand(2, 3, 56, 56, dtype=torch.float64)
    features, gradient = (t.permute(0, 3, 1, 2) for t in by_hook(model, model.norm, x, 1))
    assert features.shape[:2] == (2, 96) and features.shape[2:].numel() > 1
    torch.testing.assert_close(got(model, x), cam(features, gradient, (56, 56)))
    torch.testing.assert_close(got(model, x, layer="norm"), cam(features, gradient, (56, 56)))


def test_tokens_of_a_vision_transformer_are_put_back():
    model = timm_model("vit_tiny_patch16_224", img_size=64, depth=3, qk_norm=True)
    x = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    # Behind the last attention only the class token counts, so its input is the last map.
    features, gradient = (
        t[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
        for t in by_hook(model, model.blocks[2].norm1, x, 1)
    )
    expected = cam(features, gradient, (64, 64))
    assert expected.any()
    torch.testing.assert_close(got(model, x), expected)
    with pytest.raises(
        ValueError, match=r"layer must have outputs .* got layer='head' with outputs"
    ):
        got(model, x, layer="head")


class Heads(nn.Module):
    """Nothing but heads and attention weights have four dimensions, and nothing is added to the stream."""

    def __init__(self):
        super().__init__()
        self.project, self.norm, self.head = nn.Linear(3, 8), nn.Identity(), nn.Linear(8, 3)
        self.softmax = nn.Softmax(-1)

    def forward(self, x):
        tokens = self.project(x.flatten(2).transpose(1, 2))
        q = self.norm(tokens.unflatten(-1, (2, 4)).transpose(1, 2))  # [B, heads, T, d]
        weights = self.softmax(q @ q.transpose(-2, -1))
        return self.head((weights @ q).transpose(1, 2).flatten(2).mean(1))


def test_heads_and_attention_weights_are_refused():
    model, x = Heads().eval(), torch.rand(1, 3, 4, 4)
    with pytest.raises(ValueError, match="grad_cam needs a layer with a feature map"):
        got(model, x)
    with pytest.raises(ValueError, match="needs a layer with a feature map"):
        attribute(model, x, 1, "guided_grad_cam", progress=False)


FUNCTIONS = {
    "stride": (lambda x: F.conv2d(x, torch.rand(5, 3, 3, 3), stride=2, padding=1), Layout((2, 3), 4, 6)),
    "padded": (lambda x: F.conv2d(F.pad(x, (1, 1, 1, 1)), torch.rand(5, 3, 3, 3)), Layout((2, 3), 8, 12)),
    "last": (lambda x: x.permute(0, 2, 3, 1) + 1, Layout((1, 2), 8, 12)),
    "tokens": (lambda x: x.flatten(2).transpose(1, 2) @ torch.rand(3, 5), None),
    "stream": (lambda x: tokens(x) + tokens(x) @ torch.rand(3, 3), Layout((1,), 8, 12)),
    "class token": (lambda x: torch.cat([torch.rand(1, 1, 3), tokens(x)], 1), Layout((1,), 8, 12, 1)),
    "registers": (lambda x: torch.cat([tokens(x), torch.rand(1, 4, 3)], 1), Layout((1,), 8, 12)),
    "without it": (lambda x: torch.cat([torch.rand(1, 1, 3), tokens(x)], 1)[:, 1:], Layout((1,), 8, 12)),
    "merged": (lambda x: merged(x), Layout((1, 2), 4, 6)),
    "windows": (lambda x: windows(x), None),
    "windows put back": (lambda x: back(windows(x)), Layout((1, 2), 8, 12)),
    "shifted": (lambda x: x.roll(3, dims=2), None),
    "shifted back": (lambda x: x.roll(3, dims=2).roll(-3, dims=2), Layout((2, 3), 8, 12)),
    "mixed over tokens": (lambda x: F.linear(x.flatten(2), torch.rand(96, 96)), None),
    "pooled": (lambda x: x.mean((2, 3)), None),
    "transposed": (lambda x: x.transpose(2, 3), None),
}  # fmt: skip


def tokens(x):
    return x.flatten(2).transpose(1, 2)


def merged(x):
    y = x.permute(0, 2, 3, 1).reshape(1, 4, 2, 6, 2, 3).permute(0, 1, 3, 2, 4, 5).flatten(3)
    return F.linear(y, torch.rand(6, 12))


def windows(x):
    return x.permute(0, 2, 3, 1).view(1, 2, 4, 3, 4, 3).transpose(2, 3).reshape(1, 6, 16, 3)


def back(y):
    return y.view(1, 2, 3, 4, 4, 3).transpose(2, 3).reshape(1, 8, 12, 3)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_layouts(name):
    function, expected = FUNCTIONS[name]
    x = torch.rand(1, 3, 8, 12)
    following = Following(x)
    with following:
        out = function(x)
    assert following.layout(out) == expected


def test_a_score_that_depends_on_no_map_gives_zeros_and_a_warning():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    nn.init.zeros_(model[3].weight)
    with pytest.warns(DegenerateMapWarning, match="attributions of grad_cam are 0 everywhere"):
        assert not got(model, torch.rand(1, 3, 8, 8)).any()
