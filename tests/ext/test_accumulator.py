"""HessianAccumulator: sums that depend on neither the batches nor their order, and what it refuses."""

import pytest
import torch
from torch import nn

from spade_ext import HessianAccumulator, hessian, reference


def relative_error(h, expected):
    return ((h.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(
    "layer, shape",
    [
        (nn.Linear(37, 2), (300, 37)),
        (nn.Conv2d(5, 2, 3, padding=1), (60, 5, 7, 7)),
        (nn.Conv2d(6, 6, 3, groups=6, stride=2), (60, 6, 9, 9)),
    ],
)
def test_accumulator_does_not_depend_on_the_batches(layer, shape):
    x = torch.randn(shape).relu() * 3
    whole, split, left, right = (HessianAccumulator(layer) for _ in range(4))
    whole.update(x)
    for part in x.split(7):
        split.update(part)
    left.update(x[:11])
    right.update(x[11:])
    left.merge(right)
    assert whole.count == split.count == left.count == shape[0]
    for other in (split, left):
        assert relative_error(other.hessian, whole.hessian.double()) < 1e-6


def test_accumulator_adds_what_one_call_writes():
    x = torch.randn(3, 70, 12, 12)
    sums = []
    for threads in (1, 2, 4):
        accumulator = HessianAccumulator(nn.Conv2d(70, 2, 3, padding=1), threads=threads)
        accumulator.update(x)
        sums.append(accumulator.hessian)
    assert torch.equal(sums[0], sums[1]) and torch.equal(sums[0], sums[2])
    assert torch.equal(sums[0], hessian(x, kernel_size=3, padding=1))


def test_accumulator_of_single_images_and_of_doubles():
    conv = HessianAccumulator(nn.Conv2d(3, 2, 3).double())
    x = torch.randn(3, 6, 6, dtype=torch.float64)
    conv.update(x)
    assert conv.count == 1 and conv.hessian.dtype == torch.float64
    assert relative_error(conv.hessian, reference.hessian(x[None], kernel_size=3)) < 1e-13
    conv.hessian.zero_()
    assert conv.hessian.norm() > 0


def test_accumulator_errors_leave_the_sum():
    accumulator = HessianAccumulator(nn.Linear(4, 2))
    with pytest.raises(RuntimeError, match="no update yet"):
        _ = accumulator.hessian
    accumulator.update(torch.ones(3, 4))
    for bad in (torch.full((2, 4), torch.nan), torch.ones(2, 5)):
        with pytest.raises(ValueError, match=r"HessianAccumulator\.update: x must"):
            accumulator.update(bad)
    with pytest.raises(ValueError, match="other must have geometry"):
        accumulator.merge(HessianAccumulator(nn.Conv2d(4, 2, 1)))
    other = HessianAccumulator(None)
    other.update(torch.ones(3, 5))
    with pytest.raises(ValueError, match="merge: other must give 4 columns of H, got 5"):
        accumulator.merge(other)
    with pytest.raises(TypeError, match="merge: other must be a HessianAccumulator, got Tensor"):
        accumulator.merge(torch.ones(4, 4))
    assert torch.equal(accumulator.hessian, torch.full((4, 4), 3.0)) and accumulator.count == 3
    with pytest.raises(TypeError, match=r"nn\.Linear, nn\.Conv2d"):
        HessianAccumulator(nn.ReLU())
    with pytest.raises(ValueError, match="HessianAccumulator: threads must be at least 1, got 0"):
        HessianAccumulator(None, threads=0)


@pytest.mark.parametrize(
    "layer, shape, columns",
    [(nn.Linear(4, 2), (3, 5), "4 columns of H, got 5"),
     (nn.Conv2d(3, 2, 3), (1, 6, 5, 5), "27 columns of H, got 54")],
)  # fmt: skip
def test_accumulator_knows_the_size_of_its_layer(layer, shape, columns):
    accumulator = HessianAccumulator(layer)
    with pytest.raises(ValueError, match=f"update: x must give {columns}"):
        accumulator.update(torch.ones(shape))
    other = HessianAccumulator(accumulator.geometry)
    other.update(torch.ones(shape))
    with pytest.raises(ValueError, match=f"merge: other must give {columns}"):
        accumulator.merge(other)
    with pytest.raises(RuntimeError, match="no update yet"):
        _ = accumulator.hessian


def test_accumulator_refuses_images_that_padding_outgrows_and_stays_empty():
    accumulator = HessianAccumulator(nn.Conv2d(1, 1, 3, padding=2, padding_mode="reflect"))
    with pytest.raises(ValueError, match="update: padding of mode reflect must be at most 1"):
        accumulator.update(torch.ones(1, 1, 2, 2))
    with pytest.raises(RuntimeError, match="no update yet"):
        _ = accumulator.hessian


def test_accumulator_of_mixed_dtypes_does_not_depend_on_their_order():
    x = torch.randn(20, 5, dtype=torch.float64)
    sums = []
    for parts in ((x[:10].float(), x[10:]), (x[10:], x[:10].float())):
        accumulator, other = HessianAccumulator(None), HessianAccumulator(None)
        accumulator.update(parts[0])
        other.update(parts[1])
        accumulator.merge(other)
        sums.append(accumulator.hessian)
    assert sums[0].dtype == torch.float64
    torch.testing.assert_close(sums[0], sums[1], rtol=1e-14, atol=0)


def test_accumulator_filled_in_inference_mode_merges_outside():
    x, accumulator, other = torch.ones(3, 4), HessianAccumulator(None), HessianAccumulator(None)
    with torch.inference_mode():
        accumulator.update(x)
        other.update(x)
    accumulator.merge(other)
    assert torch.equal(accumulator.hessian, torch.full((4, 4), 6.0))
