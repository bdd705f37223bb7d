"""Whole networks with random weights: every layer is found and reported, some are pruned, nothing else changes."""

import pytest
import torch
from torch import nn

from spade_xai import TextAugment, attribute, trace
from spade_xai.measures.text import dffot
from spade_xai.models.layers import find_layers
from spade_xai.tracing.text_augment import nearest


def torchvision(name, **options):
    from torchvision import models

    return lambda: models.get_model(name, weights=None, num_classes=10, **options)


def vision_transformer():
    from torchvision import models

    return models.VisionTransformer(32, 16, 3, 4, 64, 128, num_classes=10)


def bert():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, num_labels=4
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def mlp():
    return nn.Sequential(
        nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 10)
    )


CASES = {  # model, layers in all, depthwise ones, those to prune, first and last executed
    "resnet50": (
        torchvision("resnet50"), 54, 0, ["layer1.0.conv?", "layer4.0.conv1"], "conv1", "fc"
    ),
    "mobilenet_v2": (
        torchvision("mobilenet_v2"), 53, 17, ["features.1", "classifier"], "features.0.0", "classifier.1"
    ),
    "convnext_tiny": (
        torchvision("convnext_tiny"), 59, 18, ["features.0.0", "features.1.0", "classifier.2"],
        "features.0.0", "classifier.2",
    ),
    "vit": (
        vision_transformer, 20, 0,
        ["encoder.layers.encoder_layer_2.self_attention", "heads.head"], "conv_proj", "heads.head",
    ),
    "bert": (
        bert, 14, 0, ["*.attention.*", "classifier"], "bert.encoder.layer.0.attention.self.query",
        "classifier",
    ),
    "mlp": (mlp, 3, 0, ["2", "4"], "0", "4"),
}  # fmt: skip


def sample_for(name, dtype):
    generator = torch.Generator().manual_seed(1)
    if name == "bert":
        ids = torch.randint(5, 60, (1, 9), generator=generator)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if name == "mlp":
        return torch.randn(1, 20, generator=generator).to(dtype)
    return torch.rand(1, 3, 32, 32, generator=generator).to(dtype)


def augment_for(name, model):
    if name == "bert":
        return TextAugment(nearest(model.get_input_embeddings().weight), alpha=0.3)
    return "auto" if name != "mlp" else (lambda x: x + 0.1 * torch.randn_like(x))


@pytest.fixture(scope="module", params=CASES)
def network(request):
    torch.manual_seed(0)
    if request.param not in ("bert", "mlp"):
        pytest.importorskip("torchvision")
    model = CASES[request.param][0]().eval()
    for parameter in model.parameters():  # a ViT's head starts as zeros
        if parameter.ndim == 2 and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return request.param, model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_trace(network, dtype):
    name, model = network
    _, count, depthwise, patterns, first, last = CASES[name]
    model.to(dtype)
    found = find_layers(model)
    assert len(found) == count
    assert sum(layer.depthwise for layer in found) == depthwise
    before = {key: value.clone() for key, value in model.state_dict().items()}
    sample = sample_for(name, dtype)
    options = {
        "augment": augment_for(name, model),
        "augmentations": 6,
        "batch_size": 3,
        "progress": False,
    }

    sparsity = dict.fromkeys(patterns, 0.5)
    pruned = trace(model, sample, sparsity=sparsity, method="sparsegpt", **options)
    rows = [layer for layer in pruned.layers if not layer.reason]
    assert len(rows) == count - depthwise
    assert (rows[0].name, rows[-1].name) == (first, last)
    spared = [layer for layer in pruned.layers if "depthwise=True" in layer.reason]
    assert len(spared) == depthwise
    matrices = [p for p in model.parameters() if sum(size > 1 for size in p.shape) > 1]
    assert sum(x.rows * x.cols for x in pruned.layers) == sum(p.numel() for p in matrices)
    masks = pruned.masks()
    assert len(masks) >= 2
    for layer in pruned.layers:
        if layer.sparsity_asked == 0:
            assert layer.status == (
                "unsupported" if layer.reason and layer not in spared else "dense"
            )
            continue
        assert layer.status in ("pruned", "damped")
        assert 0.45 < layer.sparsity_got <= 1
        assert masks[layer.name].float().mean().item() == pytest.approx(
            1 - layer.sparsity_got, abs=1e-6
        )
    after = pruned.model.state_dict()
    changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
    weights = {path for layer in found if layer.name in masks for path in layer.parameters}
    assert changed == weights
    assert all(value.dtype == before[key].dtype for key, value in after.items())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    fidelity = pruned.fidelity(augmentations=2)
    assert fidelity.sample.count == 1
    assert 0 < fidelity.sample.error < 2


