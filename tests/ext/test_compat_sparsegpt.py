"""compat.SparseGPT and BatchSparseGPT against the published recurrences."""

import copy

import pytest
import torch
from compat_layers import CASES, as_rows, assert_same_weights, running_hessian
from torch import nn

from spade_ext import DampingWarning, SingularHessianError
from spade_ext.compat import BatchSparseGPT, SparseGPT
from spade_ext.reference import published

NAN = float("nan")
X = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("options", [(0.5,), (0.7, 0, 0, 5), (0.0, 2, 4), (0.0,), (0.57, 0, 0, 10)])
def test_sparsegpt(case, options):
    module, batches = CASES[case][0](), [CASES[case][1]() for _ in range(3)]
    dense = as_rows(module).clone()
    pruner = SparseGPT(module)
    for x in batches:
        pruner.add_batch(x, None)
    pruner.fasterprune(*options)
    pruner.free()
    hessians = running_hessian(module, batches)
    parts = dense.double().chunk(len(hessians))
    expected = [published.fasterprune(w, h, *options) for w, h in zip(parts, hessians, strict=True)]
    assert_same_weights(as_rows(module), torch.cat(expected))
    with pytest.raises(RuntimeError, match="free"):
        pruner.add_batch(batches[0])


def test_sparsegpt_of_dead_columns():
    module, x = nn.Linear(24, 10), torch.randn(80, 24)
    x[:, 3:9] = 0
    dense = as_rows(module).double()
    pruner = SparseGPT(module)
    pruner.add_batch(x)
    pruner.fasterprune(0.4, blocksize=8)
    expected = published.fasterprune(dense, running_hessian(module, [x])[0], 0.4, blocksize=8)
    assert_same_weights(as_rows(module), expected)


def test_sparsegpt_says_that_it_damps_more_and_keeps_the_layer_if_it_cannot():
    module = nn.Linear(24, 10)
    pruner = SparseGPT(module)
    pruner.add_batch(torch.randn(5, 24))
    with pytest.warns(DampingWarning, match=r"SparseGPT\.fasterprune: .* at damp=0, used"):
        pruner.fasterprune(0.5, percdamp=0.0)
    before = module.weight.clone()
    indefinite = torch.eye(24)
    indefinite[0, 0] = -1e6
    pruner._inputs.hessians = lambda function: indefinite[None]
    with pytest.raises(SingularHessianError, match="the Hessian is not positive definite"):
        pruner.fasterprune(0.5)
    assert torch.equal(module.weight, before)


def batched(module, samples, *options, **more):
    """Weights that BatchSparseGPT gives to one layer a sample."""
    pruner = BatchSparseGPT(module, len(samples))
    for batches in samples:
        for x in batches:
            pruner.add_batch(x, None)
        pruner.inc_model_counter()
    copies = [copy.deepcopy(module) for _ in samples]
    pruner.fasterprune(options[0], copies, *options[1:], **more)
    return [as_rows(c) for c in copies]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("options", [(0.6, 0, 0, 5), (0.57, 0, 0, 1), (0.0,)])
def test_batch_sparsegpt(case, options):
    module = CASES[case][0]()
    samples = [[CASES[case][1]() for _ in range(2)] for _ in range(3)]
    dense = as_rows(module).double()
    for batches, weight in zip(samples, batched(module, samples, *options), strict=True):
        hessians = running_hessian(module, batches)
        expected = [
            published.batch_fasterprune(w, h, *options)
            for w, h in zip(dense.chunk(len(hessians)), hessians, strict=True)
        ]
        assert_same_weights(weight, torch.cat(expected))


def test_batch_sparsegpt_of_dead_columns_silent_and_singular_samples():
    module = nn.Linear(24, 10)
    dense = as_rows(module).double()
    dead, few = torch.randn(80, 24), torch.randn(5, 24)
    dead[:, 3:9] = 0
    samples = [[dead], [torch.zeros(4, 24)], [torch.randn(80, 24)]]
    for (x,), weight in zip(samples, batched(module, samples, 0.4, blocksize=8), strict=True):
        h = running_hessian(module, [x])[0]
        assert_same_weights(weight, published.batch_fasterprune(dense, h, 0.4, blocksize=8))
    (weight, other) = batched(module, [[1e4 * few], [dead]], 0.4, blocksize=8, percdamp=0.0)
    assert_same_weights(
        weight, published.batch_fasterprune(dense, -torch.eye(24).double(), 0.4, blocksize=8)
    )
    h = running_hessian(module, [dead])[0]
    assert_same_weights(
        other, published.batch_fasterprune(dense, h, 0.4, blocksize=8, percdamp=0.0)
    )


