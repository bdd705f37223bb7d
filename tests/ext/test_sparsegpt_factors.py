"""SparseGPT at several sparsities from one factor: the bits of sparsegpt_prune, and the loss of the definition."""

import pytest
import torch

from spade_ext import hessian, sparsegpt_prune, sparsegpt_prune_batch
from spade_ext.sparsegpt_factors import SparseGPTFactors


def problem(rows, cols, samples, dtype=torch.float32, dead=True):
    generator = torch.Generator().manual_seed(rows + cols)
    weight = torch.randn(rows, cols, generator=generator, dtype=dtype)
    inputs = torch.randn(samples, 2 * cols, cols, generator=generator, dtype=dtype)
    if dead:
        inputs[:, :, cols // 2] = 0
    return weight, torch.stack([hessian(x) for x in inputs])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "cols", "block"), [(5, 7, 1), (24, 90, 9), (17, 260, 260)])
def test_sweeps_share_a_factor(rows, cols, block, dtype):
    weight, h = problem(rows, cols, 2, dtype)
    factors = SparseGPTFactors(h, 0.05)
    for sparsity in (0.0, 0.4, 0.95, 1.0):
        pruned, losses = factors.prune(weight, sparsity, block_size=block)
        expected = sparsegpt_prune_batch(weight, h, sparsity, block_size=block, damp=0.05)
        assert torch.equal(pruned, expected.weights)
        assert factors.damp == expected.damp.tolist() and not factors.failed
        change, whole = ((weight - x).double() for x in (pruned, torch.zeros_like(pruned)))
        loss, size = (torch.einsum("srd,sde,sre->s", x, h.double(), x) for x in (change, whole))
        error = (torch.tensor(losses, dtype=torch.float64) - loss).abs() / size
        assert float(error.max()) < (1e-5 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize(("of_weight", "of_hessian"), [(1e-30, 1.0), (1e25, 1e-12), (1.0, 1e20)])
def test_losses_of_every_scale(of_weight, of_hessian):
    weight, h = problem(16, 40, 1, dead=False)
    plain = SparseGPTFactors(h).prune(weight, 0.6, block_size=1)
    scaled = SparseGPTFactors(h * of_hessian).prune(weight * of_weight, 0.6, block_size=1)
    factor = float(torch.tensor(of_weight).double() ** 2 * of_hessian)
    assert scaled[1][0] == pytest.approx(plain[1][0] * factor, rel=1e-4)


@pytest.mark.parametrize("damp", [0.0, 1e-6, 1.0, 1e6])
def test_losses_beside_any_damping(damp):
    weight, h = problem(16, 40, 2)
    h[1] *= 1e-12  # a dead column counts as 1 in the mean, so that damping is all there is
    pruned, losses = SparseGPTFactors(h, damp).prune(weight, 0.6, block_size=4)
    d = (weight - pruned).double()
    expected = torch.einsum("srd,sde,sre->s", d, h.double(), d).tolist()
    assert losses == pytest.approx(expected, rel=2e-3)


def test_weights_of_each_sample_and_of_few_bits():
    weight, h = problem(6, 16, 2)
    each = torch.stack([weight, 2 * weight])
    factors = SparseGPTFactors(h)
    pruned, losses = factors.prune(each, 0.5, block_size=4)
    for k in range(2):
        alone = SparseGPTFactors(h[k : k + 1]).prune(each[k], 0.5, block_size=4)
        assert torch.equal(pruned[k], alone[0][0]) and losses[k] == alone[1][0]
    half = factors.prune(weight.half(), 0.5, block_size=4)[0]
    assert half.dtype == torch.float16
    assert torch.equal(half[0], sparsegpt_prune(weight.half(), h[0], 0.5, block_size=4))


def test_what_cannot_be_is_refused():
    weight, h = problem(6, 16, 1)
    failed = SparseGPTFactors(-h)
    assert failed.failed and failed.damp == [1.0]
    with pytest.raises(ValueError, match="the Hessians must be positive definite"):
        failed.prune(weight, 0.5, block_size=1)
    factors = SparseGPTFactors(h)
    with pytest.raises(ValueError, match=r"SparseGPTFactors.prune: weight must have shape"):
        factors.prune(weight[:, :8], 0.5, block_size=1)
    with pytest.raises(ValueError, match=r"weight must have shape"):
        factors.prune(weight.expand(3, -1, -1), 0.5, block_size=1)
    with pytest.raises(ValueError, match="sparsity must be in"):
        factors.prune(weight, 1.5, block_size=1)
    with pytest.raises(ValueError, match=r"weight .*(NaN|finite)"):
        factors.prune(weight * float("nan"), 0.5, block_size=1)
    with pytest.raises(ValueError, match=r"hessian .*(NaN|finite)"):
        SparseGPTFactors(h * float("inf"))
    with pytest.raises(ValueError, match="hessian must be square"):
        SparseGPTFactors(h[:, :5])
