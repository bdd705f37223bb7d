"""spade_xai.trace end to end on a small network."""

import copy

import pytest
import torch
from classifiers import Scaled
from torch import nn
from torch.nn.utils import prune

from spade_ext import DampingWarning
from spade_xai import schedule
from spade_xai.models.precision import forward_precision
from spade_xai.tracing.result import load_trace
from spade_xai.tracing.trace import trace, trace_many

OPTIONS = {"augmentations": 24, "batch_size": 8, "progress": False}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, stride=2, groups=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(6 * 9, 4),
    ).train()  # fmt: skip


@pytest.fixture
def sample():
    return torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def noise(batch):
    return batch + 0.1 * torch.randn_like(batch)


@pytest.mark.parametrize("method", ["obc", "sparsegpt"])
def test_layers_lose_what_is_asked_and_the_dense_model_stays(model, sample, method):
    before, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    result = trace(model, sample, method=method, sparsity=0.5, augment=noise, **OPTIONS)
    assert [layer.name for layer in result.layers] == ["0", "2", "5"]
    for layer in result.layers:
        weight = result.model.get_submodule(layer.name).weight
        got = (weight == 0).float().mean().item()
        assert got == pytest.approx(layer.sparsity_got)
        assert got >= 0.48  # inputs that are always 0 take their weights with them
        assert torch.equal(result.masks()[layer.name].flatten(), weight.flatten() != 0)
    assert model.training and all(m.training for m in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert result.agreement(result) == {"0": 1.0, "2": 1.0, "5": 1.0}
    again = trace(model, sample, method=method, sparsity=0.5, augment=noise, **OPTIONS)
    assert result.agreement(again) == {"0": 1.0, "2": 1.0, "5": 1.0}


def test_masks_go_into_torchs_pruning(model, sample):
    result = trace(model, sample, method="magnitude", sparsity=0.5, augment=noise, **OPTIONS)
    for name, mask in result.masks().items():
        layer = model.get_submodule(name)
        prune.custom_from_mask(layer, "weight", mask)
        assert torch.equal(layer.weight, result.model.get_submodule(name).weight)


def test_nothing_pruned_is_the_dense_model(model, sample):
    result = trace(model, sample, sparsity=0.0, augment=noise, **OPTIONS)
    fidelity = result.fidelity()
    assert fidelity.sample.label == 1.0 and fidelity.sample.error < 1e-5


def test_exact_obc_keeps_outputs_better_than_sparsegpt(model, sample):
    exact, fast = (
        trace(model, sample, method=m, sparsity=0.7, augment=noise, **OPTIONS)
        for m in ("obc", "sparsegpt")
    )
    for one, other in zip(exact.layers, fast.layers, strict=True):
        assert one.loss <= other.loss * 1.001


def test_an_exception_leaves_the_model_as_it_was(model, sample):
    def interrupt(batch):
        raise KeyboardInterrupt

    before = copy.deepcopy(model.state_dict())
    with pytest.raises(KeyboardInterrupt):
        trace(model, sample, augment=interrupt, **OPTIONS)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_many_equal_one_by_one(model):
    samples = torch.rand(3, 3, 8, 8)
    many = list(trace_many(model, samples, group=2, sparsity=0.5, augment=noise, **OPTIONS))
    assert len(many) == 3
    for i, result in enumerate(many):
        alone = trace(
            model, samples[i : i + 1], method="sparsegpt", sparsity=0.5, augment=noise, **OPTIONS
        )
        assert min(result.agreement(alone).values()) > 0.95


def test_save_and_load(model, sample, tmp_path):
    result = trace(model, sample, sparsity=0.5, augment=noise, **OPTIONS)
    path = tmp_path / "sample.trace"
    result.save(path)
    loaded = load_trace(path, model)
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(loaded.model(x), result.model(x), rtol=0, atol=0)
    other = nn.Sequential(nn.Conv2d(3, 7, 3), nn.ReLU())
    with pytest.raises(ValueError, match=r"first difference at 0\.weight: "):
        load_trace(path, other)
    with pytest.raises(TypeError, match=r"load_trace: model must be an nn\.Module, got NoneType"):
        load_trace(path, None)


class Pass(nn.Module):
    """One of several forward passes of the same weights."""

    def __init__(self, activation=torch.relu, stride=1, draws=False):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 6, 3, stride=stride), nn.Linear(6, 4)
        self.activation, self.draws = activation, draws

    def forward(self, x, mask=None):
        y = self.activation(self.body(x))
        y = y if mask is None else y * mask[:, None, None, None]
        y = torch.nn.functional.dropout(y, 0.5, self.draws)
        return self.head(y.mean((2, 3)))


