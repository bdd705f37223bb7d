"""Runs of trace: sequential pruning, memory limits, progress, kinds of samples, and what a trace reports."""

import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from spade_ext import hessian, obc_prune
from spade_xai.exceptions import MemoryLimitWarning, UnprunedLayerWarning
from spade_xai.models.layers import find_layers
from spade_xai.tracing.augment import augmented
from spade_xai.tracing.memory import parse_memory, plan_memory
from spade_xai.tracing.pruning.registry import PRUNING_METHODS
from spade_xai.tracing.result import load_trace
from spade_xai.tracing.trace import trace, trace_many

OPTIONS = {"augmentations": 24, "batch_size": 8, "progress": False, "sparsity": 0.5}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 4)
    ).eval()


@pytest.fixture
def sample():
    return torch.randn(1, 6, generator=torch.Generator().manual_seed(1))


def noise(batch):
    return batch + 0.5 * torch.randn_like(batch)


def variants(sample, count=24):
    return torch.cat(list(augmented("test", sample, noise, count, 0)))


def test_parallel_pruning_reads_the_dense_models_inputs(model, sample):
    result = trace(model, sample, augment=noise, **OPTIONS)
    x = variants(sample)
    for name, inputs in (("0", x), ("2", model[:2](x)), ("4", model[:4](x))):
        expected = obc_prune(
            model.get_submodule(name).weight.detach(), hessian(inputs.detach()), 0.5
        )
        torch.testing.assert_close(
            result.model.get_submodule(name).weight.detach(), expected, rtol=1e-4, atol=1e-5
        )


def test_sequential_pruning_reads_the_sparse_models_inputs(model, sample):
    result = trace(model, sample, augment=noise, sequential=True, **OPTIONS)
    x, sparse = variants(sample), result.model
    with torch.no_grad():
        for name, inputs in (("0", x), ("2", sparse[:2](x)), ("4", sparse[:4](x))):
            expected = obc_prune(model.get_submodule(name).weight.detach(), hessian(inputs), 0.5)
            torch.testing.assert_close(
                sparse.get_submodule(name).weight, expected, rtol=1e-4, atol=1e-5
            )


def test_reported_losses_and_fidelity(model, sample):
    result = trace(model, sample, augment=noise, **OPTIONS)
    x, sparse = variants(sample), result.model
    with torch.no_grad():
        inputs = model[:4](x)
        change = (inputs @ (model[4].weight - sparse[4].weight).T).square().sum().item()
        whole = (inputs @ model[4].weight.T).square().sum().item()
        dense, pruned = model(x), sparse(x)
    last = result.layers[-1]
    assert last.loss == pytest.approx(change, rel=1e-3)
    assert last.relative_loss == pytest.approx(change / whole, rel=1e-3)
    found = result.fidelity().augmentations
    assert found.count == 24
    assert found.label == pytest.approx(
        (dense.argmax(1) == pruned.argmax(1)).double().mean().item()
    )
    assert found.error == pytest.approx(((dense - pruned).norm() / dense.norm()).item(), rel=1e-4)
    a, b = (v - v.mean(1, keepdim=True) for v in (dense, pruned))
    assert found.cosine == pytest.approx(torch.cosine_similarity(a, b).mean().item(), rel=1e-4)
    given = result.fidelity(x[:3], augment=None).sample
    assert given.count == 3


def test_agreement_is_the_overlap_of_the_masks(model, sample):
    one = trace(model, sample, augment=noise, **OPTIONS)
    other = trace(model, -sample, augment=noise, **OPTIONS)
    found = one.agreement(other)
    assert set(found) == {"0", "2", "4"}
    for name, value in found.items():
        a, b = one.masks()[name], other.masks()[name]
        both = (a & b).sum().item()
        assert value == pytest.approx(both / math.sqrt(a.sum().item() * b.sum().item()))


@pytest.mark.parametrize("method", ["obc", "sparsegpt"])
def test_a_memory_limit_splits_the_work_and_changes_nothing(model, sample, method):
    options = {**OPTIONS, "augment": noise, "method": method}
    whole = trace(model, sample, **options)
    whole_plan = plan_memory(
        find_layers(model), method=PRUNING_METHODS[method], samples=1, max_memory=None
    )
    needed = whole_plan.bytes
    with pytest.warns(MemoryLimitWarning, match="2 groups of layers"):
        parts = trace(model, sample, max_memory=needed - 1, **options)
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match=r"max_memory must be at least [0-9]+ bytes for layer"):
        trace(model, sample, max_memory=100, **options)


