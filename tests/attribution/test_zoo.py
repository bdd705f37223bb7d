"""Architectures of timm and transformers at random weights through trace, saliency, DeepLIFT and LRP, sums checked.

A few small ones run by default; SPADE_ZOO=1 runs all (`SPADE_ZOO=1 pytest tests/attribution/test_zoo.py`).
"""

import os
import warnings

import pytest
import torch
from conservation import ledger

from spade_xai import attribute, trace
from spade_xai.exceptions import SpadeWarning, UnfaithfulTraceWarning
from spade_xai.models.layers import find_layers

IMAGES = {  # timm's name: size of the image
    "resnet18": 32,
    "convnextv2_atto": 32,
    "vit_tiny_patch16_224": 224,
    "resnet50": 64,
    "resnext50_32x4d": 64,
    "seresnet50": 64,
    "densenet121": 64,
    "vgg11_bn": 64,
    "inception_v3": 96,
    "mobilenetv2_050": 64,
    "mobilenetv3_small_050": 64,
    "efficientnet_lite0": 32,
    "efficientnet_b0": 64,
    "regnety_002": 64,
    "repvgg_a0": 64,
    "ghostnet_050": 64,
    "hrnet_w18_small": 64,
    "convnext_atto": 64,
    "convmixer_768_32": 64,
    "poolformer_s12": 64,
    "mixer_s32_224": 224,
    "swin_tiny_patch4_window7_224": 224,
    "deit_tiny_patch16_224": 224,
    "eva02_tiny_patch14_224": 224,
    "beit_base_patch16_224": 224,
    "cait_xxs24_224": 224,
    "pit_ti_224": 224,
    "mobilevit_xxs": 64,
    "edgenext_xx_small": 64,
    "dpn48b": 64,
}
SMALL = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
TEXTS = {
    "Bert": SMALL,
    "GPT2": dict(n_embd=32, n_layer=2, n_head=4, n_positions=32),
    "Llama": SMALL | dict(num_key_value_heads=2),
    "Roberta": SMALL,
    "DistilBert": dict(dim=32, n_layers=2, n_heads=4, hidden_dim=48),
    "Electra": SMALL | dict(embedding_size=16),
    "Albert": SMALL | dict(embedding_size=16),
    "OPT": dict(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=48, word_embed_proj_dim=32
    ),
    "Mistral": SMALL | dict(num_key_value_heads=2),
    "Qwen2": SMALL | dict(num_key_value_heads=2),
    "GPTNeoX": SMALL,
    "MPNet": SMALL,
}  # fmt: skip
SHORT = {"resnet18", "convnextv2_atto", "efficientnet_lite0", "Bert", "GPT2", "Llama"}
LONG = pytest.mark.skipif(not os.environ.get("SPADE_ZOO"), reason="SPADE_ZOO=1 runs all")


def chosen(names):
    return [name if name in SHORT else pytest.param(name, marks=LONG) for name in names]


def live(model):
    """Random weights as after some training: nothing starts as zeros, batch norms have statistics."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if (
            tensor.is_floating_point()
            and tensor.ndim
            and not tensor.any()
            and "running" not in name
        ):
            torch.nn.init.normal_(tensor, std=0.02)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.normal_(module.weight, 0.8, 0.3)
    return model.double().eval()


def check_trace(model, sample):
    """FastSPADE prunes the last two layers to what is asked, and leaves the others and the dense model as they are."""
    last = {layer.name: 0.5 for layer in find_layers(model) if not layer.depthwise}
    wanted = dict(list(last.items())[-2:])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error", SpadeWarning)
        warnings.simplefilter("ignore", UnfaithfulTraceWarning)
        found = trace(
            model, sample, method="FastSPADE", sparsity=wanted, augment=None, progress=False
        )
    masks = found.masks()
    reports = {layer.name: layer for layer in found.layers if layer.name in wanted}
    unused = {name for name, layer in reports.items() if layer.status == "unused"}
    assert masks and set(masks) == set(wanted) - unused
    for name, mask in masks.items():
        got = 1 - float(mask.double().mean())
        assert abs(got - reports[name].sparsity_got) < 1e-9 and got >= 0.49
        assert reports[name].status in ("pruned", "damped")
        assert 0 <= reports[name].relative_loss < 1
    pruned = {path for x in find_layers(model) if x.name in masks for path in x.parameters}
    after = found.model.state_dict()
    assert {name for name, v in before.items() if not torch.equal(v, after[name])} == pruned
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def check(model, x, baseline, score, **options):
    """Saliency is finite, DeepLIFT sums to f(x) - f(baseline) to 1e-3, and LRP conserves relevance.

    The map and what units and constants keep by the rules' definition (tests/support/conservation.py) sum to |f(x)|.
    """
    options |= {"progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("error", SpadeWarning)
        assert attribute(model, x, 1, "saliency", **options).abs().sum() > 0
        sums = attribute(model, x, 1, "deep_lift", baseline=baseline, **options).flatten(1).sum(1)
        with ledger() as kept:
            relevance = attribute(model, x, 1, "lrp", epsilon=1e-12, **options).sum()
    at_x, at_baseline = score
    torch.testing.assert_close(sums, at_x - at_baseline, rtol=1e-3, atol=1e-9)
    logit = float(at_x.abs())
    found, absorbed = float(relevance), kept.absorbed
    print(
        f"{kept.calls} rules: {found / logit:.4f} of the logit at the input, {absorbed / logit:.4f} in units"
    )
    assert kept.calls > 1 and found > 0
    assert abs(found + absorbed - logit) <= 1e-6 * logit


@pytest.mark.parametrize("name", chosen(IMAGES))
def test_timm(name):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model, size = live(timm.create_model(name, num_classes=5)), IMAGES[name]
    x = torch.rand(1, 3, size, size, dtype=torch.float64)
    baseline = torch.rand(1, 3, size, size, dtype=torch.float64) * 0.2
    with torch.no_grad():
        score = [model(v)[:, 1] for v in (x, baseline)]
    check(model, x, baseline, score)
    check_trace(model, x)


@pytest.mark.parametrize("name", chosen(TEXTS))
def test_transformers(name):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(
        **TEXTS[name], vocab_size=60, max_position_embeddings=40, num_labels=3, pad_token_id=0
    )
    kind = getattr(transformers, f"{name}ForSequenceClassification")
    model = live(kind(config))
    ids = torch.tensor([[5, 9, 33, 7, 2, 0, 0]])
    kwargs = {"attention_mask": (ids != 0).long()}
    vectors = model.get_input_embeddings()(ids).detach()
    baseline = torch.rand_like(vectors) * 0.02
    score = []
    for value in (vectors, baseline):
        hook = model.get_input_embeddings().register_forward_hook(lambda *_, v=value: v)
        with torch.no_grad():
            score.append(model(ids, **kwargs).logits[:, 1])
        hook.remove()
    check(model, ids, baseline, score, kwargs=kwargs)
    check_trace(model, {"input_ids": ids, **kwargs})
