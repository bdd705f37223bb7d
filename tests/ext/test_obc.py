"""Exact OBC: orders, losses and weights against the step-by-step algorithm, and what holds whatever the pivots."""

import math
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import assert_same_order, layer

from spade_ext import (
    _C,
    DampingWarning,
    OBCTrace,
    SingularHessianError,
    obc_prune,
    obc_trace,
    reference,
)
from spade_ext._selection import count_steps

SIZES = [1, 2, 15, 16, 17, 31, 33, 129, 300]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cols", SIZES)
def test_order_and_losses(cols, dtype):
    weight, h = layer(2, cols, dtype=dtype)
    trace = obc_trace(weight, h)
    expected, expected_loss = reference.obc_trace(weight.double(), h.double())
    assert_same_order(trace.order, trace.loss, expected, expected_loss)
    torch.testing.assert_close(trace.loss.double(), expected_loss, rtol=1e-4, atol=0)
    assert torch.equal(trace.order.sort(1)[0][0], torch.arange(cols, dtype=torch.int32))


@pytest.mark.parametrize("isa", ["plain", "avx2"])
def test_lower_instruction_sets_agree(isa, tmp_path):
    weight, h = layer(3, 129, dtype=torch.float32)
    torch.save((weight, h), tmp_path / "problem.pt")
    program = (
        "import torch, spade_ext; w, h = torch.load('problem.pt');"
        "torch.save((spade_ext._build.build_info()['cpu_isa'], spade_ext.obc_trace(w, h).order,"
        "spade_ext.sparsegpt_prune(w, h, 0.5), spade_ext.hessian(w)), 'result.pt')"
    )
    environment = {**os.environ, "SPADE_CPU_ISA": isa}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, env=environment)
    used, order, pruned, gram = torch.load(tmp_path / "result.pt")
    assert used in (isa, "plain")
    assert torch.equal(order, obc_trace(weight, h).order)
    expected = reference.sparsegpt_prune(weight.double(), h.double(), 0.5)
    assert torch.equal(pruned == 0, expected == 0)
    torch.testing.assert_close(
        gram.double(), reference.hessian(weight.double()), rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "n, m, cols", [(2, 4, 128), (4, 8, 200), (1, 3, 99), (4, 4, 64), (0, 4, 8)]
)
def test_n_of_m(n, m, cols, dtype):
    weight, h = layer(3, cols, dtype=dtype)
    pruned = obc_prune(weight, h, n=n, m=m)
    expected = reference.obc_prune(weight.double(), h.double(), n=n, m=m)
    assert torch.equal(pruned == 0, expected == 0)
    torch.testing.assert_close(pruned.double(), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "block, cols",
    [(1, 20), (2, 32), (4, 100), (5, 35), (9, 81), (3, 258), (40, 200), (70, 140), (65, 65)],
)
def test_blocks(block, cols, dtype):
    weight, h = layer(3, cols, dtype=dtype)
    pruned = obc_prune(weight, h, 0.5, block=block)
    expected = reference.obc_prune(weight.double(), h.double(), 0.5, block=block)
    assert torch.equal(pruned == 0, expected == 0)
    torch.testing.assert_close(pruned.double(), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.9, 0.99, 1.0])
def test_weights_for_any_sparsity_from_one_trace(sparsity):
    weight, h = layer(6, 60)
    trace = obc_trace(weight, h)
    pruned = trace.prune(sparsity)
    torch.testing.assert_close(
        pruned, reference.obc_prune(weight, h, sparsity), rtol=1e-8, atol=1e-10
    )
    assert torch.equal(pruned, obc_prune(weight, h, sparsity))


@settings(max_examples=40)
@given(st.integers(1, 12), st.integers(1, 50), st.integers(0, 9), st.data())
def test_kept_weights_are_the_least_squares_optimum(rows, cols, seed, data):
    weight, h = layer(rows, cols, seed, dtype=torch.float32)
    trace = obc_trace(weight, h)
    counts = torch.tensor(data.draw(st.lists(st.integers(0, cols), min_size=rows, max_size=rows)))
    pruned = trace.prune_rows(counts)
    eps = torch.finfo(torch.float32).eps
    change = (pruned - weight).double()
    rise = ((change @ trace.hessian.double()) * change).sum(1)
    for r in range(rows):
        kept = torch.ones(cols, dtype=torch.bool)
        kept[trace.order[r, : counts[r]].long()] = False
        assert not pruned[r, ~kept].any()
        residual = trace.hessian.double()[kept] @ (pruned[r] - weight[r]).double()
        scale = cols * trace.hessian.norm() * weight[r].norm() * eps
        assert residual.norm() < 30 * scale
        lost = trace.loss[r, : counts[r]].double().sum()
        torch.testing.assert_close(0.5 * rise[r], lost, rtol=2e-3, atol=1e-4 * float(rise.max()))