def test_a_memory_limit_splits_samples_first(model):
    layers = find_layers(model)
    options = {"method": PRUNING_METHODS["sparsegpt"]}
    one, five = (plan_memory(layers, samples=n, max_memory=None, **options).bytes for n in (1, 5))
    plan = plan_memory(layers, samples=5, max_memory=five - 1, **options)
    assert plan.samples == 4 and len(plan.parts) == 1
    assert plan_memory(layers, samples=5, max_memory=one, **options).samples == 1
    samples = torch.randn(5, 6)
    with pytest.warns(MemoryLimitWarning, match="1 of 5 samples at once"):
        few = list(trace_many(model, samples, augment=noise, max_memory=one, **OPTIONS))
    many = list(trace_many(model, samples, augment=noise, **OPTIONS))
    for a, b in zip(few, many, strict=True):
        assert a.agreement(b) == {"0": 1.0, "2": 1.0, "4": 1.0}


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (None, None),
        (3000, 3000),
        ("2GB", 2 * 10**9),
        ("1.5 MiB", 1572864),
        ("512k", 512000),
        ("1e6", 10**6),
    ],
)
def test_sizes(value, size):
    assert parse_memory("trace", value) == size


@pytest.mark.parametrize("value", ["much", "", "-1GB", 0, -5])
def test_sizes_refused(value):
    with pytest.raises(ValueError, match="trace: max_memory must be"):
        parse_memory("trace", value)


def test_progress_of_each_stage_ends_at_its_total(model, sample):
    seen = {}
    options = {
        **OPTIONS,
        "progress": lambda stage, done, total: seen.setdefault(stage, []).append((done, total)),
    }
    result = trace(model, sample, augment=noise, **options)
    assert set(seen) == {"forward", "hessian", "prune"}
    for steps in seen.values():
        assert [done for done, _ in steps] == sorted(done for done, _ in steps)
        assert steps[-1][0] == steps[-1][1]
    assert set(result.timings) == {"augment", "forward", "hessian", "prune", "fidelity"}
    assert all(seconds > 0 for seconds in result.timings.values())


class Reads(nn.Module):
    """Takes arguments by position or name, has a layer it does not use, and gives logits as an attribute."""

    def __init__(self):
        super().__init__()
        self.body, self.idle, self.head = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x, scale=None):
        x = self.body(x).relu()
        return SimpleNamespace(logits=self.head(x if scale is None else x * scale))


@pytest.mark.parametrize("structured", ["tensor", "tuple", "dict"])
def test_samples_may_be_structured_and_layers_unused(sample, structured):
    torch.manual_seed(0)
    model, scale = Reads(), torch.ones(1, 1)
    inputs = {"tensor": sample, "tuple": (sample, scale), "dict": {"x": sample, "scale": scale}}[
        structured
    ]

    def vary(batch):
        if isinstance(batch, tuple):
            return (noise(batch[0]), batch[1])
        return {**batch, "x": noise(batch["x"])} if isinstance(batch, dict) else noise(batch)

    result = trace(model, inputs, augment=vary, **OPTIONS)
    plain = trace(model, sample, augment=noise, **OPTIONS)
    assert {layer.name: layer.status for layer in result.layers} == {
        "body": "pruned", "head": "pruned", "idle": "unused",
    }  # fmt: skip
    assert result.agreement(plain) == {"body": 1.0, "head": 1.0}
    assert result.fidelity().sample.count == 1


def test_a_file_of_another_model_is_refused_with_the_first_difference(model, sample, tmp_path):
    path = tmp_path / "a.trace"
    trace(model, sample, augment=noise, **OPTIONS).save(path)
    with torch.no_grad():
        model[2].bias += 1
        model[4].weight += 1
    with pytest.raises(
        ValueError, match=r"must belong to this model, first difference at 2.bias: other values"
    ):
        load_trace(path, model)
    with pytest.raises(
        ValueError, match=r"first difference at 0.weight: \[12, 6\] .* in the file, \[5, 6\]"
    ):
        load_trace(path, nn.Sequential(nn.Linear(6, 5)))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="is not a safetensors file"):
        load_trace(path, model)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"method": "random"},
            ValueError,
            f"trace: method must be one of {', '.join(PRUNING_METHODS)}, got 'random'",
        ),
        (
            {"augmentations": 0},
            ValueError,
            "trace: augmentations must be an int of at least 1, got 0",
        ),
        (
            {"batch_size": 2.5},
            ValueError,
            "trace: batch_size must be an int of at least 1, got 2.5",
        ),
        ({"damp": -1}, ValueError, r"trace: damp must be in \[0.0, 1000000.0\], got -1"),
        ({"damp": float("inf")}, ValueError, "trace: damp must be in .* got inf"),
        ({"damp": "much"}, TypeError, "trace: damp must be a number, got str"),
        ({"seed": 0.5}, TypeError, "trace: seed must be an int, got float"),
        (
            {"device": "abacus"},
            ValueError,
            "trace: device must be cpu or a CUDA device .* got 'abacus'",
        ),
        (
            {"device": "meta"},
            ValueError,
            "trace: device must be cpu or a CUDA device .* got 'meta'",
        ),
        ({"layers": []}, ValueError, r"trace: layers must hold at least one pattern, got \[\]"),
        ({"layers": [3]}, TypeError, r"trace: layers must be a pattern or several, got \[3\]"),
        (
            {"sparsity": lambda names: 0.5},
            TypeError,
            "sparsity must return ratios by name, got float",
        ),
        ({"layers": "head"}, ValueError, "layers must take a layer, 'head' takes none"),
        ({"model": torch.nn.functional.relu}, TypeError, "trace: model must be an nn.Module, got"),
        ({"model": nn.ReLU()}, ValueError, "must have a layer that can be pruned"),
        (
            {"sample": torch.full((1, 6), float("nan"))},
            ValueError,
            "inputs of layer 0: .*x must be finite",
        ),
    ],
)
def test_errors(model, sample, changes, error, message):
    arguments = {"model": model, "sample": sample, "augment": noise, **OPTIONS, **changes}
    with pytest.raises(error, match=message):
        trace(**arguments)


