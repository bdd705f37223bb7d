"""tr(E H E^T) of a change of weights, by blocks of columns of H's lower triangle."""

import pytest
import torch

from spade_ext import _loss


@pytest.mark.parametrize("groups", [(), (3,)])
@pytest.mark.parametrize("width", [1, 7, 20, 64])
def test_quadratic_reads_the_lower_triangle_in_blocks(monkeypatch, width, groups):
    monkeypatch.setattr(_loss, "_COLUMNS", width)
    x = torch.randn(*groups, 20, 50, dtype=torch.float64)
    change = torch.randn(*groups, 5, 20)
    hessian = x @ x.mT
    expected = (change.double() @ x).square().sum()
    spoilt = hessian.tril() + torch.full_like(hessian, torch.nan).triu(1)
    got = _loss.quadratic(change, spoilt)
    torch.testing.assert_close(got, expected)
    assert got.dtype == torch.float64 and got.shape == ()
    torch.testing.assert_close(_loss.quadratic(change, spoilt.float()), expected, rtol=1e-5, atol=0)
