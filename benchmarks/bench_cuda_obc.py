"""The two updates of exact OBC on a GPU, float32 and three fp16 products, on whole wide layers."""

import pytest

from benchmarks import costs, kernel_counts
from benchmarks.bench_obc import eliminate
from benchmarks.layers import layer_table
from benchmarks.problems import pruning_problem
from benchmarks.suite import Reference
from spade_ext import damped_inverse

LAYERS = [
    "resnet50:layer2.1.conv2",  # D = 1152
    "resnet50:layer3.1.conv2",  # 2304
    "resnet50:layer4.1.conv2",  # 4608
]
AGREEMENT = 0.95  # of the first tenth of the orders: steps change places where scores nearly tie


@pytest.mark.parametrize("update", ["ffma", "fp16"])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.benchmark(group="updates of exact OBC on CUDA")
def test_update(measure, suite, layer, update):
    if suite.device == "cpu":
        pytest.skip("of CUDA kernels")
    shape = layer_table()[layer]
    rows, columns = (2, 640) if suite.check else (shape.rows, shape.cols)
    weight, (h,) = pruning_problem(rows, columns, device=suite.device)
    hinv, _ = damped_inverse(h)
    orders = [eliminate(weight, hinv, each)[0][:, : columns // 10] for each in ("ffma", "fp16")]
    agreement = (orders[0] == orders[1]).float().mean().item()
    assert agreement > AGREEMENT
    ffma = Reference("with the float32 update", lambda: eliminate(weight, hinv, "ffma"))
    measure(
        lambda: eliminate(weight, hinv, update),
        costs.obc_trace(rows, columns),
        reference=ffma if update == "fp16" else None,
        memory=True,
        kernels=kernel_counts.obc_trace(rows, columns, update),
        residual=1 - agreement,
        op="obc_trace",
        problem=f"{rows} x {columns}, {update} update",
    )
