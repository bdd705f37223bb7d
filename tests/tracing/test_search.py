"""The shortcuts of the search for a faithful trace: it finds what a search without them finds."""

import pytest
import torch
from torch import nn

from spade_xai import trace
from spade_xai.models.copies import duplicate
from spade_xai.models.layers import find_layers
from spade_xai.tracing import faithful
from spade_xai.tracing.faithful import BUDGETS, LEVELS, MOST_ERROR
from spade_xai.tracing.fast_forward import fast_forward
from spade_xai.tracing.layer_weights import layer_weights
from spade_xai.tracing.pruning.registry import PRUNING_METHODS
from spade_xai.tracing.sample import TracedSample
from spade_xai.tracing.trial import Trial, row_scales
from spade_xai.tracing.verdict import Probe

OPTIONS = {"augmentations": 24, "batch_size": 8, "progress": False}


def noise(batch):
    return batch + 0.1 * torch.randn_like(batch)


def network(seed=0):
    """Convolutions with batch norms that scale and shift, and a classifier."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU6(),
        nn.Conv2d(12, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(inplace=True),
        nn.Flatten(), nn.Linear(16 * 25, 10),
    ).eval()  # fmt: skip
    for module in model:
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.normal_()
            module.bias.data.normal_()
    return model


def image(seed=1):
    return torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def plain_search(model, x, prepared, first):
    """The rule as it is told: every level of every layer is pruned, every verdict is the model's own."""
    layers = [layer for layer in find_layers(model) if layer.name in prepared]
    probe = Probe("test", model, TracedSample(x, None, 1, 0))
    shares = layer_weights("test", model, layers, probe)
    results = {r: prepared.prune({n: r for n in shares}) for r in LEVELS[1:]}

    def ratios_at(budget):
        found = {}
        for name, share in shares.items():
            bound = min(MOST_ERROR, budget * share)
            fits = [r for r in LEVELS[1:] if results[r][name].relative_loss <= bound]
            found[name] = max(fits, default=0.0)
        return found

    def faithful_at(budget):
        sparse = duplicate(model)
        for layer in layers:
            ratio = ratios_at(budget)[layer.name]
            if ratio > 0:
                layer.write(sparse, results[ratio][layer.name].weights)
        return probe.judge(sparse).faithful

    start = BUDGETS.index(first)
    if faithful_at(first):
        fails = [b for b in BUDGETS[start:] if not faithful_at(b)]
        failed = min(fails, default=None)
        last = max(b for b in BUDGETS if failed is None or b < failed)
    else:
        last = max((b for b in BUDGETS[:start] if faithful_at(b)), default=None)
        if last is None:
            return dict.fromkeys(shares, 0.0)
        failed = BUDGETS[BUDGETS.index(last) + 1]
    between = failed and (last * failed) ** 0.5
    return ratios_at(between if between and faithful_at(between) else last)


@pytest.mark.parametrize("method", ["obc", "sparsegpt"])
@pytest.mark.parametrize("first", [0, 5, 7, 12])
def test_the_search_chooses_what_a_plain_search_chooses(method, first, monkeypatch):
    """From wherever it starts: upward from the smallest budget, downward from the largest."""
    monkeypatch.setattr(faithful, "FIRST", BUDGETS[first])
    for seed in range(2):
        model, x = network(seed), image(seed)
        made = trace(model, x, method=method, augment=noise, **OPTIONS)
        expected = plain_search(model, x, made._prepared, BUDGETS[first])
        assert {layer.name: layer.sparsity_asked for layer in made.layers} == expected
        assert max(expected.values()) > 0


def copies(model, x):
    layers = find_layers(model)
    fast = fast_forward(duplicate(model), layers, x)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in fast.modules()) == 0
    return layers, fast


