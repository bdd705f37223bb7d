import itertools

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn

from spade_xai import metrics
from spade_xai.measures import elastic_net
from spade_xai.measures.sparse_fc import cache_features, elastic_net_path, sparse_fc


@pytest.fixture(scope="module")
def digits():
    data = load_digits(n_class=4)
    order = np.random.default_rng(0).permutation(len(data.target))[:400]
    return torch.tensor(data.data[order] / 16).float(), torch.tensor(data.target[order])


@pytest.fixture(scope="module")
def path(digits):
    return elastic_net_path(*digits, steps=6, smallest=0.01, iterations=100)


def test_path_starts_at_zero_and_grows(path):
    assert path[0].sparsity > 0.98 and path[-1].sparsity < 0.9
    assert all(a.penalty > b.penalty for a, b in itertools.pairwise(path))
    assert path[-1].accuracy > 0.9 > path[0].accuracy


def test_path_is_a_minimum_of_its_objective(digits, path):
    x, y = digits
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    held = round(0.2 * len(x))
    train, labels = x[order[held:]].double(), y[order[held:]]
    scale = train.std(0).clamp_min(1e-8)
    point = path[3]
    z, w = (train - train.mean(0)) / scale, point.weight * scale
    b = point.bias + point.weight @ train.mean(0)
    fit = LogisticRegression(
        solver="saga", l1_ratio=0.99, C=1 / (point.penalty * len(z)), max_iter=5000, tol=1e-6
    ).fit(z.numpy(), labels.numpy())

    def objective(weight, bias):
        loss = nn.functional.cross_entropy(z @ weight.T + bias, labels)
        return float(
            loss + point.penalty * (0.99 * weight.abs().sum() + 0.005 * weight.square().sum())
        )

    best = objective(torch.from_numpy(fit.coef_), torch.from_numpy(fit.intercept_))
    assert best - 1e-6 <= objective(w, b) <= best * 1.02


def test_both_solvers_find_the_same_minima(digits):
    options = {"steps": 3, "smallest": 0.05, "progress": False}
    saga = elastic_net_path(*digits, **options, iterations=300, solver="saga")
    fista = elastic_net_path(*digits, **options, iterations=3000, solver="fista")
    for one, other in zip(saga, fista, strict=True):
        assert other.penalty == pytest.approx(one.penalty, rel=1e-4)
        assert other.accuracy == pytest.approx(one.accuracy, abs=0.02)
        assert other.sparsity == pytest.approx(one.sparsity, abs=0.03)
        objectives = [objective(digits, point) for point in (one, other)]
        assert objectives[1] == pytest.approx(objectives[0], rel=2e-3)


def objective(digits, point):
    """What a fit minimises, on the training part of the path."""
    x, y = digits
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train = order[round(0.2 * len(x)) :]
    x, y = x[train].double(), y[train]
    scale = x.std(0).clamp_min(1e-8)
    loss = nn.functional.cross_entropy(x @ point.weight.T + point.bias, y)
    w = point.weight * scale
    return float(loss + point.penalty * (0.99 * w.abs().sum() + 0.01 * w.square().sum() / 2))


def test_many_samples_are_taken_in_chunks(digits, monkeypatch):
    x, y = digits
    found = []
    for chunk in (10**6, 37):
        monkeypatch.setattr(elastic_net, "CHUNK", chunk)
        some = elastic_net.Samples(x, torch.arange(0, len(x), 2), x.device)
        centre, scale = some.moments()
        expected = x[::2].double()
        torch.testing.assert_close(centre, expected.mean(0))
        torch.testing.assert_close(scale, expected.std(0).clamp_min(1e-8))
        net = elastic_net.ElasticNet(some, y[::2], 4, centre, scale.clamp_min(0.1), 0.99)
        net.fit(net.greatest_penalty() / 10, 5)
        assert 0 < int((net.weight == 0).sum()) < net.weight.numel()
        found.append(net.weight)
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-5)


def test_sparse_fc_replaces_the_last_layer_only(digits):
    x, y = digits
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 4)).train()
    before = model[2].weight.clone()
    sparse, fit = sparse_fc(model, "2", x.split(90), y)
    assert model.training and torch.equal(model[2].weight, before)
    assert sparse[0].weight is model[0].weight
    weight = sparse[2].weight
    assert float((weight == 0).double().mean()) == pytest.approx(fit.sparsity)
    assert 0.1 < fit.sparsity < 1 and fit.accuracy > 0.85
    features = cache_features(model, "2", [x], batch_size=100)
    torch.testing.assert_close(features, model[:2](x).detach())
    expected = features.double() @ fit.weight.T + fit.bias
    torch.testing.assert_close(sparse(x).double(), expected, rtol=1e-4, atol=1e-4)
    again, _ = sparse_fc(model, "2", x.split(90), y)
    assert torch.equal(again[2].weight, weight)
    accuracy = metrics.mean((sparse(x).argmax(1) == y).double())
    assert accuracy.mean > 0.85


def test_features_may_lie_in_a_file(digits, tmp_path, monkeypatch):
    x, y = digits
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 4)).eval()
    mapped = cache_features(model, "2", x.split(90), file=tmp_path / "features.f32")
    torch.testing.assert_close(mapped, cache_features(model, "2", x.split(90)), rtol=0, atol=0)
    assert (tmp_path / "features.f32").stat().st_size == 4 * mapped.numel()
    monkeypatch.setattr("spade_xai.measures.sparse_fc.MOST_SAGA", 0)  # FISTA, as for many samples
    held, fit = sparse_fc(model, "2", x.split(90), y, progress=False)
    (tmp_path / "scratch").mkdir()
    streamed, other = sparse_fc(
        model, "2", x.split(90), y, scratch=tmp_path / "scratch", progress=False
    )
    assert torch.equal(held[2].weight, streamed[2].weight) and fit.accuracy == other.accuracy
    assert not list((tmp_path / "scratch").iterdir())


