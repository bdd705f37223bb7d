"""Latency a sample of each configuration of configurations.toml; see latency.py for full and sampled mode."""

from dataclasses import replace

import pytest

from benchmarks.configurations import Part, configurations
from benchmarks.latency import measure_latency

QUICK = (
    "spade-mobilenet_v2",
    "fastspade-resnet50",
    "fastspade-resnet50-layer4-128",
)
CHECK = ("spade-mobilenet_v2-1024", "fastspade-mobilenet_v2")
QUICK_PART = Part(rows=0.001, augmentations=16, samples=2)


@pytest.mark.parametrize("name", configurations())
@pytest.mark.benchmark(group="latency a sample")
def test_trace(benchmark, suite, name):
    chosen = suite.configurations or (
        CHECK if suite.check else tuple(configurations()) if suite.full else QUICK
    )
    if name not in chosen:
        pytest.skip("not among the configurations of this run")
    configuration, options = configurations()[name], {"device": suite.device}
    part = suite.part or (Part() if suite.full else QUICK_PART)
    if suite.check:
        options |= {"size": 64, "batch": 4}
        part = Part(rows=0.001, augmentations=4)
        configuration = replace(configuration, augmentations=8)
    elif not suite.full and suite.part is None:
        options["batch"] = QUICK_PART.augmentations
    whole = suite.mode == "full" or (suite.check and configuration.method == "sparsegpt")
    whole = whole or suite.device != "cpu"
    result = benchmark.pedantic(
        measure_latency,
        (configuration,),
        {"part": None if whole else part, **options},
        rounds=1,
        warmup_rounds=0,
    )
    assert result["total_seconds"] > 0
    sgemm = [suite.sgemm_gflops() for _ in range(5)]
    benchmark.extra_info.update(suite.rates((), (), sgemm), **result)
