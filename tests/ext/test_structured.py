"""obc_prune(structured=True): whole columns that all rows lose together."""

import math

import pytest
import torch
from problems import layer

from spade_ext import SingularHessianError, obc_prune, reference
from spade_ext.structured import structured_columns


@pytest.mark.parametrize("rows, cols, block", [(5, 12, 1), (7, 24, 3), (1, 9, 9), (3, 8, 2)])
def test_order_losses_and_weights_are_those_of_the_steps(rows, cols, block):
    weight, hessian = layer(rows, cols)
    hinv = torch.linalg.inv(hessian)
    steps = cols // block
    order, loss = structured_columns(weight, hinv, steps, block)
    expected = reference.structured_columns(weight, hinv, steps, block)
    assert order.tolist() == expected[0].tolist()
    torch.testing.assert_close(loss, expected[1], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("block", [1, 3])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.9, 1.0])
def test_all_rows_lose_the_same_columns_and_the_rest_is_the_optimum(block, sparsity):
    weight, hessian = layer(6, 30, dtype=torch.float32)
    pruned = obc_prune(weight, hessian, sparsity, block=block, structured=True, damp=0.01)
    gone = (pruned == 0).all(0)
    assert int(gone.sum()) == math.ceil(sparsity * 30 / block - 1e-9) * block
    assert torch.equal(pruned == 0, gone.expand_as(pruned))
    assert gone.view(-1, block).all(1).equal(gone.view(-1, block).any(1))
    damped = hessian.double() + 0.01 * hessian.diagonal().double().mean() * torch.eye(30)
    rest = (pruned.double() - weight.double()) @ damped
    assert rest[:, ~gone].norm() <= 1e-5 * (weight.double() @ damped).norm()


def test_losses_sum_to_the_error_of_the_layer():
    weight, hessian = layer(4, 16)
    loss = structured_columns(weight, torch.linalg.inv(hessian), 9)[1]
    pruned = reference.structured_columns(weight, torch.linalg.inv(hessian), 9)[2]
    error = 0.5 * ((pruned - weight) @ hessian * (pruned - weight)).sum()
    torch.testing.assert_close(loss.sum(), error, rtol=1e-8, atol=0)


def test_dead_columns_go_first():
    weight, hessian = layer(4, 10)
    hessian[3] = hessian[:, 3] = 0
    pruned = obc_prune(weight, hessian, 0.1, structured=True)
    assert (pruned == 0).all(0).nonzero().flatten().tolist() == [3]


def test_errors():
    weight, hessian = layer(4, 12)
    with pytest.raises(ValueError, match=r"structured needs no n:m and one group, got 2:4"):
        obc_prune(weight, hessian, n=2, m=4, structured=True)
    with pytest.raises(ValueError, match=r"one group, got weight of shape \(1, 4, 12\)"):
        obc_prune(weight[None], hessian[None], 0.5, structured=True)
    with pytest.raises(ValueError, match="weight must be finite"):
        obc_prune(weight * math.nan, hessian, 0.5, structured=True)
    with pytest.raises(
        SingularHessianError, match=r"obc_prune: .* definiteness at step 0"
    ) as caught:
        structured_columns(weight, -torch.eye(12, dtype=torch.float64), 1)
    assert caught.value.index == 0
