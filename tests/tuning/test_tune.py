"""Tuning: the search against trying everything, one elimination a sample, and resumption."""

import json
from collections import Counter

import pytest
import torch
from torch import nn

from spade_xai.tracing.pruning.exact_obc import ExactOBC
from spade_xai.tracing.run import TracingRun
from spade_xai.tracing.trace import trace
from spade_xai.tuning.tune import tune

GRID = (0.0, 0.5, 0.9)
OPTIONS = {"augmentations": 16, "batch_size": 8, "progress": False}


def noise(batch):
    return batch + 0.1 * torch.randn_like(batch)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    ).train()  # fmt: skip


@pytest.fixture
def samples():
    return list(torch.rand(3, 1, 2, 6, 6, generator=torch.Generator().manual_seed(1)))


def metric_for(samples):
    """A bumpy deterministic number of a sparse model."""

    def metric(sparse, index):
        assert not sparse.training
        return float(sparse(samples[index]).detach().double().mul(1e3).sin().sum())

    return metric


@pytest.mark.parametrize("method", ["obc", "sparsegpt"])
def test_greedy_from_the_last_layer(model, samples, method):
    metric = metric_for(samples)
    options = {**OPTIONS, "augment": noise, "method": method}
    result = tune(model, samples, metric, grid=GRID, **options)
    chosen = {}
    for name in ("5", "2", "0"):  # the search written out over trace itself
        means = {}
        for ratio in GRID:
            traces = [trace(model, s, sparsity={**chosen, name: ratio}, **options) for s in samples]
            means[ratio] = sum(metric(t.model, i) for i, t in enumerate(traces)) / len(samples)
        chosen[name] = max(GRID, key=lambda r: (means[r], -r))
        tried = [c for c in result.history if c.group == (name,)]
        assert [c.ratio for c in tried] == list(GRID)
        assert [c.mean for c in tried] == pytest.approx([means[r] for r in GRID], abs=1e-4)
        assert [c.ratio for c in tried if c.chosen] == [chosen[name]]
    assert result.sparsity == chosen
    assert list(result.sparsity) == ["0", "2", "5"]
    assert result.score == max(c.mean for c in result.history if c.group == ("0",))


def test_each_layer_is_eliminated_once_a_sample_and_solved_once_a_candidate(
    model, samples, monkeypatch
):
    calls = Counter()

    def count(name):
        run = getattr(ExactOBC, name)
        monkeypatch.setattr(ExactOBC, name, lambda *a, **k: calls.update([name]) or run(*a, **k))

    count("prepare")
    count("prune")
    result = tune(model, samples, metric_for(samples), grid=GRID, augment=noise, **OPTIONS)
    assert calls["prepare"] == 3 * len(samples)
    candidates = 3 * (len(GRID) - 1)  # a ratio of 0 needs no solution
    settled = sum(result.sparsity[name] > 0 for name in ("5", "2"))  # again, for earlier layers
    assert settled > 0
    assert calls["prune"] == (candidates + settled) * len(samples)


def test_groups_share_a_ratio_and_ties_take_the_lower(model, samples):
    result = tune(
        model, samples, lambda m, i: 1.0, grid=GRID, groups=["5", ["0", "2"]], augment=noise, **OPTIONS
    )  # fmt: skip
    assert [c.group for c in result.history[::3]] == [("5",), ("0", "2")]
    assert result.sparsity == {"0": 0.0, "2": 0.0, "5": 0.0}
    only = tune(
        model, samples, lambda m, i: 1.0, groups=["2"], augment=noise, grid=[0.5], **OPTIONS
    )
    assert only.sparsity == {"2": 0.5}


class Interrupting:
    """A metric that stops the run at one of its calls."""

    def __init__(self, metric, at):
        self.metric, self.at, self.calls = metric, at, 0

    def __call__(self, model, index):
        if self.calls == self.at:
            raise KeyboardInterrupt
        self.calls += 1
        return self.metric(model, index)


@pytest.mark.parametrize("at", [0, 4, 11])
@pytest.mark.parametrize("torn", [False, True])
def test_resumes_with_nothing_lost(model, samples, tmp_path, monkeypatch, at, torn):
    path = tmp_path / "run.jsonl"
    metric = metric_for(samples)
    options = {**OPTIONS, "augment": noise, "grid": GRID}
    whole = tune(model, samples, metric, **options)
    eliminated = []
    order = ExactOBC.prepare
    monkeypatch.setattr(ExactOBC, "prepare", lambda *a, **k: eliminated.append(a) or order(*a, **k))
    with pytest.raises(KeyboardInterrupt):
        tune(model, samples, Interrupting(metric, at), checkpoint=path, **options)
    assert len(path.read_text().splitlines()) == 1 + at
    if torn:
        with path.open("a") as file:
            file.write("[0, 0.5, 1, 0.12")
    rest = Interrupting(metric, -1)
    resumed = tune(model, samples, rest, checkpoint=path, **options)
    assert resumed == whole
    assert rest.calls == len(path.read_text().splitlines()) - 1 - at
    assert len(eliminated) == 3 * len(samples)  # those before the interruption included
    nothing = Interrupting(metric, 0)
    assert tune(model, samples, nothing, checkpoint=path, **options) == whole


