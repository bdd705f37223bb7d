"""compat.TrueOBS against the published recurrence."""

import numpy as np
import pytest
import torch
from compat_layers import CASES, as_rows, assert_same_weights, running_hessian
from torch import nn

from spade_ext.compat import TrueOBS
from spade_ext.reference import published

NAN = float("nan")
X = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))


def trueobs(module, batches, rel_damp=0.0):
    pruner = TrueOBS(module, rel_damp)
    for x in batches:
        pruner.add_batch(x, None)
    return pruner


@pytest.mark.parametrize("case", [case for case in CASES if case != "groups"])
@pytest.mark.parametrize("rel_damp", [0.0, 0.05])
def test_trueobs_unstructured(case, rel_damp):
    module, batches = CASES[case][0](), [CASES[case][1]() for _ in range(3)]
    hessians = running_hessian(module, batches, matrix_is_one_sample=False)
    pruner = trueobs(module, batches, rel_damp)
    pruner.prepare_unstr()
    sparsities = [0.0, 0.25, 0.8, 1.0]
    dense = as_rows(module).double()
    expected = published.trueobs_prune(dense, hessians[0], sparsities, rel_damp=rel_damp)
    for weight, one in zip(pruner.prune_unstr(sparsities), expected, strict=True):
        assert_same_weights(weight, one)


def test_trueobs_of_groups_shares_one_count():
    module, x = CASES["groups"][0](), CASES["groups"][1]()
    pruner = trueobs(module, [x])
    pruner.prepare_unstr()
    (pruned,) = pruner.prune_unstr([0.5])
    assert int((pruned == 0).sum()) == module.weight.numel() // 2
    h = running_hessian(module, [x])
    parts = as_rows(module).double().chunk(2)
    for part, one, w in zip(pruned.chunk(2), h, parts, strict=True):  # optimum of the kept weights
        gradient = (part.double() - w) @ one
        assert gradient[part != 0].norm() <= 1e-4 * one.norm() * w.norm()


def test_trueobs_count_is_the_published_ceiling():
    module, x = nn.Linear(20, 5), torch.randn(80, 20)
    pruner = trueobs(module, [x])
    pruner.prepare_unstr()
    (pruned,) = pruner.prune_unstr(np.array([0.07]))
    assert int((pruned == 0).sum()) == 8  # 100 * 0.07 is above 7


@pytest.mark.parametrize("rel_damp", [0.0, 0.05])
def test_trueobs_of_dead_columns(rel_damp):
    module, x = nn.Linear(24, 10), torch.randn(80, 24)
    x[:, 3:9] = 0
    h = running_hessian(module, [x], matrix_is_one_sample=False)[0]
    pruner = trueobs(module, [x], rel_damp)
    pruner.prepare_unstr()
    dense = as_rows(module).double()
    expected = published.trueobs_prune(dense, h, [0.1, 0.6], rel_damp=rel_damp)
    for weight, one in zip(pruner.prune_unstr([0.1, 0.6]), expected, strict=True):
        assert_same_weights(weight, one)


def test_trueobs_patterns_of_a_convolution_run_over_channels():
    module, batches = CASES["conv"][0](), [CASES["conv"][1]() for _ in range(3)]
    taps = torch.arange(module.weight[0].numel()).reshape(module.weight.shape[1:])
    order = taps.permute(1, 2, 0).flatten()
    dense = as_rows(module).double()[:, order]
    h = running_hessian(module, batches)[0][order][:, order]
    pruner = trueobs(module, batches)
    pruner.prepare_blocked(size=4)
    (blocked,) = pruner.prune_blocked([0.5])
    assert_same_weights(blocked[:, order], published.trueobs_prune(dense, h, [0.5], size=4)[0])
    pruner.nmprune(2, 4)
    assert_same_weights(as_rows(module)[:, order], published.trueobs_nm(dense, h, 2, 4))


def test_trueobs_of_a_singular_hessian_takes_the_identity():
    few, rows = nn.Linear(24, 3), torch.randn(5, 24)
    pruner = trueobs(few, [rows])
    pruner.prepare_unstr()
    (pruned,) = pruner.prune_unstr([0.5])
    h = running_hessian(few, [rows], matrix_is_one_sample=False)[0] + torch.eye(24)
    assert_same_weights(pruned, published.trueobs_prune(as_rows(few).double(), h, [0.5])[0])


def exact_obc(inputs=X, **options):
    pruner = TrueOBS(nn.Linear(4, 3), **options)
    pruner.add_batch(inputs)
    pruner.prepare_unstr()
    return pruner


def freed():
    pruner = exact_obc()
    pruner.free()
    return pruner


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda: TrueOBS(nn.Linear(3, 2)).prepare_unstr(), RuntimeError, "add_batch first"),
        (
            lambda: TrueOBS(nn.Linear(3, 2)).prune_unstr([0.5]),
            RuntimeError,
            "prune_unstr: no trace yet; call prepare_unstr",
        ),
        (lambda: freed().prune_unstr([0.5]), RuntimeError, "free"),
        (lambda: exact_obc(rel_damp=NAN), ValueError, r"TrueOBS: rel_damp must be in .* got nan"),
        (lambda: exact_obc(torch.tensor(1.0)), ValueError, "TrueOBS.add_batch: inp must hold a"),
        (
            lambda: exact_obc().prune_unstr([0.5, NAN]),
            ValueError,
            r"TrueOBS.prune_unstr: sparsities must be in \[0.0, 1.0\], got nan",
        ),
        (
            lambda: exact_obc().prune_unstr([-0.5]),
            ValueError,
            r"TrueOBS.prune_unstr: sparsities must be in \[0.0, 1.0\], got -0.5",
        ),
        (
            lambda: exact_obc().prune_unstr(0.5),
            TypeError,
            "TrueOBS.prune_unstr: sparsities must be a list of numbers, got float",
        ),
        (
            lambda: exact_obc().prune_blocked([0.5]),
            RuntimeError,
            "TrueOBS.prune_blocked: no trace yet; call prepare_blocked first",
        ),
        (
            lambda: exact_obc().prepare_blocked(3),
            ValueError,
            "TrueOBS.prepare_blocked: size must divide the 4 columns, got 3",
        ),
        (
            lambda: exact_obc().nmprune(5, 4),
            ValueError,
            "TrueOBS.nmprune: n must be at most m, got n=5, m=4",
        ),
    ],
)
def test_bad_arguments(call, error, text):
    with pytest.raises(error, match=text):
        call()
