"""Exact OBC of layers of groups: each group as if it were alone, the selection over all of them."""

import pytest
import torch
from problems import assert_as_alone, grouped

from spade_ext import (
    DampingWarning,
    OBCTrace,
    SingularHessianError,
    damped_inverse,
    obc_prune,
    obc_trace,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize(
    "rows, cols, options", [(1, 9, {}), (3, 25, {}), (2, 40, {"block": 4}), (2, 96, {"block": 48})]
)
def test_each_group_as_if_it_were_alone(device, rows, cols, options, dtype):
    weight, h = grouped(4, rows, cols)
    weight, h = (x.to(device, dtype) / 8 for x in (weight, h))
    h[2, 1] = h[2, :, 1] = 0
    trace = obc_trace(weight, h, **options)
    assert trace.order.device.type == device.type and trace.order.shape[:2] == (4, rows)
    assert_as_alone(trace, weight, h, **options)


@pytest.mark.parametrize("n, m", [(2, 4), (3, 4)])
def test_n_of_m(device, n, m):
    weight, h = (x.to(device) for x in grouped(3, 2, 24))
    got = obc_prune(weight, h, n=n, m=m)
    for g in range(3):
        assert torch.allclose(got[g], obc_prune(weight[g], h[g], n=n, m=m), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.9, 1.0])
def test_selection_is_over_all_groups(device, sparsity):
    weight, h = (x.to(device) for x in grouped(4, 2, 15))
    h[1] *= 100  # a loss here counts more
    trace = obc_trace(weight, h)
    pruned = obc_prune(weight, h, sparsity)
    assert torch.equal(pruned, trace.prune(sparsity))
    counts = trace.counts(sparsity)
    assert counts.shape == (4, 2) and counts.sum() == round(sparsity * 120)
    if 0 < sparsity < 1:
        assert counts[1].sum() < counts[0].sum()
        gone = torch.arange(15, device=device) < counts[..., None]
        assert trace.loss[gone].max() <= trace.loss[~gone].min()


def test_groups_take_the_damping_and_precision_that_each_needs(device):
    weight, h = (x.to(device) for x in grouped(4, 2, 12))
    h[1] = torch.eye(12, device=device) - 0.15  # indefinite up to a damping of 1
    h[3] = 0.0
    with pytest.warns(DampingWarning, match="used 1"):
        trace = obc_trace(weight, h, damp=1e-5)
    assert trace.damp == 1 and trace.loss.dtype == torch.float64  # at 1e-5 float32 does not do
    for g in (0, 2, 3):
        alone = obc_trace(weight[g], h[g], damp=1e-5)
        assert alone.damp == 1e-5 and alone.loss.dtype == torch.float64
        assert torch.equal(trace.order[g], alone.order)
    with pytest.warns(DampingWarning):
        alone = obc_trace(weight[1], h[1], damp=1e-5)
    assert alone.loss.dtype == torch.float32
    assert torch.equal(trace.loss[1], alone.loss.double())


def test_a_file_keeps_groups(torch_device, tmp_path):
    weight, h = (x.to(torch_device) for x in grouped(3, 2, 9))
    made = obc_trace(weight, h)
    made.save(tmp_path / "trace.safetensors")
    again = OBCTrace.load(tmp_path / "trace.safetensors")
    assert torch.equal(again.order, made.order.cpu()) and again.damp == made.damp
    assert torch.allclose(again.prune(0.5), made.prune(0.5).cpu(), rtol=1e-4, atol=1e-6)


def test_progress_over_groups():
    seen = []
    weight, h = grouped(3, 2, 9)
    trace = obc_trace(weight, h, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    trace.prune_rows(torch.full((3, 2), 4), progress=lambda done, total: seen.append((done, total)))
    assert seen[3:] == seen[:3]


def test_errors(device):
    weight, h = (x.to(device) for x in grouped(3, 2, 9))
    with pytest.raises(ValueError, match=r"hessian must have shape \(3, 9, 9\), got \(2, 9, 9\)"):
        obc_trace(weight, h[:2])
    with pytest.raises(ValueError, match="hessian must have 3 dimensions"):
        obc_prune(weight, h[0])
    with pytest.raises(ValueError, match="obc_trace: weight must have a group"):
        obc_trace(weight[:0], h[:0])
    with pytest.raises(ValueError, match=r"counts must have shape \(3, 2\), got \(6,\)"):
        obc_trace(weight, h).prune_rows(torch.zeros(6, dtype=torch.int64, device=device))
    bad = h.clone()
    bad[1, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="obc_trace: hessian must be finite, got 1 NaN"):
        obc_trace(weight, bad)
    bad = h.clone()
    bad[2] *= -1
    with pytest.raises(SingularHessianError, match=r"even with damp = 1 \(group 2\)") as caught:
        obc_trace(weight, bad)
    assert caught.value.index == 2
    trace = obc_trace(weight, h)
    broken = torch.cat([trace.hessian[:2], -trace.hessian[2:]])
    odd = OBCTrace(trace.order, trace.loss, trace.damp, trace.weight, broken, trace.hinv)
    with pytest.raises(
        SingularHessianError, match=r"kept columns of row 0 .* \(group 2\)"
    ) as caught:
        odd.prune_rows(torch.full((3, 2), 6, device=device))
    assert caught.value.index == 2


def test_one_group_keeps_its_dimension(device):
    weight, h = (x.to(device) for x in grouped(1, 3, 9))
    trace = obc_trace(weight, h)
    assert trace.order.shape == (1, 3, 9)
    assert torch.allclose(trace.hinv[0], damped_inverse(h[0])[0], rtol=1e-4, atol=1e-8)
