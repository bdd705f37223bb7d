"""The published recurrences against the ops' references and what must hold for any order."""

import pytest
import torch
from problems import layer

from spade_ext import reference
from spade_ext.reference import published


@pytest.mark.parametrize("blocksize", [1, 5, 7, 128])
@pytest.mark.parametrize("sparsity", [0.0, 0.35, 0.8])
def test_fasterprune_is_sparsegpt_with_one_more_a_block(blocksize, sparsity):
    weight, h = layer(6, 33)
    pruned = published.fasterprune(weight, h, sparsity, blocksize=blocksize)
    for block in pruned.split(blocksize, dim=1):
        assert int((block == 0).sum()) == int(block.numel() * sparsity) + 1
    if blocksize in (1, 128):  # blocks of one size: a sparsity that asks for as many
        size = 6 * min(blocksize, 33)
        same = (int(size * sparsity) + 1) / size
        expected = reference.sparsegpt_prune(weight, h, same, block_size=blocksize)
        torch.testing.assert_close(pruned, expected)


def test_fasterprune_n_of_m():
    weight, h = layer(6, 32)
    pruned = published.fasterprune(weight, h, 0.0, 2, 4)
    torch.testing.assert_close(pruned, reference.sparsegpt_prune(weight, h, n=2, m=4))


def test_fasterprune_prunes_dead_columns_and_the_batched_form_takes_one_weight():
    weight, h = layer(6, 20)
    h[:, 7] = h[7, :] = 0
    assert not published.fasterprune(weight, h, 0.0)[:, 7].any()
    assert int((published.batch_fasterprune(weight, h, 0.0) == 0).sum()) == 1


def test_batched_form_of_a_singular_hessian_prunes_by_magnitude():
    weight, h = layer(4, 10)
    h[0, 0] = -1e6
    pruned = published.batch_fasterprune(weight, h, 0.5)
    kept = weight.abs() > weight.abs().flatten().sort()[0][20]
    torch.testing.assert_close(pruned, weight * kept)


def test_running_hessian_is_twice_the_mean_product():
    batches = [(torch.randn(7, n, dtype=torch.float64), count) for n, count in ((5, 1), (9, 4))]
    expected = 2 / 5 * sum(x @ x.T for x, _ in batches)
    torch.testing.assert_close(published.running_hessian(batches), expected)


@pytest.mark.parametrize("size, n, m", [(1, 1, 1), (4, 1, 1), (1, 2, 4)])
def test_trueobs_row_is_the_least_squares_optimum_of_the_kept(size, n, m):
    weight, h = layer(3, 24)
    w, hinv = published.trueobs_prepare(weight, h, 0.01)
    damped = torch.linalg.inv(hinv)
    steps = 24 // size // m * n
    expected = reference.obc_eliminate(
        w, hinv, steps, n=n if m > 1 else None, m=m if m > 1 else None, block=size
    )
    for r in range(3):
        trace, losses = published.trueobs_row(w[r], hinv, size, n, m)
        assert trace.shape == (steps + 1, 24)
        for k, row in enumerate(trace):
            kept = row != 0
            assert int((~kept).sum()) == k * size
            gradient = damped @ (row - w[r])
            assert gradient[kept].norm() <= 1e-9 * damped.norm() * w[r].norm()
            rise = 0.5 * (row - w[r]) @ gradient
            torch.testing.assert_close(losses[:k].sum(), rise)
        torch.testing.assert_close(trace[-1], expected[2][r])
        torch.testing.assert_close(losses, expected[1][r])


@pytest.mark.parametrize("size", [1, 4])
def test_trueobs_prune_takes_the_least_losses_of_the_layer(size):
    weight, h = layer(5, 20)
    for sparsity in (0.0, 0.31, 1.0):
        (pruned,) = published.trueobs_prune(weight, h, [sparsity], size, rel_damp=0.01)
        expected = reference.obc_prune(weight, h, sparsity, block=size)
        torch.testing.assert_close(pruned, expected)


def test_trueobs_nm():
    weight, h = layer(5, 20)
    pruned = published.trueobs_nm(weight, h, 2, 4, rel_damp=0.01)
    torch.testing.assert_close(pruned, reference.obc_prune(weight, h, n=2, m=4))


def test_trueobs_prepare_of_dead_columns_and_of_a_singular_hessian():
    weight, h = layer(2, 6)
    h[:, 2] = h[2, :] = 0
    w, hinv = published.trueobs_prepare(weight, h)
    assert not w[:, 2].any() and hinv[2, 2] == 1
    w, _ = published.trueobs_prepare(weight, h, 0.1)
    assert torch.equal(w, weight)
    singular = torch.full((6, 6), -0.1, dtype=torch.float64)
    _, hinv = published.trueobs_prepare(weight, singular)
    torch.testing.assert_close(hinv, torch.linalg.inv(singular + torch.eye(6)))
