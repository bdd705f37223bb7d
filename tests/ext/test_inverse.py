"""spade_ext.damped_inverse against the dense inverse in float64."""

import pytest
import torch
from problems import layer

from spade_ext import DampingWarning, SingularHessianError, damped_inverse, reference


@pytest.mark.parametrize("cols", [1, 2, 31, 33, 129, 400])
def test_against_reference(cols):
    _, h = layer(1, cols)
    inverse, damp = damped_inverse(h)
    expected, expected_damp = reference.damped_inverse(h)
    assert damp == expected_damp == 0.01
    torch.testing.assert_close(inverse, expected, rtol=1e-10, atol=1e-12 * float(expected.max()))
    assert torch.equal(inverse, inverse.T)
    single, _ = damped_inverse(h.float())
    assert single.dtype == torch.float32
    assert (single - expected).norm() <= 1e-5 * expected.norm()


def test_dead_columns_become_the_identity():
    h = torch.diag(torch.tensor([2.0, 0.0, 4.0]))
    inverse, _ = damped_inverse(h, 0.0)
    torch.testing.assert_close(inverse, torch.diag(torch.tensor([0.5, 1.0, 0.25])))
    assert torch.equal(damped_inverse(torch.zeros(3, 3), 0.0)[0], torch.eye(3))


def test_damping_grows_tenfold_until_it_holds():
    h = torch.diag(torch.tensor([1.0, 1.0, -0.05]))
    with pytest.warns(DampingWarning, match="not positive definite at damp=0.01, used 0.1"):
        _, damp = damped_inverse(h, 0.01)
    assert damp == pytest.approx(0.1)
    rank_one = torch.ones(4, 4) - 1e-9 * torch.eye(4, dtype=torch.float64)
    with pytest.warns(DampingWarning, match="damp=0, used 1e-06"):
        damped_inverse(rank_one, 0.0)


def test_threads_do_not_change_a_bit():
    _, h = layer(1, 500, dtype=torch.float32)
    one, two, four = (damped_inverse(h, threads=t)[0] for t in (1, 2, 4))
    assert torch.equal(one, two) and torch.equal(one, four)


@pytest.mark.parametrize("cols", [1, 47, 49, 200])
def test_only_the_lower_triangle_is_read(cols):
    _, h = layer(1, cols, dtype=torch.float32)
    lower = h.tril() + 1e3 * torch.randn(cols, cols).triu(1)
    assert torch.equal(damped_inverse(lower)[0], damped_inverse(h)[0])
    torch.testing.assert_close(
        damped_inverse(lower.double())[0], reference.damped_inverse(h.double())[0]
    )


@pytest.mark.parametrize("scale, got", [(1e-39, "9.9.*e[+]38"), (3e38, "3.*e-39")])
def test_an_inverse_out_of_range(scale, got):
    h = scale * torch.eye(3)
    with pytest.raises(
        SingularHessianError,
        match=r"inverse of H must be in the range of float, \[1.*e-38, 3.*e[+]38\], got " + got,
    ):
        damped_inverse(h)
    inverse, _ = damped_inverse(h.double())
    torch.testing.assert_close(inverse, (h.double() * 1.01).inverse())


def test_sixteen_bits_and_empty():
    assert damped_inverse(torch.eye(3).half())[0].dtype == torch.float32
    assert damped_inverse(torch.empty(0, 0))[0].shape == (0, 0)


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda: damped_inverse(torch.ones(2, 3)), ValueError, "hessian must be square"),
        (lambda: damped_inverse(torch.ones(3)), ValueError, "hessian must have 2 dimensions"),
        (lambda: damped_inverse(None), TypeError, "hessian must be a torch.Tensor, got NoneType"),
        (lambda: damped_inverse(torch.eye(2) * torch.nan), ValueError, "hessian must be finite"),
        (lambda: damped_inverse(torch.eye(2), -1.0), ValueError, "damp must be in"),
        (lambda: damped_inverse(torch.eye(2), torch.inf), ValueError, "damp must be in .* got inf"),
        (lambda: damped_inverse(torch.eye(2), True), TypeError, "damp must be a number, got bool"),
        (lambda: damped_inverse(-torch.eye(2)), SingularHessianError, "even with damp = 1"),
    ],
)
def test_errors(call, error, text):
    with pytest.raises(error, match="damped_inverse: .*" + text):
        call()
