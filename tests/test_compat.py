"""Drop-in classes against the published recurrences."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from spade_ext import DampingWarning, SingularHessianError
from spade_ext.compat import BatchSparseGPT, SparseGPT, TrueOBS
from spade_ext.reference import published


class Conv1D(nn.Module):
    """The linear layer of transformers' GPT-2: weight [in, out]."""

    def __init__(self, outputs, inputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))


def columns(module, x):
    """Inputs of the layer as the published classes see them: X [groups, D, N]."""
    if isinstance(module, nn.Conv2d):
        patches = F.unfold(x, module.kernel_size, module.dilation, module.padding, module.stride)
        return patches.unflatten(1, (module.groups, -1)).permute(1, 2, 0, 3).flatten(2)
    return x.reshape(-1, x.shape[-1]).T[None]


def running_hessian(module, batches, matrix_is_one_sample=True):
    """[groups, D, D] in float64."""
    grouped = []
    for x in batches:
        count = 1 if x.ndim == 2 and matrix_is_one_sample else len(x)
        grouped.append([(part, count) for part in columns(module, x.double())])
    return torch.stack([published.running_hessian(group) for group in zip(*grouped, strict=True)])


CASES = {
    "linear": (lambda: nn.Linear(24, 10), lambda: torch.randn(6, 15, 24)),
    "rows": (lambda: nn.Linear(24, 10), lambda: torch.randn(80, 24)),
    "conv": (lambda: nn.Conv2d(4, 6, 3, padding=1), lambda: torch.randn(5, 4, 6, 6)),
    "groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), lambda: torch.randn(5, 4, 8, 8)),
    "Conv1D": (lambda: Conv1D(10, 24), lambda: torch.randn(6, 15, 24)),
}


def as_rows(module):
    weight = module.weight.detach()
    return weight.T if isinstance(module, Conv1D) else weight.flatten(1)


def assert_same_weights(weight, expected):
    torch.testing.assert_close(weight.double(), expected, rtol=1e-3, atol=1e-5)
    assert torch.equal(weight == 0, expected == 0)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("options", [(0.5,), (0.7, 0, 0, 5), (0.0, 2, 4), (0.0,), (0.57, 0, 0, 10)])
def test_sparsegpt(case, options):
    module, batches = CASES[case][0](), [CASES[case][1]() for _ in range(3)]
    dense = as_rows(module).clone()
    pruner = SparseGPT(module)
    for x in batches:
        pruner.add_batch(x, None)
    if len(options) > 1 and options[1] and dense.shape[1] % options[2]:
        pytest.skip("the group does not divide the columns")
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


def test_errors():
    with pytest.raises(TypeError, match=r"must be an nn\.Linear"):
        SparseGPT(nn.BatchNorm2d(3))
    with pytest.raises(RuntimeError, match="add_batch first"):
        SparseGPT(nn.Linear(3, 2)).fasterprune(0.5)
    pruner = TrueOBS(nn.Linear(3, 2))
    with pytest.raises(RuntimeError, match="add_batch first"):
        pruner.prepare_unstr()
    with pytest.raises(RuntimeError, match="prune_unstr: no trace yet; call prepare_unstr"):
        pruner.prune_unstr([0.5])
    pruner.free()
    with pytest.raises(RuntimeError, match="free"):
        pruner.prune_unstr([0.5])


NAN = float("nan")
X = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))


def fasterprune(inputs=X, layer=None, sparsity=0.5, **options):
    pruner = SparseGPT(layer or nn.Linear(4, 3))
    pruner.add_batch(inputs)
    pruner.fasterprune(sparsity, **options)


def batch_prune(model_num=1, layers=None, sparsity=0.5, **options):
    pruner = BatchSparseGPT(nn.Linear(4, 3), model_num)
    for _ in range(model_num):
        pruner.add_batch(X)
        pruner.inc_model_counter()
    pruner.fasterprune(sparsity, layers or [nn.Linear(4, 3)], **options)


def exact_obc(inputs=X, **options):
    pruner = TrueOBS(nn.Linear(4, 3), **options)
    pruner.add_batch(inputs)
    pruner.prepare_unstr()
    return pruner


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda: SparseGPT(None), TypeError, "layer must be an nn.Module, got NoneType"),
        (
            lambda: fasterprune(sparsity=NAN),
            ValueError,
            r"SparseGPT.fasterprune: sparsity must be in \[0.0, 1.0\], got nan",
        ),
        (
            lambda: fasterprune(sparsity="0.5"),
            TypeError,
            "SparseGPT.fasterprune: sparsity must be a number, got str",
        ),
        (
            lambda: fasterprune(sparsity=-0.1),
            ValueError,
            r"SparseGPT.fasterprune: sparsity must be in .* got -0.1",
        ),
        (
            lambda: fasterprune(blocksize=0),
            ValueError,
            "SparseGPT.fasterprune: blocksize must be at least 1, got 0",
        ),
        (
            lambda: fasterprune(percdamp=-1.0),
            ValueError,
            "SparseGPT.fasterprune: percdamp must be in",
        ),
        (
            lambda: fasterprune(prunen=2, prunem=3),
            ValueError,
            "SparseGPT.fasterprune: prunem must divide the 4 columns, got 3",
        ),
        (
            lambda: fasterprune(prunen=5, prunem=4),
            ValueError,
            "prunen must be at most prunem, got prunen=5, prunem=4",
        ),
        (lambda: fasterprune(None), TypeError, "SparseGPT.add_batch: inp must be a torch.Tensor"),
        (
            lambda: fasterprune(X[:0]),
            ValueError,
            r"SparseGPT.add_batch: inp must hold a sample, got shape \(0, 4\)",
        ),
        (lambda: fasterprune(X.long()), TypeError, "SparseGPT.add_batch: inp must have dtype"),
        (lambda: fasterprune(X * NAN), ValueError, "x must be finite, got 80 NaN or Inf"),
        (lambda: batch_prune(0), ValueError, "BatchSparseGPT: model_num must be at least 1, got 0"),
        (
            lambda: batch_prune(percdamp=NAN),
            ValueError,
            "BatchSparseGPT.fasterprune: percdamp must be in .* got nan",
        ),
        (
            lambda: batch_prune(layers=[nn.ReLU()]),
            ValueError,
            r"layers\[0\] must have a weight of 12 entries, got none of ReLU",
        ),
        (
            lambda: exact_obc(rel_damp=NAN),
            ValueError,
            r"TrueOBS: rel_damp must be in .* got nan",
        ),
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


def test_a_wrong_layer_leaves_all_as_they_were():
    layers = [nn.Linear(4, 3), nn.Linear(5, 3)]
    before = [layer.weight.clone() for layer in layers]
    with pytest.raises(
        ValueError, match=r"layers\[1\] must have a weight of 12 entries, got \(3, 5\)"
    ):
        batch_prune(2, layers)
    assert all(torch.equal(a.weight, b) for a, b in zip(layers, before, strict=True))