def test_inputs_of_more_axes_are_the_same_in_a_file(tmp_path):
    model, x = nn.Sequential(nn.Linear(3, 2)), torch.randn(4, 5, 3)
    mapped = cache_features(model, "0", [x], file=tmp_path / "features.f32")
    assert torch.equal(mapped, cache_features(model, "0", [x])) and mapped.shape == (4, 15)


def test_two_classes(digits):
    x, y = digits
    two = y < 2
    model = nn.Sequential(nn.Identity(), nn.Linear(64, 2))
    sparse, fit = sparse_fc(model, "1", [x[two]], y[two])
    assert (
        fit.weight.shape == (2, 64) and (sparse(x[two]).argmax(1) == y[two]).double().mean() > 0.95
    )


def test_sparse_fc_errors(digits):
    x, y = digits
    model = nn.Sequential(nn.Linear(64, 5), nn.ReLU())
    with pytest.raises(
        TypeError, match=r"sparse_fc: layer must name an nn.Linear, got ReLU for '1'"
    ):
        sparse_fc(model, "1", [x], y)
    with pytest.raises(
        ValueError, match="sparse_fc: labels must have the 5 classes of layer '0', got 4"
    ):
        sparse_fc(model, "0", [x], y)
    with pytest.raises(
        ValueError, match=r"features must be \[N, D\] and labels \[N\], got \(3, 2\)"
    ):
        elastic_net_path(torch.zeros(3, 2), torch.zeros(4).long())
    with pytest.raises(ValueError, match="labels must hold every class"):
        elastic_net_path(torch.zeros(3, 2), torch.tensor([0, 2, 2]))


NAN = float("nan")
ROWS, LABELS = torch.arange(20.0).view(10, 2), torch.arange(10) % 2
HEAD = nn.Sequential(nn.Linear(2, 2))


@pytest.mark.parametrize(
    "call, error, text",
    [
        (
            lambda: cache_features(None, "0", [ROWS]),
            TypeError,
            "cache_features: model must be an nn.Module, got NoneType",
        ),
        (
            lambda: cache_features(HEAD, "9", [ROWS]),
            TypeError,
            "cache_features: layer must name an nn.Linear, got no module for '9'",
        ),
        (lambda: cache_features(HEAD, "0", []), ValueError, "cache_features: batches must give"),
        (
            lambda: cache_features(HEAD, "0", ROWS),
            TypeError,
            "cache_features: batches must be an iterable of tensors, got Tensor",
        ),
        (
            lambda: cache_features(HEAD, "0", [(ROWS, LABELS)]),
            TypeError,
            "cache_features: batches must hold tensors, got tuple",
        ),
        (
            lambda: cache_features(HEAD, "0", [ROWS], batch_size=0),
            ValueError,
            "cache_features: batch_size must be at least 1, got 0",
        ),
        (
            lambda: elastic_net_path(ROWS * NAN, LABELS),
            ValueError,
            "elastic_net_path: features must be finite, got 20 NaN or Inf",
        ),
        (
            lambda: elastic_net_path(ROWS, LABELS.float()),
            TypeError,
            "elastic_net_path: labels must have dtype torch.int64",
        ),
        (
            lambda: elastic_net_path(ROWS[:0], LABELS[:0]),
            ValueError,
            "elastic_net_path: labels must not be empty",
        ),
        (
            lambda: elastic_net_path(ROWS, LABELS, steps=0),
            ValueError,
            "elastic_net_path: steps must be at least 1, got 0",
        ),
        (
            lambda: elastic_net_path(ROWS, LABELS, smallest=0.0),
            ValueError,
            "elastic_net_path: smallest must be above 0, got 0.0",
        ),
        (
            lambda: elastic_net_path(ROWS, LABELS, l1_ratio=NAN),
            ValueError,
            r"elastic_net_path: l1_ratio must be in \[0.0, 1.0\], got nan",
        ),
        (
            lambda: elastic_net_path(ROWS, LABELS, validation=2.0),
            ValueError,
            r"elastic_net_path: validation must be in \[0.0, 1.0\], got 2.0",
        ),
        (
            lambda: elastic_net_path(ROWS, LABELS, iterations=-1),
            ValueError,
            "elastic_net_path: iterations must be at least 1, got -1",
        ),
        (
            lambda: elastic_net_path(ROWS, LABELS, seed=-1),
            ValueError,
            "elastic_net_path: seed must be at least 0, got -1",
        ),
        (
            lambda: elastic_net_path(ROWS, LABELS, solver="sag"),
            ValueError,
            "elastic_net_path: solver must be auto, saga or fista, got 'sag'",
        ),
        (
            lambda: sparse_fc(HEAD, "0", [ROWS], LABELS, tolerance=-1.0),
            ValueError,
            r"sparse_fc: tolerance must be in \[0.0, 1.0\], got -1.0",
        ),
        (
            lambda: sparse_fc(HEAD, "0", [ROWS], None),
            TypeError,
            "sparse_fc: labels must be a torch.Tensor, got NoneType",
        ),
    ],
)
def test_sparse_fc_bad_arguments(call, error, text):
    with pytest.raises(error, match=text):
        call()