OTHERS = {
    "activation": {"activation": torch.nn.functional.gelu},
    "stride": {"stride": 2},
    "random": {"draws": True},
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("kind", ["tensor", "tuple", "dict"])
def test_files_of_another_forward_pass_are_refused(tmp_path, sample, kind, other):
    torch.manual_seed(0)
    model, path = Pass(), tmp_path / "t.safetensors"
    mask = torch.ones(len(sample), dtype=torch.long)
    inputs = {"tensor": sample, "tuple": (sample, mask), "dict": {"x": sample, "mask": mask}}[kind]
    options = {"augment": None, "sparsity": 0.5, "progress": False}
    trace(model, inputs, **options).save(path)
    changed = Pass(**OTHERS[other])
    changed.load_state_dict(model.state_dict())
    with pytest.raises(ValueError, match="the same weights but another forward pass"):
        load_trace(path, changed)
    draws = torch.get_rng_state()
    load_trace(path, model.train()).save(path)  # what is known of the forward pass lasts
    assert torch.equal(torch.get_rng_state(), draws)
    with pytest.raises(ValueError, match="the same weights but another forward pass"):
        load_trace(path, changed)
    load_trace(path, model)


def test_a_model_that_draws_is_known_by_its_weights(tmp_path, sample):
    model, path = Pass(draws=True), tmp_path / "t.safetensors"
    trace(model, sample, augment=None, sparsity=0.5, progress=False).save(path)
    assert load_trace(path, model).layers


def test_patterns_and_published_recipe(model, sample):
    result = trace(model, sample, sparsity={"0": 0.25, "re:[25]": 0.5}, augment="resnet", **OPTIONS)
    asked = {layer.name: layer.sparsity_asked for layer in result.layers}
    assert asked == {"0": 0.25, "2": 0.5, "5": 0.5}
    assert schedule.uniform(0.3)(["a", "b"]) == {"a": 0.3, "b": 0.3}


@pytest.mark.parametrize("precision", ["bfloat16", "tf32"])
def test_forward_precision_changes_little_and_leaves_the_flags(model, sample, precision):
    flags = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    options = OPTIONS | {"augment": noise, "sparsity": 0.5}
    plain = trace(model, sample, **options)
    result = trace(model, sample, forward_precision=precision, **options)
    assert min(plain.agreement(result).values()) > 0.9
    assert flags == (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    assert not torch.is_autocast_enabled("cpu")


def test_unknown_forward_precision(model, sample):
    with pytest.raises(ValueError, match=r"trace: forward_precision must be one of .* got 'int8'"):
        trace(model, sample, augment=noise, forward_precision="int8", **OPTIONS)


@pytest.mark.parametrize("method", ["obc", "sparsegpt"])
@pytest.mark.parametrize("scale", [1e-19, 1e18])
def test_inputs_of_extreme_scales_are_pruned_as_others(method, scale):
    torch.manual_seed(0)
    x = torch.rand(24, 12)
    options = {"method": method, "sparsity": 0.5, "augment": None, "progress": False}
    model = Scaled(scale)
    result, plain = trace(model, x, **options), copy.deepcopy(model)
    plain.scale = 1.0
    expected = trace(plain, x, **options)
    assert result.agreement(expected) == {"first": 1.0, "second": 1.0}
    for got, usual in zip(result.layers, expected.layers, strict=True):
        assert got.status == usual.status == "pruned"
        assert got.relative_loss == pytest.approx(usual.relative_loss, rel=1e-3)
    assert result.layers[0].loss == pytest.approx(expected.layers[0].loss * scale**2, rel=1e-3)


@pytest.mark.parametrize("method", ["obc", "sparsegpt"])
def test_a_layer_whose_hessian_overflows_fails_alone(method):
    torch.manual_seed(0)
    model, x = Scaled(1e30), torch.rand(2, 12, 12)
    with pytest.warns(DampingWarning, match="left dense: first"):
        results = list(
            trace_many(
                model,
                [x[0], x[1] * 1e-30],
                method=method,
                sparsity=0.5,
                augment=None,
                progress=False,
            )
        )
    assert [layer.status for layer in results[0].layers] == ["failed", "pruned"]
    assert torch.equal(results[0].model.first.weight, model.first.weight)
    assert results[1].layers[0].status == "pruned"


@pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch before 2.9"
)
def test_float32_passes_leave_precision_set_by_the_newer_flags():
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"
    try:
        with pytest.raises(RuntimeError):  # what the older flags say to it
            _ = matmul.allow_tf32
        with forward_precision("float32", "cuda"):
            assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before
