"""What other projects read and set on the published classes, beside their methods."""

import copy

import pytest
import torch
from compat_layers import CASES, as_rows, assert_same_weights, running_hessian
from torch import nn
from torch.nn import functional as F

from spade_ext import DampingWarning
from spade_ext.compat import BatchSparseGPT, SparseGPT, SparseGPTSuperFast, TrueOBS
from spade_ext.reference import published, structured_columns


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("made", [SparseGPT, TrueOBS])
def test_the_hessian_and_the_count(case, made):
    module, batches = CASES[case][0](), [CASES[case][1]() for _ in range(3)]
    pruner = made(module)
    assert pruner.nsamples == 0 and not pruner.H.any()
    for x in batches:
        pruner.add_batch(x, None)
    expected = running_hessian(module, batches, matrix_is_one_sample=made is SparseGPT)
    got = pruner.H if pruner.H.ndim == 3 else pruner.H[None]
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-4)
    assert got.dtype == (torch.float32 if made is SparseGPT else torch.float64)
    one = made is SparseGPT and batches[0].ndim == 2
    assert pruner.nsamples == (3 if one else sum(len(x) for x in batches))
    assert (pruner.rows, pruner.columns) == tuple(as_rows(module).shape)
    assert pruner.dev == module.weight.device and pruner.mask is None
    assert getattr(pruner, "kernel_size", None) == (9 if isinstance(module, nn.Conv2d) else None)


@pytest.mark.parametrize("made", [SparseGPT, TrueOBS])
def test_what_is_done_to_the_hessian_counts_and_later_batches_are_weighed(made):
    module, first, second = nn.Linear(6, 3), torch.randn(4, 5, 6), torch.randn(8, 5, 6)
    pruner = made(module)
    pruner.add_batch(first)
    pruner.H[0, 0] += 7
    pruner.H = pruner.H * 2
    pruner.add_batch(second)
    h = (2 / 4) * first.flatten(0, 1).T @ first.flatten(0, 1)
    h[0, 0] += 7
    expected = 2 * h * 4 / 12 + (2 / 12) * second.flatten(0, 1).T @ second.flatten(0, 1)
    torch.testing.assert_close(pruner.H.float(), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"H must have shape \(6, 6\), got \(5, 5\)"):
        pruner.H = torch.eye(5)


def test_a_hessian_that_was_set_is_pruned_with():
    weight, hessian = torch.randn(10, 24), torch.randn(40, 24).T.cov()
    hessian = hessian.double() + torch.eye(24)
    module = nn.Linear(24, 10)
    module.weight.data = weight.clone()
    pruner = SparseGPT(module)
    pruner.H = hessian.float()
    pruner.fasterprune(0.5, blocksize=8)
    assert_same_weights(
        module.weight.data, published.fasterprune(weight.double(), hessian, 0.5, blocksize=8)
    )


def test_the_batched_class():
    assert SparseGPTSuperFast is BatchSparseGPT
    module = nn.Linear(6, 3)
    pruner = BatchSparseGPT(module, 2)
    x, y = torch.randn(2, 5, 6), torch.randn(3, 5, 6)
    pruner.add_batch(x)
    assert pruner.nsamples == 2
    pruner.inc_model_counter()
    pruner.add_batch(y)
    assert pruner.nsamples == 3
    for got, sample in zip(pruner.H, (x, y), strict=True):
        rows = sample.flatten(0, 1)
        torch.testing.assert_close(got, 2 / len(sample) * rows.T @ rows, rtol=1e-4, atol=1e-5)
    pruner.H = pruner.H + torch.eye(6)
    layers = [copy.deepcopy(module), copy.deepcopy(module)]
    dense = module.weight.data.double()
    hessians = pruner.H.double()
    pruner.fasterprune(0.5, layers, blocksize=1)
    for one, h in zip(layers, hessians, strict=True):
        assert_same_weights(
            one.weight.data, published.batch_fasterprune(dense, h, 0.5, blocksize=1)
        )
    with pytest.raises(ValueError, match="H must hold 2 Hessians"):
        pruner.H = torch.zeros(3, 6, 6)


@pytest.mark.parametrize("made", [SparseGPT, TrueOBS, lambda layer: BatchSparseGPT(layer, 1)])
def test_quantisation_is_refused_by_name(made):
    pruner = made(nn.Linear(4, 3))
    with pytest.raises(NotImplementedError, match="quantizer: quantisation is not offered"):
        pruner.quantizer = object()
    with pytest.raises(NotImplementedError, match="quantizer: quantisation is not offered"):
        pruner.quantizer.ready()
    with pytest.raises(NotImplementedError, match="quantize: quantisation is not offered"):
        pruner.quantize()


def test_spades_constructor_writes_its_log(tmp_path):
    log = tmp_path / "log.txt"
    conv = nn.Conv2d(4, 6, 3, padding=1)
    pruner = TrueOBS(conv, log, always_damp=0.1)
    pruner.add_batch(torch.randn(2, 4, 6, 6), None)
    with pytest.warns(DampingWarning, match="TrueOBS: the Hessian is not positive definite; 1 was"):
        few = TrueOBS(nn.Linear(24, 3), str(log))
        few.add_batch(torch.randn(5, 24))
        few.prepare_unstr()
    text = log.read_text()
    assert "rows=6, columns=36" in text and "not full rank" in text
    assert TrueOBS(conv, 0.2).rel_damp == TrueOBS(conv, rel_damp=0.2).rel_damp == 0.2
    assert TrueOBS(conv, log_file=str(log)).rel_damp == 0.0


