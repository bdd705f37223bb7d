"""What sparsegpt_prune offers to other pruning projects: a loss, extra weights, zeros that stay."""

import pytest
import torch
from problems import layer

import spade_ext
from spade_ext.reference import published


def problem(rows=10, cols=24, samples=60):
    weight, hessian = layer(rows, cols, dtype=torch.float32, samples=samples)
    return weight, hessian


def test_the_loss_is_the_sum_of_the_published_steps():
    weight, hessian = problem()
    pruned, loss = spade_ext.sparsegpt_prune(weight, hessian, 0.5, block_size=8, return_loss=True)
    assert torch.equal(pruned, spade_ext.sparsegpt_prune(weight, hessian, 0.5, block_size=8))
    h = hessian.double()
    h += 0.01 * h.diagonal().mean() * torch.eye(24)
    u = torch.linalg.cholesky(torch.linalg.inv(h), upper=True)
    w, total = weight.double().clone(), 0.0
    for j in range(24):
        error = (w[:, j] - pruned[:, j].double()) / u[j, j]
        total += 0.5 * float(error.square().sum())
        w[:, j:] -= torch.outer(error, u[j, j:])
    assert loss.item() == pytest.approx(total, rel=1e-3)


def test_losses_of_a_batch_and_of_one_that_failed():
    weight, hessian = problem()
    indefinite = torch.eye(24)
    indefinite[0, 0] = -1e9
    both = torch.stack([hessian, indefinite])
    batch = spade_ext.sparsegpt_prune_batch(weight, both, 0.5)
    alone = spade_ext.sparsegpt_prune(weight, hessian, 0.5, return_loss=True)[1]
    assert batch.loss(weight, both).tolist() == pytest.approx([alone.item(), 0.0])
    many, losses = spade_ext.sparsegpt_prune(
        weight, torch.stack([hessian, hessian]), 0.5, return_loss=True
    )
    assert many.shape == (2, 10, 24) and losses.tolist() == pytest.approx([alone.item()] * 2)


def test_extra_is_that_of_the_published_code():
    weight, hessian = problem()
    got = spade_ext.sparsegpt_prune(weight, hessian, 0.5, block_size=8, extra=1)
    expected = published.fasterprune(weight.double(), hessian.double(), 0.5, blocksize=8)
    torch.testing.assert_close(got.double(), expected, rtol=1e-3, atol=1e-5)
    assert torch.equal(got == 0, expected == 0)


@pytest.mark.parametrize(
    "options",
    [{"block_size": 8}, {"block_size": 1}, {"n": 2, "m": 4}, {"block_size": 7, "extra": 1}],
)
def test_nothing_to_preserve_is_the_op_itself(options):
    weight, hessian = problem()
    sparsity = 0.0 if "n" in options else 0.5
    zeros = torch.zeros_like(weight, dtype=torch.bool)
    got = spade_ext.sparsegpt_prune(weight, hessian, sparsity, preserve=zeros, **options)
    expected = spade_ext.sparsegpt_prune(weight, hessian, sparsity, **options)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-5)
    assert torch.equal(got == 0, expected == 0)


@pytest.mark.parametrize("sparsity", [0.0, 0.2, 0.6])
def test_zeros_stay_and_count(sparsity):
    weight, hessian = problem()
    zeros = torch.rand(10, 24, generator=torch.Generator().manual_seed(1)) < 0.3
    got = spade_ext.sparsegpt_prune(weight, hessian, sparsity, preserve=zeros, block_size=24)
    assert not got[zeros].any()
    assert int((got == 0).sum()) == max(int(zeros.sum()), int(sparsity * 240))


def test_zeros_pass_no_error_on():
    weight, hessian = problem()
    zeros = torch.zeros(10, 24, dtype=torch.bool)
    zeros[:, :16] = True
    got = spade_ext.sparsegpt_prune(weight, hessian, 16 / 24, preserve=zeros, block_size=24)
    assert torch.equal(got, weight.masked_fill(zeros, 0))


def test_samples_and_bad_arguments():
    weight, hessian = problem()
    zeros = weight > 0
    both = torch.stack([hessian, 2 * hessian])
    batch = spade_ext.sparsegpt_prune_batch(weight, both, 0.6, preserve=zeros)
    alone = spade_ext.sparsegpt_prune(weight, hessian, 0.6, preserve=zeros)
    assert torch.equal(batch.weights[0], alone) and not batch.failed.any()
    each = torch.stack([zeros, ~zeros])
    other = spade_ext.sparsegpt_prune_batch(weight, both, 0.6, preserve=each).weights
    assert torch.equal(other[0], alone) and not other[1][~zeros].any()
    with pytest.raises(ValueError, match=r"preserve must have shape \(10, 24\), got \(10, 23\)"):
        spade_ext.sparsegpt_prune(weight, hessian, 0.5, preserve=zeros[:, :23])
    with pytest.raises(TypeError, match=r"preserve must have dtype torch\.bool"):
        spade_ext.sparsegpt_prune(weight, hessian, 0.5, preserve=weight)
    with pytest.raises(spade_ext.SingularHessianError, match="hessian is not positive"):
        spade_ext.sparsegpt_prune(weight, -torch.eye(24) * 1e9, 0.5, preserve=zeros)
