"""The goals of targets.toml on a GPU: ResNet50, 1024 augmentations, all layers, beside plain torch in the same run.

On the CPU only in check mode, with a part of the network.
"""

import functools
from dataclasses import replace
from statistics import median

import pytest
import torch

from benchmarks import device_kernels, kernel_counts, latency, machine, plain_torch
from benchmarks.bench_cuda_hessian import small
from benchmarks.bench_hessian import convolution, in_double, plain, relative_error
from benchmarks.configurations import configurations
from benchmarks.layers import layer_table, layers_of
from benchmarks.networks import network
from spade_ext import HessianAccumulator
from spade_xai.models.layers import find_layers, select_layers
from spade_xai.tracing.hessians import Hessians

MODEL, IMAGES, BATCH, ROUNDS = "resnet50", 1024, 64, 5
CHECK_LAYERS = "layer1.0.conv[12]"  # of the network, in check mode
PRECISIONS = ("float32", "bfloat16")
ERROR_LAYERS = ["conv1", "layer1.0.conv2", "layer3.1.conv2", "layer4.1.conv2"]
OBC_PARTS = [(128, 1152), (32, 2304)]  # rows, columns
SPARSEGPT_PARTS = [(64, 576, 9), (256, 2304, 9), (1000, 2048, 1)]  # and block


@pytest.fixture(autouse=True)
def _where(suite):
    if suite.device == "cpu" and not suite.check:
        pytest.skip("goals are of a GPU")


def noted(benchmark, suite, goal, values, reference, reference_seconds, **more):
    """Write down what came of a goal: the median of its values."""
    info = suite.rates((), (), [suite.sgemm_gflops() for _ in range(3)])
    benchmark.extra_info.update(
        info, goal=goal, value=median(values), rounds_value=list(values), reference=reference,
        reference_seconds=reference_seconds, **more,
    )  # fmt: skip


def profiled(suite, call, **counted):
    """The kernels of a call on a GPU, against those counted for the network."""
    if suite.device == "cpu":
        return {}
    counts = kernel_counts.network(layers_of(MODEL), **counted)
    return device_kernels.measured(call, counts, suite.limits(suite.sgemm_gflops()))


def images_of(suite):
    """Batches of random images."""
    count, size, batch = (4, 32, 2) if suite.check else (IMAGES, 224, BATCH)
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, size, size, generator=generator).to(suite.device).split(batch)


def layers_in(model, suite):
    """All layers of the network, or those of check mode."""
    return select_layers(find_layers(model), CHECK_LAYERS if suite.check else None)


@functools.cache
def plain_hessians_seconds(suite, precision):
    """Forward passes with plain torch's Hessians."""
    model, batches = network(MODEL, suite.device), images_of(suite)
    layers = layers_in(model, suite)

    def run():
        return plain_torch.hessians(model, layers, batches, precision)

    with torch.no_grad():
        plain_torch.hessians(model, layers, batches[:1], precision)
        return machine.seconds(run, suite.device, 1)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.benchmark(group="goal: Hessians beyond the forward pass")
def test_hessians(benchmark, suite, precision):
    model, batches = network(MODEL, suite.device), images_of(suite)
    layers = layers_in(model, suite)

    def passes(read):
        sums = Hessians(model, read, "bench_cuda_goals", precision)
        sums.run(batches)
        return [sums.take(layer) for layer in read]

    forward, hooked = [], []

    def pair():
        forward.append(machine.seconds(lambda: passes([]), suite.device, 1))
        hooked.append(machine.seconds(lambda: passes(layers), suite.device, 1))

    with torch.no_grad():
        assert all(h.isfinite().all() for h in passes(layers))
        passes([])
        benchmark.pedantic(pair, rounds=1 if suite.check else ROUNDS)
        kernels = profiled(
            suite, lambda: passes(layers), batches=len(batches), batch=len(batches[0]),
            itemsize=2 if precision == "bfloat16" else 4,
        )  # fmt: skip
    beside = plain_hessians_seconds(suite, precision) - median(forward)
    noted(
        benchmark, suite, "hessians", [h - f for f, h in zip(forward, hooked, strict=True)],
        "unfold + product in float32, beyond the forward pass", beside,
        rounds_forward=forward, rounds_hooked=hooked, precision=precision, **kernels,
    )  # fmt: skip


