"""Counts of threads: any is accepted, none changes a bit, and absurd ones do not end the process."""

import pytest
import torch

import spade_ext

MOST = 2**31 - 1
X = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0))
H = X.T @ X
WEIGHT = X[:600]
IMAGES = X.reshape(-1)[: 2 * 6 * 30 * 40].reshape(2, 6, 30, 40)


@pytest.mark.parametrize(
    "op",
    [
        lambda t: spade_ext.hessian(X.reshape(-1, 2), threads=t),
        lambda t: spade_ext.hessian(IMAGES, kernel_size=3, form="tap_offsets", threads=t),
        lambda t: spade_ext.hessian(IMAGES, kernel_size=3, form="direct", threads=t),
        lambda t: spade_ext.hessian(IMAGES, kernel_size=3, groups=6, threads=t),
        lambda t: spade_ext.damped_inverse(X[:300] @ X[:300].T, threads=t)[0],
        lambda t: spade_ext.obc_prune(WEIGHT, H, 0.5, threads=t),
        lambda t: spade_ext.obc_prune(WEIGHT, H, 0.5, block=4, threads=t),
        lambda t: spade_ext.obc_prune(WEIGHT, H, n=2, m=4, threads=t),
        lambda t: spade_ext.obc_trace(WEIGHT, H).prune_rows(torch.full((600,), 4), threads=t),
        lambda t: spade_ext.sparsegpt_prune(WEIGHT, H.expand(70, 8, 8), 0.5, threads=t),
        lambda t: spade_ext.sparsegpt_prune(WEIGHT, H, n=2, m=4, threads=t),
    ],
)
def test_any_number_of_threads(op):
    expected = op(1)
    for threads in (3, MOST):
        assert torch.equal(op(threads), expected)