@pytest.mark.parametrize("network", ["resnet50", "bert", "mlp"], indirect=True)
def test_exact_obc_of_the_head(network):
    name, model = network
    model.float()
    options = {"augment": augment_for(name, model), "augmentations": 4, "progress": False}
    last = CASES[name][-1]
    result = trace(model, sample_for(name, torch.float32), sparsity=0.9, layers=last, **options)
    (layer,) = result.layers
    assert layer.sparsity_got == pytest.approx(0.9, abs=0.05)
    assert layer.relative_loss < 1


@pytest.mark.parametrize("network", ["bert"], indirect=True)
def test_tokens_are_explained_through_a_trace(network):
    """As in appendix D.3: the head is pruned for one text, integrated gradients explain it, DFFOT measures."""
    model = network[1].float()
    sample = sample_for("bert", torch.float32)
    augment = augment_for("bert", model)
    options = {"augment": augment, "augmentations": 16, "progress": False}
    result = trace(model, sample, sparsity=0.8, layers="classifier", **options)
    ids, others = sample["input_ids"], {"attention_mask": sample["attention_mask"]}
    scores = attribute(result.model, ids, method="integrated_gradients", kwargs=others, steps=5)
    assert scores.shape == ids.shape
    assert scores.isfinite().all() and scores.any()
    assert dffot(model, ids, scores) in (0, 1)


TIMM = {  # arguments, and status of layers: read outside their module, or padded by it
    "beit_base_patch16_224": (
        dict(img_size=32, depth=1, embed_dim=24, num_heads=2), {"blocks.0.attn.qkv": "pruned"}
    ),
    "eva02_tiny_patch14_224": (
        dict(img_size=28, depth=1, embed_dim=24, num_heads=2),
        {"blocks.0.attn.qkv": "pruned", "pos_embed": "unsupported"},
    ),
    "tf_efficientnet_lite0": (dict(), {"conv_stem": "pruned", "blocks.0.0.conv_dw": "dense"}),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TIMM)
def test_timm(name):
    timm = pytest.importorskip("timm")
    options, statuses = TIMM[name]
    model = timm.create_model(name, num_classes=5, **options).eval()
    x = torch.rand(1, 3, options.get("img_size", 32), options.get("img_size", 32))
    sparsity = {layer: 0.5 for layer, status in statuses.items() if status == "pruned"}
    found = trace(model, x, method="sparsegpt", sparsity=sparsity, augment=None, progress=False)
    rows = {row.name: row for row in found.layers}
    assert {layer: rows[layer].status for layer in statuses} == statuses
    assert all(row.reason for row in found.layers if row.status in ("unsupported", "unused"))
    matrices = [p for p in model.parameters() if sum(size > 1 for size in p.shape) > 1]
    assert sum(x.rows * x.cols for x in found.layers) == sum(p.numel() for p in matrices)


@pytest.mark.filterwarnings("ignore")
def test_weight_standardisation_of_timm():
    """Convolutions of NFNet and BiT multiply with another weight than their parameter."""
    layers = pytest.importorskip("timm.layers")
    head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 36, 3))
    model = nn.Sequential(layers.ScaledStdConv2d(3, 4, 3, padding=0), *head).eval()
    found = trace(model, torch.rand(9, 3, 8, 8), sparsity=0.5, augment=None, progress=False)
    assert {row.name: row.status for row in found.layers} == {"2": "pruned", "0": "unsupported"}
    reason = found.layers[1].reason
    assert "gives its weight to torch.Tensor.reshape and not to a conv2d layer" in reason