def test_errors_of_a_trace(model, sample):
    made = trace(model, sample, augment=noise, **OPTIONS)
    with pytest.raises(ValueError, match="fidelity: augmentations must be an int of at least 1"):
        made.fidelity(augmentations=0)
    with pytest.raises(ValueError, match="fidelity: batch_size must be an int of at least 1"):
        made.fidelity(batch_size=0)
    with pytest.raises(ValueError, match="fidelity: outputs must be finite"):
        made.fidelity(sample * float("nan"), augment=None)
    with pytest.raises(TypeError, match="agreement: other must be a Trace, got int"):
        made.agreement(3)
    with pytest.raises(TypeError, match="trace_many: samples must be a tensor or an iterable"):
        trace_many(model, 3)


def test_patterns_may_come_from_a_generator(model, sample):
    made = trace(model, sample, layers=(str(k) for k in (0, 4)), augment=noise, **OPTIONS)
    assert [layer.name for layer in made.layers] == ["0", "4"]


def test_fidelity_takes_a_lone_image_as_trace_does():
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, 3))
    image = torch.rand(3, 8, 8)
    made = trace(model, image, sparsity=0.5, augmentations=4, progress=False)
    assert made.fidelity(image, augmentations=3) == made.fidelity(image[None], augmentations=3)


@pytest.mark.parametrize("method", ["obc", "sparsegpt"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_damping_of_a_grouped_layer_is_the_largest_of_its_groups(method, order):
    conv = nn.Conv2d(4, 4, 1, groups=2)
    (layer,) = find_layers(conv)
    indefinite = torch.tensor([[1.0, 1.05], [1.05, 1.0]])  # least eigenvalue -0.05
    hessian = torch.stack([torch.eye(2), indefinite])[list(order)]
    prepared = PRUNING_METHODS[method].prepare(layer, layer.read(conv), hessian, 0.0)
    (result,) = PRUNING_METHODS[method].prune([prepared], [0.5])
    assert result.damp == pytest.approx(0.1)


def test_a_layer_left_dense_is_told_at_the_line_of_the_call(sample):
    class Multiplied(nn.Linear):
        def forward(self, x):
            return x.mm(self.weight.T)

    model = nn.Sequential(Multiplied(6, 6), nn.ReLU(), nn.Linear(6, 3))
    with pytest.warns(UnprunedLayerWarning, match="layer 0 is left dense") as warned:
        trace(model, sample, augment=noise, **OPTIONS)
    assert {w.filename for w in warned if w.category is UnprunedLayerWarning} == {__file__}


LAZY = """
import sys
import torch
from torch import nn
from spade_xai import trace

class Lazy(nn.Sequential):
    def forward(self, x):
        return torch.compile(super().forward, backend="eager")(x)

options = {"augment": lambda x: x + torch.randn_like(x), "augmentations": 16, "progress": False, "sparsity": 0.5}
model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
plain = trace(model, torch.ones(1, 4), **options)
assert "torch._dynamo" not in sys.modules
lazy = trace(Lazy(*model), torch.ones(1, 4), **options)
assert "torch._dynamo" in sys.modules
assert [x.sparsity_got for x in lazy.layers] == [0.5, 0.5], lazy.layers
for a, b in zip(plain.model.parameters(), lazy.model.parameters(), strict=True):
    assert torch.equal(a, b)
"""


def test_a_trace_does_not_import_the_compiler_but_sees_through_a_model_that_does(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LAZY], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