def test_batch_sparsegpt_counts_its_samples():
    pruner = BatchSparseGPT(nn.Linear(24, 10), 1)
    pruner.add_batch(torch.randn(80, 24))
    with pytest.raises(ValueError, match="layers must hold 1 layers, got 2"):
        pruner.fasterprune(0.6, [nn.Linear(24, 10), nn.Linear(24, 10)])
    pruner.inc_model_counter()
    with pytest.raises(RuntimeError, match="model_counter must be below 1, got 1"):
        pruner.add_batch(torch.randn(80, 24))
    pruner.free()
    with pytest.raises(RuntimeError, match="free"):
        pruner.fasterprune(0.6, [nn.Linear(24, 10)])


def fasterprune(inputs=X, sparsity=0.5, **options):
    pruner = SparseGPT(nn.Linear(4, 3))
    pruner.add_batch(inputs)
    pruner.fasterprune(sparsity, **options)


def batch_prune(model_num=1, layers=None, sparsity=0.5, **options):
    pruner = BatchSparseGPT(nn.Linear(4, 3), model_num)
    for _ in range(model_num):
        pruner.add_batch(X)
        pruner.inc_model_counter()
    pruner.fasterprune(sparsity, layers or [nn.Linear(4, 3)], **options)


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda: SparseGPT(None), TypeError, "layer must be an nn.Module, got NoneType"),
        (lambda: SparseGPT(nn.BatchNorm2d(3)), TypeError, r"must be an nn\.Linear"),
        (lambda: SparseGPT(nn.Linear(3, 2)).fasterprune(0.5), RuntimeError, "add_batch first"),
        (lambda: fasterprune(sparsity=NAN), ValueError, r"fasterprune: sparsity must be in \[0.0, 1.0\], got nan"),
        (lambda: fasterprune(sparsity=-0.1), ValueError, r"SparseGPT.fasterprune: sparsity must be in .* got -0.1"),
        (lambda: fasterprune(sparsity="0.5"), TypeError, "SparseGPT.fasterprune: sparsity must be a number, got str"),
        (lambda: fasterprune(blocksize=0), ValueError, "SparseGPT.fasterprune: blocksize must be at least 1, got 0"),
        (lambda: fasterprune(percdamp=-1.0), ValueError, "SparseGPT.fasterprune: percdamp must be in"),
        (lambda: fasterprune(prunen=2, prunem=3), ValueError, "fasterprune: prunem must divide the 4 columns, got 3"),
        (lambda: fasterprune(prunen=5, prunem=4), ValueError, "must be at most prunem, got prunen=5, prunem=4"),
        (lambda: fasterprune(None), TypeError, "SparseGPT.add_batch: inp must be a torch.Tensor"),
        (lambda: fasterprune(X[:0]), ValueError, r"SparseGPT.add_batch: inp must hold a sample, got shape \(0, 4\)"),
        (lambda: fasterprune(X.long()), TypeError, "SparseGPT.add_batch: inp must have dtype"),
        (lambda: fasterprune(X * NAN), ValueError, "x must be finite, got 80 NaN or Inf"),
        (lambda: batch_prune(0), ValueError, "BatchSparseGPT: model_num must be at least 1, got 0"),
        (lambda: batch_prune(percdamp=NAN), ValueError, "BatchSparseGPT.fasterprune: percdamp must be in .* got nan"),
        (lambda: batch_prune(layers=[nn.ReLU()]), ValueError, r"layers\[0\] must have a weight of 12 entries, got no"),
    ],
)  # fmt: skip
def test_bad_arguments(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_a_wrong_layer_leaves_all_as_they_were():
    layers = [nn.Linear(4, 3), nn.Linear(5, 3)]
    before = [layer.weight.clone() for layer in layers]
    with pytest.raises(
        ValueError, match=r"layers\[1\] must have a weight of 12 entries, got \(3, 5\)"
    ):
        batch_prune(2, layers)
    assert all(torch.equal(a.weight, b) for a, b in zip(layers, before, strict=True))