def test_weights_are_scaled_as_the_copy_is():
    model, x = network(), image()
    model[1].weight.data[3] = 0  # a channel that the batch norm switches off
    model[3].weight.data[5] = 0  # a row of zeros
    layers, fast = copies(model, x)
    trial = Trial("test", model, layers, TracedSample(x, None, 1, 0), fast=fast)
    assert trial.scales is not None and trial.dense is fast
    before = [p.clone() for p in fast.parameters()]
    sparse = duplicate(model)
    for k, layer in enumerate(layers):
        weights = layer.read(model) * (torch.rand(layer.read(model).shape) < 0.6 + 0.1 * k)
        trial.write(layer, weights)
        layer.write(sparse, weights)
    with torch.no_grad():
        torch.testing.assert_close(trial.sparse(x), sparse(x), rtol=1e-4, atol=1e-5)
    for layer in layers:
        trial.write(layer, None)
    with torch.no_grad():
        assert torch.equal(trial.sparse(x), fast(x))
    assert all(torch.equal(a, b) for a, b in zip(before, fast.parameters(), strict=True))


def test_a_copy_with_other_weights_is_not_taken():
    model, x = network(), image()
    layers, fast = copies(model, x)
    changed = fast.get_submodule(layers[1].modules[0])
    changed.weight.data[0, 0] *= 1.01
    assert row_scales(model, fast, layers) is None
    trial = Trial("test", model, layers, TracedSample(x, None, 1, 0), fast=fast)
    assert trial.dense is model and trial.probe.judge(trial.sparse) == trial.judge()
    assert row_scales(model, nn.Sequential(nn.ReLU()), layers) is None


def test_a_verdict_that_rounding_could_turn_is_the_models_own(monkeypatch):
    """The copy answers a little otherwise: wherever the model is near a limit, the model is asked."""
    model, x = network(), image()
    layers, fast = copies(model, x)
    trial = Trial("test", model, layers, TracedSample(x, None, 1, 0), fast=fast)
    probe = Probe("test", model, TracedSample(x, None, 1, 0))
    asked = []
    real = Probe.judge
    monkeypatch.setattr(Probe, "judge", lambda s, m: asked.append(1) or real(s, m))
    found = []
    for strength in torch.linspace(0, 1, 40):  # from the dense model to none
        sparse = duplicate(model)
        for layer in layers:
            weights = layer.read(model) * (1 - strength)
            trial.write(layer, weights)
            layer.write(sparse, weights)
        expected = real(probe, sparse)
        asked.clear()
        assert trial.judge().faithful == expected.faithful
        found.append(expected.faithful)
        assert bool(asked) == (trial.probe.judge_roughly(trial.sparse, 1e-3) is None)
    assert True in found and False in found
    monkeypatch.setattr(Probe, "judge_roughly", lambda *_: None)
    assert trial.judge() == expected


@pytest.mark.parametrize("error", [0.0, 0.01, 0.3])
def test_a_rough_verdict_holds_whatever_the_errors(error):
    model, x = network(), image()
    probe = Probe("test", model, TracedSample(x, None, 1, 0))
    generator = torch.Generator().manual_seed(0)
    certain = 0
    for strength in torch.linspace(0, 1, 12):
        sparse = duplicate(model)
        for p in sparse.parameters():
            p.data = p.data * (1 - strength)
        rough = probe.judge_roughly(sparse, error)
        if rough is None:
            continue
        certain += 1
        logits = probe.logits(sparse)
        assert rough.faithful == probe.compare(logits).faithful
        for _ in range(10):  # errors of the answers' logits alone, each its own
            moved = []
            for part, answers in zip(logits, probe.answers, strict=True):
                errors = 2 * torch.rand(len(part), 1, generator=generator).double() - 1
                most = error * part.abs().amax(1, keepdim=True)
                moved.append(part.scatter_add(1, answers[:, None], errors * most))
            assert probe.compare(moved).faithful == rough.faithful
    assert certain > (3 if error < 0.1 else 0)


def test_levels_that_were_looked_at_are_not_pruned_again(monkeypatch):
    model, x = network(), image()
    pruned = []
    kind = type(PRUNING_METHODS["sparsegpt"])
    real = kind.prune

    def prune(self, prepared, ratios, *args, **kwargs):
        pruned.extend(zip([p.layer.name for p in prepared], ratios, strict=True))
        return real(self, prepared, ratios, *args, **kwargs)

    monkeypatch.setattr(kind, "prune", prune)
    trace(model, x, method="sparsegpt", augment=noise, **OPTIONS)
    assert len(pruned) == len(set(pruned)) < len(faithful.LEVELS) * 3
