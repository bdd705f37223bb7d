"""What a call costs beyond its native work: every op on a 16 x 16 problem."""

import time

import pytest
import torch

import spade_ext
from spade_ext import _C

WEIGHT, INPUTS = torch.randn(16, 16), torch.randn(16, 16)
HESSIAN = spade_ext.hessian(INPUTS) + torch.eye(16)
CALLS = {
    "hessian": lambda: spade_ext.hessian(INPUTS),
    "damped_inverse": lambda: spade_ext.damped_inverse(HESSIAN),
    "obc_trace": lambda: spade_ext.obc_trace(WEIGHT, HESSIAN),
    "obc_prune": lambda: spade_ext.obc_prune(WEIGHT, HESSIAN, 0.5),
    "sparsegpt_prune": lambda: spade_ext.sparsegpt_prune(WEIGHT, HESSIAN, 0.5),
}


@pytest.mark.parametrize("op", CALLS)
@pytest.mark.benchmark(group="one call on a 16 x 16 problem")
def test_call(benchmark, suite, op, monkeypatch):
    if suite.device != "cpu":
        pytest.skip("of the CPU's native calls")
    native = []

    def timed(function):
        def call(*arguments):
            start = time.perf_counter()
            result = function(*arguments)
            native[-1] += time.perf_counter() - start
            return result

        return call

    rounds = 20 if suite.check else 1000
    benchmark.pedantic(CALLS[op], rounds=2 * rounds, warmup_rounds=rounds // 5)
    for name in [n for n in dir(_C) if n.endswith("_f32") and "finite" not in n]:
        monkeypatch.setattr(_C, name, timed(getattr(_C, name)))
    for _ in range(rounds):
        native.append(0.0)
        CALLS[op]()
    median = sorted(native)[len(native) // 2]
    assert median > 0
    benchmark.extra_info.update(
        native_seconds=median, overhead_seconds=benchmark.stats.stats.median - median
    )