def test_selection_is_over_the_whole_layer():
    weight = torch.tensor([[1.0, 2.0, 3.0], [0.1, 0.2, 10.0]])
    trace = obc_trace(weight, torch.eye(3), damp=0.0)
    assert trace.counts(0.5).tolist() == [1, 2]
    assert trace.prune(0.5).tolist() == [[0, 2, 3], [0, 0, 10]]


@given(
    st.integers(1, 9),
    st.one_of(st.integers(1, 40), st.just(3000)),
    st.sampled_from([3, 1000]),
    st.floats(0, 1),
    st.data(),
)
def test_counts_are_those_of_a_stable_sort(rows, steps, values, sparsity, data):
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    loss = (torch.randint(-1, values, (rows, steps), generator=generator) * 0.37).to(dtype)
    for special in data.draw(st.lists(st.sampled_from([torch.nan, torch.inf, -0.0, 1e-40]))):
        loss[data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, steps - 1))] = special
    chosen = loss.flatten().argsort(stable=True)[: math.ceil((sparsity - 1e-9) * loss.numel())]
    assert torch.equal(count_steps(loss, sparsity), torch.bincount(chosen // steps, minlength=rows))


def test_counts_end_where_losses_of_one_magnitude_end():
    loss = torch.tensor([1.0, 1024.0])[:, None].expand(2, 5000).contiguous()
    assert count_steps(loss, 0.5).tolist() == [5000, 0]
    assert count_steps(loss, 0.5001).tolist() == [5000, 1]


def test_ties_go_to_the_lowest_column():
    weight = torch.zeros(1, 100)
    weight[0, 50:] = 1
    trace = obc_trace(weight, torch.eye(100), damp=0.0)
    assert trace.order[0].tolist() == list(range(100))
    assert trace.loss[0].tolist() == [0.0] * 50 + [0.5] * 50


@pytest.mark.parametrize("block, cols", [(2, 70), (5, 15)])
def test_ties_go_to_the_lowest_block(block, cols):
    trace = obc_trace(torch.ones(1, cols), torch.eye(cols), block=block, damp=0.0)
    assert trace.order[0].tolist() == list(range(cols // block))
    assert trace.loss[0].tolist() == [0.5 * block] * (cols // block)


def test_zero_weights_and_dead_columns_go_first_at_no_loss():
    weight, h = layer(4, 30)
    weight[:, 3] = weight[:, 20] = 0
    h[:, 7] = h[7, :] = 0
    trace = obc_trace(weight, h)
    assert (trace.order[:, :3].sort(1)[0] == torch.tensor([3, 7, 20])).all()
    assert not trace.loss[:, :3].any()
    assert not trace.prune(0.1)[:, 7].any()


def test_low_damping_of_rank_deficient_inputs_runs_in_float64():
    weight, h = layer(3, 80, samples=40, dtype=torch.float32)
    trace = obc_trace(weight, h, damp=1e-5)
    expected, _ = reference.obc_trace(weight.double(), h.double(), damp=1e-5)
    assert trace.loss.dtype == torch.float64
    assert torch.equal(trace.order.long(), expected)


def test_a_layer_that_float32_cannot_do_is_done_in_float64(monkeypatch):
    weight, h = layer(3, 20, dtype=torch.float32)
    monkeypatch.setattr(_C, "obc_eliminate_f32", lambda *arguments: (0.01, -1, 0, True))
    trace = obc_trace(weight, h)
    expected = obc_trace(weight.double(), h.double())
    assert trace.loss.dtype == torch.float64 and torch.equal(trace.order, expected.order)
    for call in ("obc_eliminate_f64", "obc_prune_f32"):
        monkeypatch.setattr(_C, call, lambda *arguments: (0.01, 1, 5, False))
    for op in (obc_trace, obc_prune):
        with pytest.raises(
            SingularHessianError, match="row 1 loses definiteness at step 5"
        ) as info:
            op(weight, h)
        assert info.value.index == 1


@pytest.mark.parametrize("op", [obc_trace, obc_prune])
def test_more_damping_is_warned_of_where_the_op_is_called(op):
    indefinite = torch.ones(4, 4) - 0.05 * torch.eye(4)
    with pytest.warns(DampingWarning, match=f"^{op.__name__}: .* at damp=0, used") as warned:
        op(torch.ones(2, 4), indefinite, damp=0.0)
    assert warned[0].filename == __file__


@pytest.mark.parametrize("scale", [1e-41, 1e-39, 1e-20, 1e20, 1e37])
def test_the_scale_of_the_hessian_changes_no_weight(scale):
    weight, h = layer(6, 40, dtype=torch.float32)
    h = h / h.diagonal().mean()
    trace, expected = obc_trace(weight, h * scale), obc_trace(weight.double(), (h * scale).double())
    assert torch.equal(trace.order, expected.order)
    assert torch.allclose(trace.loss.double(), expected.loss, rtol=1e-4, atol=0)
    pruned, exact = obc_prune(weight, h * scale, 0.5), obc_prune(weight, h, 0.5)
    assert pruned.dtype == torch.float32
    assert torch.equal(pruned == 0, exact == 0)
    assert (pruned - exact).norm() < 1e-3 * exact.norm()  # 1e-41 has three digits


def test_a_hessian_that_no_dtype_can_invert():
    with pytest.raises(SingularHessianError, match=r"obc_trace: .* in the range of double"):
        obc_trace(torch.ones(1, 2).double(), 1e-310 * torch.eye(2).double())


def test_only_the_lower_triangle_of_the_hessian_is_read():
    weight, h = layer(6, 100, dtype=torch.float32)
    lower = h.tril() + 1e3 * torch.randn(100, 100).triu(1)
    assert torch.equal(obc_prune(weight, lower, 0.5), obc_prune(weight, h, 0.5))
    trace, expected = obc_trace(weight, lower), obc_trace(weight, h)
    for name in ("order", "loss", "hessian", "hinv"):
        assert torch.equal(getattr(trace, name), getattr(expected, name))
    assert torch.equal(trace.hessian, trace.hessian.T)


def test_threads_repeats_and_strides_do_not_change_a_bit():
    weight, h = layer(9, 200, dtype=torch.float32)
    one, two, four = (obc_trace(weight, h, threads=t) for t in (1, 2, 4))
    other = obc_trace(weight.T.contiguous().T, h.T)
    for trace in (two, four, other):
        assert torch.equal(one.order, trace.order) and torch.equal(one.loss, trace.loss)
        assert torch.equal(one.prune(0.9, threads=1), trace.prune(0.9, threads=3))


def test_inputs_are_not_modified():
    weight, h = layer(4, 20)
    before = weight.clone(), h.clone()
    obc_trace(weight, h).prune(0.5)
    obc_prune(weight, h, n=2, m=4)
    assert torch.equal(weight, before[0]) and torch.equal(h, before[1])


def test_save_and_load(tmp_path):
    for block in (None, 2):
        trace = obc_trace(*layer(4, 20), block=block)
        path = tmp_path / "trace.safetensors"
        trace.save(path)
        loaded = OBCTrace.load(path)
        assert torch.equal(loaded.prune(0.5), trace.prune(0.5)) and loaded.damp == trace.damp
        assert [p.name for p in tmp_path.iterdir()] == [path.name]
    path.write_bytes(b"not a trace")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        OBCTrace.load(path)
    with pytest.raises(FileNotFoundError):
        OBCTrace.load(tmp_path / "nothing")


def test_dtypes_and_empty():
    weight, h = layer(4, 8)
    assert obc_prune(weight.half(), h.float(), 0.5).dtype == torch.float16
    assert obc_trace(torch.empty(0, 8), h.float()).order.shape == (0, 8)
    assert obc_prune(torch.empty(0, 8), h.float(), 0.5).shape == (0, 8)
    assert obc_prune(torch.empty(3, 0), torch.empty(0, 0), 0.5).shape == (3, 0)