def test_dead_columns_go_before_spades_damping_and_stay_with_obcs():
    x = torch.randn(80, 24)
    x[:, 3:9] = 0
    kept = {}
    for name, arguments in (("spade", ("log", 0.05)), ("obc", (0.05,))):
        module = nn.Linear(24, 10)
        pruner = TrueOBS(module, *arguments) if name == "obc" else TrueOBS(module, None, 0.05)
        pruner.add_batch(x)
        pruner.prepare_unstr()
        (weight,) = pruner.prune_unstr([0.0])
        kept[name] = bool(weight[:, 3:9].any())
    assert kept == {"spade": False, "obc": True}


def test_always_damp_is_that_of_the_published_recurrence():
    module, x = nn.Linear(24, 10), torch.randn(80, 24)
    x[:, 3:9] = 0
    h = running_hessian(module, [x], matrix_is_one_sample=False)[0]
    h[range(3, 9), range(3, 9)] = 1
    h += 0.05 * h.diagonal().mean() * torch.eye(24)
    dense = as_rows(module).double().clone()
    dense[:, 3:9] = 0
    pruner = TrueOBS(module, None, 0.05)
    pruner.add_batch(x)
    pruner.prepare_unstr()
    expected = published.trueobs_prune(dense, h, [0.4, 0.7])
    for got, one in zip(pruner.prune_unstr([0.4, 0.7]), expected, strict=True):
        assert_same_weights(got, one)


@pytest.mark.parametrize("size", [None, 4])
def test_losses_and_traces(size):
    module, x = nn.Linear(12, 5), torch.randn(60, 12)
    pruner = TrueOBS(module)
    pruner.add_batch(x)
    with pytest.raises(RuntimeError, match=r"TrueOBS.Losses: no trace yet"):
        _ = pruner.Losses
    pruner.prepare_unstr(parallel=2) if size is None else pruner.prepare_blocked(size, parallel=2)
    steps = 12 // (size or 1)
    assert pruner.Losses.shape == (5, steps + 1) and not pruner.Losses[:, 0].any()
    assert [tuple(t.shape) for t in pruner.Traces] == [(steps + 1, n, 12) for n in (2, 2, 1)]
    whole = torch.cat(pruner.Traces, 1)
    torch.testing.assert_close(whole[0], module.weight.data)
    assert [int((w == 0).sum(1).unique()) for w in whole] == [
        k * (size or 1) for k in range(steps + 1)
    ]
    h = running_hessian(module, [x], matrix_is_one_sample=False)[0]
    change = whole.double() - module.weight.data.double()
    errors = 0.5 * (change @ h * change).sum(2)  # [steps + 1, R]
    torch.testing.assert_close(errors.T, pruner.Losses.double().cumsum(1), rtol=1e-3, atol=1e-5)


def test_balanced_rows():
    module, x = nn.Linear(12, 5), torch.randn(60, 12)
    pruner = TrueOBS(module)
    pruner.add_batch(x)
    pruner.prepare_unstr()
    assert ((pruner.prune_unstr_balanced(4) != 0).sum(1) == 4).all()
    with pytest.raises(ValueError, match="rem must be at most 12, got 13"):
        pruner.prune_unstr_balanced(13)


@pytest.mark.parametrize("size", [1, 9])
def test_whole_columns_as_published(size):
    module, x = CASES["conv"][0](), CASES["conv"][1]()
    pruner = TrueOBS(module)
    pruner.add_batch(x)
    dense, again, none = pruner.prune_struct([0, 0.5, 1.0], size)
    assert torch.equal(dense, as_rows(module).float()) and not none.any()
    h = running_hessian(module, [x])[0]
    steps = 36 // size // 2 + 1  # published: one more than the half
    expected = structured_columns(as_rows(module).double(), torch.linalg.inv(h), steps, size)[2]
    assert_same_weights(again, expected)


@pytest.mark.parametrize("case", ["linear", "conv"])
def test_resolve_recovers_the_weights_that_made_the_outputs(case):
    module, batches = CASES[case][0](), [CASES[case][1]() for _ in range(3)]
    module.bias = None
    wanted = module.weight.data.clone()
    pruner = TrueOBS(module)
    for x in batches:
        pruner.add_batch(x, module(x).detach(), resolve=True)
    module.weight.data.zero_()
    pruner.resolve()
    torch.testing.assert_close(module.weight.data, wanted, rtol=1e-3, atol=1e-3)
    with pytest.raises(RuntimeError, match="call add_batch with resolve=True"):
        TrueOBS(module).resolve()


def test_a_mask_chooses_tokens():
    module, x, mask = nn.Linear(6, 3), torch.randn(4, 5, 6), torch.rand(4, 5) < 0.5
    pruner = TrueOBS(module)
    pruner.set_mask(mask)
    pruner.add_batch(x, module(x))
    rows = x[mask]
    torch.testing.assert_close(pruner.H.float(), 2 / 4 * rows.T @ rows, rtol=1e-4, atol=1e-5)


def test_invert_damps_what_is_singular():
    pruner = TrueOBS(nn.Linear(3, 2))
    h = torch.diag(torch.tensor([1.0, 2.0, 4.0]))
    torch.testing.assert_close(pruner.invert(h), torch.linalg.inv(h))
    with pytest.warns(DampingWarning, match="2 was added to its diagonal"):
        got = pruner.invert(torch.zeros(3, 3), damp=2)
    torch.testing.assert_close(got, torch.eye(3) / 2)


def test_padding_by_unfold_is_refused_where_it_cannot_be_right():
    conv = nn.Conv2d(2, 3, 3, padding="same")
    x = torch.randn(1, 2, 5, 5)
    with pytest.raises(NotImplementedError, match="padding='same'"):
        TrueOBS(conv).add_batch(x, F.relu(conv(x)), resolve=True)
