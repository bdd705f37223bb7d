"""spade_obc_trace through the C API against the step-by-step algorithm in float64."""

import ctypes
import os

import pytest
import torch

LIBRARY = os.environ.get("SPADE_LIBRARY")
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="SPADE_LIBRARY names no libspade")


def address(tensor: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def trace(weight, hinv, nm=None, threads=2):
    library = ctypes.CDLL(LIBRARY)
    suffix = "f64" if weight.dtype == torch.float64 else "f32"
    rows, cols = weight.shape
    steps = cols // nm[1] * nm[0] if nm else cols
    order = torch.empty(rows, steps, dtype=torch.int32)
    loss = torch.empty(rows, steps, dtype=weight.dtype)
    info = torch.empty(rows, dtype=torch.int32)
    sizes = [rows, cols, *(nm or (steps,))]
    function = getattr(library, f"spade_obc_trace_{'nm_' if nm else ''}{suffix}")
    status = function(
        address(weight), address(hinv), *(ctypes.c_int64(n) for n in sizes),
        address(order), address(loss), address(info), threads, None,
    )  # fmt: skip
    assert status == 0
    assert info.tolist() == [0] * rows
    return order, loss


def step_by_step(w, hinv, nm=None):
    w, hinv, kept = w.double().clone(), hinv.double().clone(), torch.ones(len(w), dtype=torch.bool)
    order, loss, gone = [], [], {}
    for _ in range(len(w) // nm[1] * nm[0] if nm else len(w)):
        score = torch.where(kept, w * w / hinv.diagonal(), torch.inf)
        p = int(score.argmin())
        order.append(p)
        loss.append(0.5 * score[p])
        w = w - hinv[:, p] * w[p] / hinv[p, p]
        hinv = hinv - torch.outer(hinv[:, p], hinv[p]) / hinv[p, p]
        kept[p] = False
        hinv[p, p] = 1
        if nm:
            group = p // nm[1]
            gone[group] = gone.get(group, 0) + 1
            if gone[group] == nm[0]:
                kept[group * nm[1] : (group + 1) * nm[1]] = False
    return torch.tensor(order), torch.stack(loss) if loss else torch.empty(0)


def problem(rows, cols, dtype):
    generator = torch.Generator().manual_seed(cols)
    x = torch.randn(cols + 50, cols, dtype=torch.float64, generator=generator).relu()
    h = x.T @ x
    h += 0.01 * h.diagonal().mean() * torch.eye(cols, dtype=torch.float64)
    weight = torch.randn(rows, cols, dtype=torch.float64, generator=generator)
    return weight.to(dtype), torch.linalg.inv(h).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cols", [1, 2, 15, 16, 17, 31, 33, 129, 300])
def test_order_and_losses(cols, dtype):
    weight, hinv = problem(2, cols, dtype)
    order, loss = trace(weight, hinv)
    for r in range(2):
        expected, expected_loss = step_by_step(weight[r], hinv)
        assert torch.equal(order[r].long(), expected)
        torch.testing.assert_close(loss[r].double(), expected_loss, rtol=1e-4, atol=0)


@pytest.mark.parametrize("nm, cols", [((2, 4), 128), ((4, 8), 200), ((1, 3), 99), ((4, 4), 64)])
def test_nm_order(nm, cols):
    weight, hinv = problem(2, cols, torch.float32)
    order, _ = trace(weight, hinv, nm)
    for r in range(2):
        assert torch.equal(order[r].long(), step_by_step(weight[r], hinv, nm)[0])


def test_ties_go_to_the_lowest_column():
    weight = torch.zeros(1, 100)
    weight[0, 50:] = 1
    order, loss = trace(weight, torch.eye(100))
    assert order[0].tolist() == list(range(100))
    assert loss[0].tolist() == [0.0] * 50 + [0.5] * 50


def test_threads_do_not_change_a_bit():
    weight, hinv = problem(9, 200, torch.float32)
    one, two, four = (trace(weight, hinv, threads=t) for t in (1, 2, 4))
    for other in (two, four):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
