"""Drop-in classes against the published recurrences."""

import pytest
import torch
from problems import layer
from torch import nn
from torch.nn import functional as F

from spade_ext import reference
from spade_ext.compat import BatchSparseGPT, SparseGPT, TrueOBS


class Conv1D(nn.Module):
    """The linear layer of transformers' GPT-2: weight [in, out]."""

    def __init__(self, outputs, inputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))


def columns(module, x):
    """Inputs of the layer as the published classes see them, X [groups, D, N], and their sample count."""
    if isinstance(module, nn.Conv2d):
        patches = F.unfold(x, module.kernel_size, module.dilation, module.padding, module.stride)
        grouped = patches.unflatten(1, (module.groups, -1)).permute(1, 2, 0, 3).flatten(2)
        return grouped, len(x)
    return x.reshape(-1, x.shape[-1]).T[None], 1 if x.ndim == 2 else len(x)


def running_hessian(module, batches):
    h, seen = 0, 0
    for x in batches:
        x, count = columns(module, x.double())
        h = h * (seen / (seen + count)) + 2 / (seen + count) * x @ x.transpose(1, 2)
        seen += count
    return h


CASES = {
    "linear": (lambda: nn.Linear(24, 10), lambda: torch.randn(6, 15, 24)),
    "rows": (lambda: nn.Linear(24, 10), lambda: torch.randn(80, 24)),
    "conv": (lambda: nn.Conv2d(4, 6, 3, padding=1), lambda: torch.randn(5, 4, 6, 6)),
    "groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), lambda: torch.randn(5, 4, 8, 8)),
    "Conv1D": (lambda: Conv1D(10, 24), lambda: torch.randn(6, 15, 24)),
}


def as_rows(module, weight=None):
    weight = module.weight.detach() if weight is None else weight
    return weight.T if isinstance(module, Conv1D) else weight.flatten(1)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("options", [(0.5,), (0.7, 0, 0, 5), (0.0, 2, 4), (0.0,)])
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
    parts = dense.double().split(len(dense) // len(hessians))
    expected = [reference.fasterprune(w, h, *options) for w, h in zip(parts, hessians, strict=True)]
    torch.testing.assert_close(as_rows(module).double(), torch.cat(expected), rtol=1e-3, atol=1e-5)
    with pytest.raises(RuntimeError, match="free"):
        pruner.add_batch(batches[0])


@pytest.mark.parametrize("case", ["linear", "conv", "Conv1D"])
def test_batch_sparsegpt(case):
    module = CASES[case][0]()
    samples = [[CASES[case][1]() for _ in range(2)] for _ in range(3)]
    pruner = BatchSparseGPT(module, 3)
    for batches in samples:
        for x in batches:
            pruner.add_batch(x, None)
        pruner.inc_model_counter()
    with pytest.raises(RuntimeError, match="model_counter must be below 3, got 3"):
        pruner.add_batch(samples[0][0])
    copies = [CASES[case][0]() for _ in samples]
    with pytest.raises(ValueError, match="layers must hold 3 layers, got 2"):
        pruner.fasterprune(0.6, copies[:2])
    pruner.fasterprune(0.6, copies, blocksize=5)
    for batches, copy in zip(samples, copies, strict=True):
        h = running_hessian(module, batches)[0]
        expected = reference.fasterprune(as_rows(module).double(), h, 0.6, blocksize=5)
        torch.testing.assert_close(as_rows(copy).double(), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("case", ["linear", "conv", "Conv1D"])
@pytest.mark.parametrize("rel_damp", [0.0, 0.05])
def test_trueobs_unstructured(case, rel_damp):
    module, batches = CASES[case][0](), [CASES[case][1]() for _ in range(3)]
    pruner = TrueOBS(module, rel_damp)
    for x in batches:
        pruner.add_batch(x, None)
    pruner.prepare_unstr()
    pruned = pruner.prune_unstr([0.25, 0.8])
    h = running_hessian(module, batches)[0]
    for sparsity, weight in zip([0.25, 0.8], pruned, strict=True):
        assert weight.shape == module.weight.shape
        expected = reference.obc_prune(as_rows(module).double(), h, sparsity, damp=rel_damp)
        torch.testing.assert_close(as_rows(module, weight).double(), expected, rtol=1e-3, atol=1e-5)


def channels_last(conv):
    return (
        torch.arange(conv.weight[0].numel())
        .reshape(conv.weight.shape[1:])
        .permute(1, 2, 0)
        .flatten()
    )


def test_trueobs_patterns_of_a_convolution_run_over_channels():
    module, batches = CASES["conv"][0](), [CASES["conv"][1]() for _ in range(3)]
    order = channels_last(module)
    dense = as_rows(module).double()[:, order]
    h = running_hessian(module, batches)[0][order][:, order]
    pruner = TrueOBS(module)
    for x in batches:
        pruner.add_batch(x)
    pruner.prepare_blocked(size=4)
    (blocked,) = pruner.prune_blocked([0.5])
    expected = reference.obc_prune(dense, h, 0.5, block=4, damp=0.0)
    torch.testing.assert_close(
        blocked.flatten(1)[:, order].double(), expected, rtol=1e-3, atol=1e-5
    )
    pruner.nmprune(2, 4)
    expected = reference.obc_prune(dense, h, n=2, m=4, damp=0.0)
    torch.testing.assert_close(as_rows(module)[:, order].double(), expected, rtol=1e-3, atol=1e-5)


def test_trueobs_of_groups_and_of_a_singular_hessian():
    module = CASES["groups"][0]()
    pruner = TrueOBS(module)
    x = CASES["groups"][1]()
    pruner.add_batch(x)
    pruner.prepare_unstr()
    (pruned,) = pruner.prune_unstr([0.5])
    assert int((pruned == 0).sum()) == module.weight.numel() // 2
    few = nn.Linear(24, 3)
    pruner = TrueOBS(few)
    rows = torch.randn(5, 24)
    pruner.add_batch(rows)
    pruner.prepare_unstr()
    (pruned,) = pruner.prune_unstr([0.5])
    h = running_hessian(few, [rows])[0] + torch.eye(24)
    expected = reference.obc_prune(few.weight.detach().double(), h, 0.5, damp=0.0)
    torch.testing.assert_close(pruned.double(), expected, rtol=1e-3, atol=1e-5)


def test_errors():
    with pytest.raises(TypeError, match=r"must be an nn\.Linear"):
        SparseGPT(nn.BatchNorm2d(3))
    for pruner in (SparseGPT(nn.Linear(3, 2)), TrueOBS(nn.Linear(3, 2))):
        with pytest.raises(RuntimeError, match="add_batch first"):
            pruner.fasterprune(0.5) if isinstance(pruner, SparseGPT) else pruner.prepare_unstr()
    with pytest.raises(RuntimeError, match="call the prepare method first"):
        TrueOBS(nn.Linear(3, 2)).prune_unstr([0.5])


def test_published_recurrence_prunes_one_more_a_block():
    weight, h = layer(4, 20)
    pruned = reference.fasterprune(weight, h, 0.5, blocksize=5)
    assert [(b == 0).sum().item() for b in pruned.split(5, dim=1)] == [11, 11, 11, 11]
