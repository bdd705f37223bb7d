"""Estimates of a trace: what is measured, and how it grows with augmentations, rows and groups."""

import pytest
import torch
from torch import nn

from spade_xai import estimate, trace
from spade_xai.tracing import estimate as module
from spade_xai.tracing.pruning.registry import PRUNING_METHODS


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 32, 3, groups=2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5),
    ).eval()  # fmt: skip


IMAGE = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", sorted(PRUNING_METHODS))
def test_each_method_and_layer(method):
    model = network()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = estimate(model, IMAGE, method=method, augmentations=256, batch_size=16)
    result = trace(
        model, IMAGE, method=method, sparsity=0.5, augmentations=16, progress=False, layers=None
    )
    pruned = {x.name: (x.rows, x.cols) for x in result.layers if x.status == "pruned"}
    assert {x.name: (x.rows, x.cols) for x in found.layers} == pruned
    assert [x.seconds for x in found.layers] == sorted(
        (x.seconds for x in found.layers), reverse=True
    )
    assert found.prune_seconds == pytest.approx(sum(x.seconds for x in found.layers))
    parts = (
        found.setup_seconds,
        found.augment_seconds,
        found.forward_seconds,
        found.hessian_seconds,
    )
    assert found.seconds == pytest.approx(sum(parts) + found.prune_seconds)
    assert found.passes == 1 and found.bytes > 0 and found.method == method
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


def test_two_batches_stand_for_all(monkeypatch):
    seen = []
    own = module.TracingRun.hessians

    def counted(self, source, *arguments, **options):
        seen.append(source.augmentations)
        return own(self, source, *arguments, **options)

    monkeypatch.setattr(module.TracingRun, "hessians", counted)
    found = estimate(network(), IMAGE, augmentations=640, batch_size=16)
    assert seen == [32] and found.augmentations == 640
    few = estimate(network(), IMAGE, augmentations=8, batch_size=16)
    assert seen == [32, 8] and few.augmentations == 8


def test_rows_and_groups_are_extrapolated(monkeypatch):
    asked = []

    def linear(layer, method, damp, device, groups, rows):
        asked.append((layer.name, groups, rows))
        return groups * (1.0 + 0.5 * rows)

    monkeypatch.setattr(module, "_pruned", linear)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    found = {x.name: x.seconds for x in estimate(network(), IMAGE, augmentations=4).layers}
    assert found == {"0": 1 + 0.5 * 16, "3": 2 * (1 + 0.5 * 16), "6": 1 + 0.5 * 5}
    assert asked == [("0", 1, 2), ("0", 1, 8), ("3", 2, 2), ("3", 2, 8), ("6", 1, 2), ("6", 1, 5)]
    asked.clear()
    monkeypatch.setattr(module, "ENOUGH", 6.0)  # more rows as long as they are cheap
    found = {x.name: x.seconds for x in estimate(network(), IMAGE, augmentations=4).layers}
    assert found["0"] == 1 + 0.5 * 16 and asked[:3] == [("0", 1, 2), ("0", 1, 8), ("0", 1, 16)]


def test_a_memory_limit_takes_more_passes():
    whole = estimate(network(), IMAGE, augmentations=32)
    found = estimate(network(), IMAGE, augmentations=32, max_memory=int(whole.bytes * 0.97))
    assert found.passes > 1 and found.bytes < whole.bytes


@pytest.mark.parametrize("method", sorted(PRUNING_METHODS))
def test_a_rough_estimate_runs_few_variants_and_one_kind_of_layer(method, monkeypatch):
    seen, pruned = [], []
    own, prune = module.TracingRun.hessians, module._seconds

    def counted(self, source, *arguments, **options):
        seen.append(source.augmentations)
        return own(self, source, *arguments, **options)

    def measured(layer, *arguments):
        pruned.append(layer.name)
        return prune(layer, *arguments)

    monkeypatch.setattr(module.TracingRun, "hessians", counted)
    monkeypatch.setattr(module, "_seconds", measured)
    found = module.rough_estimate(network(), IMAGE, method=method, augmentations=640)
    assert seen == [8] and pruned == ["3"] and found.augmentations == 640
    whole = estimate(network(), IMAGE, method=method, augmentations=640)
    assert {x.name for x in found.layers} == {x.name for x in whole.layers}
    assert found.bytes == whole.bytes and found.layers[0].name == "3"
    cost = {x.name: x.seconds / found.layers[0].seconds for x in found.layers}
    if method == "obc":  # rows times columns cubed
        assert cost["0"] == pytest.approx(16 * 27**3 / (32 * 72**3))
    if method == "sparsegpt":
        assert cost["6"] == pytest.approx((5 * 32**2 + 32**3) / (32 * 72**2 + 2 * 72**3))