def test_checkpoint_of_another_run_is_refused(model, samples, tmp_path):
    path = tmp_path / "run.jsonl"
    options = {**OPTIONS, "augment": noise}
    tune(model, samples, lambda m, i: 1.0, grid=[0.5], checkpoint=path, **options)
    with pytest.raises(ValueError, match="must belong to this run, grid differs"):
        tune(model, samples, lambda m, i: 1.0, grid=[0.6], checkpoint=path, **options)
    with pytest.raises(ValueError, match="samples differs"):
        tune(model, samples[:2], lambda m, i: 1.0, grid=[0.5], checkpoint=path, **options)
    with pytest.raises(ValueError, match=r"augment differs: \S+noise \w+ in the file, None here"):
        tune(
            model,
            samples,
            lambda m, i: 1.0,
            **{**options, "grid": [0.5], "augment": None},
            checkpoint=path,
        )
    with pytest.raises(ValueError, match="forward_precision differs: float32 in the file"):
        tune(
            model, samples, lambda m, i: 1.0, grid=[0.5], forward_precision="bfloat16",
            checkpoint=path, **options,
        )  # fmt: skip
    with torch.no_grad():
        model[0].weight.add_(1)
    with pytest.raises(ValueError, match="model differs"):
        tune(model, samples, lambda m, i: 1.0, grid=[0.5], checkpoint=path, **options)
    path.write_text("not json\n")
    with pytest.raises(ValueError, match="is no checkpoint of this version, so it is not written"):
        tune(model, samples, lambda m, i: 1.0, grid=[0.5], checkpoint=path, **options)


class Masked(nn.Module):
    """A linear layer on some of its inputs."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x, mask, scale=1.0):
        return self.layer(x * mask * scale)


@pytest.mark.parametrize(
    "structure", [tuple, lambda values: dict(zip(("x", "mask", "scale"), values, strict=True))]
)
def test_checkpoint_knows_every_tensor_of_a_sample(tmp_path, structure):
    path, x, mask = tmp_path / "run.jsonl", torch.rand(8, 4), torch.ones(8, 4)
    arguments = {"grid": [0.5], "checkpoint": path, "augment": None, **OPTIONS}

    def run(*values):
        return tune(model, [structure(values)], lambda m, i: 1.0, **arguments)

    model = Masked()
    first = run(x, mask, 1.0)
    assert run(x.clone(), mask, 1.0) == first
    for values in ((x, 0.5 * mask, 1.0), (x, mask, 2.0), (x, mask.double(), 1.0)):
        with pytest.raises(ValueError, match="must belong to this run, samples differs"):
            run(*values)


@pytest.mark.parametrize("method", ["obc", "sparsegpt"])
def test_device_takes_a_copy_and_precision_reaches_the_passes(
    model, samples, monkeypatch, method, torch_device
):
    ran = []

    compute = TracingRun.hessians

    def hessians(run, *arguments, **options):
        found = compute(run, *arguments, **options)
        ran.append((run.model is not model, run.device, found))
        return found.copy()

    monkeypatch.setattr(TracingRun, "hessians", hessians)
    options = {**OPTIONS, "augment": None, "grid": [0.5, 0.9], "method": method}
    metric = metric_for(samples)
    results = [
        tune(model, samples, metric, device=torch_device, forward_precision=precision, **options)
        for precision in ("float32", "bfloat16")
    ]
    assert results[0].sparsity == tune(model, samples, metric, **options).sparsity
    copied, devices, hessians = zip(*ran[: 2 * len(samples)], strict=True)
    assert all(copied) and {d.type for d in devices} == {torch_device.type}
    exact, rounded = hessians[0]["5"], hessians[len(samples)]["5"]
    assert 0 < (exact - rounded).norm() < 0.02 * exact.norm()


def test_dense_model_is_untouched_and_the_result_serves_as_sparsity(model, samples, tmp_path):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = tune(model, samples, metric_for(samples), grid=GRID, augment=noise, **OPTIONS)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    path = tmp_path / "tuned.json"
    result.save(path)
    assert json.loads(path.read_text())["sparsity"] == result.sparsity
    assert [p.name for p in tmp_path.iterdir()] == ["tuned.json"]
    made = trace(model, samples[0], sparsity=path, augment=noise, **OPTIONS)
    assert {x.name: x.sparsity_asked for x in made.layers} == result.sparsity


def test_errors(model, samples):
    def run(**changes):
        arguments = {
            "model": model,
            "samples": samples,
            "metric": lambda m, i: 1.0,
            "augment": noise,
        }
        return tune(**{**arguments, **OPTIONS, **changes})

    for changes, message in [
        ({"samples": []}, "samples must hold at least one sample"),
        ({"grid": []}, "grid must hold at least one ratio"),
        ({"grid": [1.5]}, r"grid must be in \[0, 1\], got 1.5"),
        ({"groups": ["0", "*"]}, "groups must not overlap, 0 is in two"),
        ({"groups": ["head"]}, "groups must take a layer, 'head' takes none"),
        ({"metric": lambda m, i: float("nan")}, "metric must be finite, got nan for sample 0"),
        ({"forward_precision": "half"}, "tune: forward_precision must be one of float32"),
        ({"method": "random"}, "tune: method must be one of obc, sparsegpt"),
    ]:
        with pytest.raises(ValueError, match=message):
            run(**changes)


def test_grid_over_all_pairs_is_not_searched(model, samples):
    """The search costs a group's candidates, not their product."""
    calls = []
    tune(model, samples, lambda m, i: calls.append(i) or 1.0, grid=GRID, augment=noise, **OPTIONS)
    first, later = len(GRID) * len(samples), (len(GRID) - 1) * len(samples)
    assert len(calls) == first + 2 * later
