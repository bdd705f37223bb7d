"""Exact OBC: elimination at the columns of ResNet50's 3 x 3 layers, and weights from a trace."""

import pytest
import torch
from conftest import peak_extra_bytes

from spade_ext import _C, damped_inverse, hessian, obc_trace, reference

ROWS = {576: 128, 1152: 64, 2304: 16, 4608: 4}  # about the same work at each
REFERENCE_ROWS = {576: 4, 1152: 2}


def problem(rows, columns):
    generator = torch.Generator().manual_seed(columns)
    x = torch.randn(columns + columns // 4, columns, generator=generator).relu()
    return torch.randn(rows, columns, generator=generator), hessian(x)


def eliminate(weight, hinv):
    """The native elimination alone."""
    rows, columns = weight.shape
    order = torch.empty(rows, columns, dtype=torch.int32)
    loss = torch.empty(rows, columns)
    info = torch.empty(rows, dtype=torch.int32)
    _C.obc_trace_f32(
        weight.data_ptr(), hinv.data_ptr(), rows, columns, columns, order.data_ptr(),
        loss.data_ptr(), info.data_ptr(), torch.get_num_threads(), None,
    )  # fmt: skip
    return order, loss


@pytest.mark.parametrize("columns", ROWS)
@pytest.mark.benchmark(group="obc_trace")
def test_elimination(benchmark, record, columns):
    rows = ROWS[columns]
    weight, h = problem(rows, columns)
    hinv, _ = damped_inverse(h)
    order, loss = eliminate(weight, hinv)
    # The losses of a full elimination sum to the error of removing everything, 0.5 w^T H w.
    damped = torch.linalg.inv(hinv.double())
    total = 0.5 * ((weight.double() @ damped) * weight).sum(1)
    residual = ((loss.double().sum(1) - total).abs() / total).max().item()
    assert residual < 1e-3
    assert torch.equal(order.sort(1)[0][0], torch.arange(columns, dtype=torch.int32))
    benchmark.pedantic(eliminate, (weight, hinv), rounds=5)
    record(
        flop=rows * columns**3 / 3,
        rows=rows,
        seconds_a_row=benchmark.stats.stats.min / rows,
        residual=residual,
        peak_extra_bytes=peak_extra_bytes(lambda: eliminate(weight, hinv)),
        allowed_extra_bytes=int(1.1 * torch.get_num_threads() * columns**2 * 4)
        + weight.numel() * 8,
    )


@pytest.mark.parametrize("columns", REFERENCE_ROWS)
@pytest.mark.benchmark(group="obc_trace step by step in torch")
def test_reference(benchmark, record, columns):
    rows = REFERENCE_ROWS[columns]
    weight, h = problem(rows, columns)
    hinv, _ = damped_inverse(h)
    order, _, _ = benchmark.pedantic(
        reference.obc_eliminate, (weight, hinv, columns), rounds=1, warmup_rounds=0
    )
    same = (eliminate(weight, hinv)[0] == order).float().mean().item()
    assert same > 0.99
    record(rows=rows, seconds_a_row=benchmark.stats.stats.min / rows, same_order=same)


@pytest.mark.parametrize("sparsity", [0.9, 0.95, 0.99])
@pytest.mark.benchmark(group="weights from a trace, 64 x 1152")
def test_weights(benchmark, record, sparsity):
    weight, h = problem(64, 1152)
    trace = obc_trace(weight, h)
    pruned = trace.prune(sparsity)
    residual = torch.where(pruned != 0, (pruned - weight).double() @ trace.hessian.double(), 0)
    scale = 1152 * trace.hessian.norm() * weight.norm() * torch.finfo(torch.float32).eps
    assert residual.norm() < 30 * scale
    benchmark.pedantic(trace.prune, (sparsity,), rounds=5)
    record()
