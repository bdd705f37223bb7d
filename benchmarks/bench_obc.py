"""Exact OBC at the columns of real layers, against its steps in torch, and weights from a trace."""

from ctypes import CDLL, c_int, c_int64, c_void_p

import pytest
import torch

from benchmarks import costs, kernel_counts, machine
from benchmarks.layers import layer_table
from benchmarks.problems import pruning_problem
from benchmarks.suite import Reference
from spade_ext import _cuda, damped_inverse, library_path, obc_prune, obc_trace
from spade_ext import reference as restated

LAYERS = [
    "mobilenet_v2:features.12.conv.2",  # D = 576
    "bert_base:bert.encoder.layer.0.attention.self.query",  # 768
    "resnet50:layer2.1.conv2",  # 1152
    "resnet50:layer3.1.conv2",  # 2304
    "resnet50:layer4.1.conv2",  # 4608
]
REFERENCE_ROWS = {576: 2, 1152: 1}  # that the step-by-step loop does in a second or two, on a CPU
MORE_ROWS = 32  # times as many on a GPU, which they keep busy


def rows_for(shape, suite):
    """Rows that make three times the suite's flop, of the layer's own; as many for each thread."""
    if suite.check:
        return 8
    threads = torch.get_num_threads()
    return min(shape.rows, threads * max(1, round(9 * suite.flop / shape.cols**3 / threads)))


def eliminate(weight, hinv, update="auto"):
    """The native elimination alone: order and losses."""
    rows, columns = weight.shape
    if weight.is_cuda:
        order, loss, info = _cuda.obc_trace(weight[None], hinv[None], columns, update)
        return order[0], loss[0]
    order = torch.empty(rows, columns, dtype=torch.int32)
    loss = torch.empty(rows, columns)
    info = torch.empty(rows, dtype=torch.int32)
    native = CDLL(library_path())
    status = native.spade_obc_trace_f32(
        *map(c_void_p, (weight.data_ptr(), hinv.data_ptr())), c_int64(rows), c_int64(columns),
        c_int64(columns), *map(c_void_p, (order.data_ptr(), loss.data_ptr(), info.data_ptr())),
        c_int(torch.get_num_threads()), None,
    )  # fmt: skip
    assert status == 0
    return order, loss


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.benchmark(group="obc_trace")
def test_obc_trace(measure, suite, layer):
    shape = layer_table()[layer]
    rows, columns = rows_for(shape, suite), 96 if suite.check else shape.cols
    weight, (h,) = pruning_problem(rows, columns, device=suite.device)
    hinv, _ = damped_inverse(h)
    order, loss = eliminate(weight, hinv)
    # The losses of a full elimination sum to the error of removing everything, 0.5 w^T H w = 0.5 ||L^T w||^2.
    factor = torch.linalg.cholesky(hinv.double())  # A = F F^T: 0.5 w^T A^-1 w = 0.5 ||F^-1 w||^2
    whitened = torch.linalg.solve_triangular(factor, weight.double().T, upper=False)
    total = 0.5 * whitened.square().sum(0)
    residual = ((loss.double().sum(1) - total).abs() / total).max().item()
    assert residual < 1e-3
    assert torch.equal(order.sort(1)[0][0].cpu(), torch.arange(columns, dtype=torch.int32))
    reference = None
    if columns in REFERENCE_ROWS:
        few = weight[: REFERENCE_ROWS[columns] * (MORE_ROWS if weight.is_cuda else 1)]

        def steps():
            return restated.obc_eliminate(few, hinv, columns)

        assert (order[: len(few)] == steps()[0]).float().mean().item() > 0.99
        reference = Reference("steps in torch", steps, len(few) / rows)
    measure(
        lambda: eliminate(weight, hinv),
        costs.obc_trace(rows, columns),
        reference=reference,
        memory=True,
        kernels=kernel_counts.obc_trace(rows, columns, machine.obc_update(suite.device)),
        residual=residual,
        op="obc_trace",
        problem=f"D = {columns}",
    )


@pytest.mark.benchmark(group="obc patterns, 64 x 576")
def test_obc_blocks(measure, suite):
    rows, columns = (8, 96) if suite.check else (64, 576)
    weight, (h,) = pruning_problem(rows, columns, device=suite.device)
    few = weight[:1]

    def steps():
        return restated.obc_eliminate(few, damped_inverse(h)[0], columns // 4, block=4)

    order = obc_trace(weight, h, block=4).order[: len(few)]
    assert (order == steps()[0]).float().mean().item() > 0.99
    measure(
        lambda: obc_trace(weight, h, block=4),
        costs.obc_trace(rows, columns, double=True),
        kernels=kernel_counts.obc_pattern(rows, columns, block=4),
        reference=Reference("steps in torch", steps, len(few) / rows),
        op="obc_trace",
        problem=f"D = {columns}, blocks of 4",
    )


@pytest.mark.benchmark(group="obc patterns, 64 x 576")
def test_obc_n_of_m(measure, suite):
    rows, columns = (8, 96) if suite.check else (64, 576)
    weight, (h,) = pruning_problem(rows, columns, device=suite.device)
    few = weight[:1]

    def steps():
        return restated.obc_prune(few, h, n=2, m=4)

    pruned = obc_prune(weight, h, n=2, m=4)[: len(few)]
    assert ((pruned == 0) == (steps() == 0)).float().mean().item() > 0.99
    measure(
        lambda: obc_prune(weight, h, n=2, m=4),
        None,
        reference=Reference("steps in torch", steps, len(few) / rows),
        op="obc_prune",
        problem=f"{rows} x {columns}, 2:4",
    )


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.99])
@pytest.mark.benchmark(group="weights from a trace, 64 x 1152")
def test_obc_weights(measure, suite, sparsity):
    rows, columns = (8, 96) if suite.check else (64, 1152)
    weight, (h,) = pruning_problem(rows, columns, device=suite.device)
    hinv, _ = damped_inverse(h)
    trace = obc_trace(weight, h)
    pruned = trace.prune(sparsity)
    gradient = torch.where(pruned != 0, (pruned - weight).double() @ trace.hessian.double(), 0)
    scale = columns * trace.hessian.norm() * weight.norm() * torch.finfo(torch.float32).eps
    residual = (gradient.norm() / scale).item()
    assert residual < 30
    measure(
        lambda: trace.prune(sparsity),
        costs.obc_weights(rows, columns, sparsity),
        kernels=kernel_counts.obc_weights(rows, columns, sparsity),
        reference=Reference("elimination", lambda: eliminate(weight, hinv)),
        residual=residual,
        op="obc_weights",
        problem=f"{rows} x {columns} at {sparsity}",
    )