@pytest.mark.benchmark(group="goal: error of H")
def test_hessian_error(benchmark, suite):
    errors = {}

    def check():
        for name in ERROR_LAYERS:
            shape = layer_table()[f"{MODEL}:{name}"]
            shape = small(shape) if suite.check else shape
            accumulator = HessianAccumulator(convolution(shape))
            expected = 0
            for _ in range(1 if suite.check else IMAGES // BATCH):
                samples = 1 if suite.check else BATCH
                x = torch.randn(shape.input_shape(samples), device=suite.device).relu()
                accumulator.update(x)
                expected = expected + in_double(lambda x, shape=shape: plain(x, shape), x)
            errors[name] = relative_error(accumulator.hessian, expected)

    benchmark.pedantic(check, rounds=1)
    assert max(errors.values()) < 1e-5  # wrong, and not inexact
    noted(benchmark, suite, "hessian_error", [max(errors.values())], None, None, errors=errors)


def traced(suite, name, precision="float32"):
    """A configuration run in full, and once more under the profiler with one batch of augmentations a sample."""
    configuration = configurations()[name]
    size, batch = 224, BATCH
    if suite.check:
        size, batch = 32, 2
        configuration = replace(
            configuration,
            augmentations=4,
            layers=CHECK_LAYERS,
            samples=min(2, configuration.samples),
        )
    options = {"device": suite.device, "size": size, "batch": batch, "precision": precision}
    rounds = [
        latency.measure_latency(configuration, part=None, **options)
        for _ in range(1 if suite.check or configuration.samples > 1 else 2)
    ]
    model, image = network(MODEL, suite.device), latency.random_image(size, suite.device)
    small = replace(configuration, augmentations=batch)
    obc = configuration.method == "obc"
    kernels = profiled(
        suite, lambda: latency.run_whole(small, model, image, latency.settings_of(small, batch, precision)),
        batches=small.samples, batch=batch, itemsize=2 if precision == "bfloat16" else 4,
        update=machine.obc_update(suite.device) if obc else None, sparsity=latency.SPARSITY,
        sparsegpt_samples=0 if obc else small.samples, double=machine.fast_double(suite.device),
    )  # fmt: skip
    return rounds, kernels


@pytest.mark.benchmark(group="goal: exact OBC")
def test_exact_obc(benchmark, suite):
    rounds, kernels = benchmark.pedantic(traced, (suite, "spade-resnet50-1024"), rounds=1)
    parts = [(2, 96)] if suite.check else OBC_PARTS
    theirs = plain_torch.exact_obc_seconds(layers_of(MODEL), parts, suite.device)
    noted(
        benchmark, suite, "exact_obc", [run["stage_seconds"]["prune"] for run in rounds],
        f"eliminations step by step, extrapolated by R D^3 from R x D of {_sizes(parts)}", theirs,
        runs=rounds, **kernels,
    )  # fmt: skip


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("goal", ["fastspade", "batched_fastspade"])
@pytest.mark.benchmark(group="goal: FastSPADE")
def test_fastspade(benchmark, suite, goal, precision):
    name = {"fastspade": "fastspade-resnet50", "batched_fastspade": "batched-resnet50"}[goal]
    rounds, kernels = benchmark.pedantic(traced, (suite, name, precision), rounds=1)
    noted(
        benchmark, suite, goal, [run["total_seconds"] for run in rounds],
        f"Hessians by unfolding and the column loop of one sample, without augmenting and saving; the loop "
        f"extrapolated by columns from R x D of {_sizes(_sparsegpt_parts(suite))}",
        plain_hessians_seconds(suite, precision) + plain_sparsegpt_seconds(suite),
        precision=precision, runs=rounds, **kernels,
    )  # fmt: skip


def _sparsegpt_parts(suite):
    return [(8, 36, 9)] if suite.check else SPARSEGPT_PARTS


@functools.cache
def plain_sparsegpt_seconds(suite):
    """The column loop over all layers, extrapolated."""
    parts = _sparsegpt_parts(suite)
    return plain_torch.sparsegpt_seconds(layers_of(MODEL), parts, latency.SPARSITY, suite.device)


def _sizes(parts):
    return ", ".join(f"{part[0]} x {part[1]}" for part in parts)
