"""Latency of SPADE for one sample, split as the paper splits it: forward pass and Hessian, pruning and saving.

Full mode calls spade_xai.trace (or trace_many) and saves the result. Sampled mode runs a part of the work with the
same code, stage by stage, and scales each stage by what it is proportional to: augmenting, forward passes and
Hessians by the augmentations; eliminations and solves of exact OBC by the rows, but not the inverse of H; batches by
the samples.

On CUDA only full mode: a part of the rows or samples leaves multiprocessors idle, so nothing is proportional to it. A
small batch runs before the clock starts, as it starts the libraries. Stages up to the Hessians are queued, and the wait
for all of them is counted as "hessian": only their sum means something.
"""

import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import machine
from benchmarks.configurations import Configuration, Part
from benchmarks.networks import network
from spade_ext import damped_inverse
from spade_xai import Trace, schedule, trace, trace_many
from spade_xai.models.layers import Layer
from spade_xai.progress import Stages
from spade_xai.tracing.builder import TraceBuilder
from spade_xai.tracing.hessians import Hessians
from spade_xai.tracing.options import TraceOptions
from spade_xai.tracing.pruning.registry import PRUNING_METHODS
from spade_xai.tracing.run import TracingRun

SPARSITY = 0.9
BATCH = 64  # augmentations in one forward pass
DAMP = 0.01
LEAST_FLOP = 1e9  # of eliminations in a layer, sampled mode


def measure_latency(
    configuration: Configuration,
    *,
    part: Part | None,
    device: str = "cpu",
    size: int = 224,
    batch: int = BATCH,
    precision: str = "float32",
) -> dict[str, Any]:
    """Seconds per sample of a configuration, on a random image.

    Args:
        configuration: What to prune.
        part: What is run; None runs everything, the only choice on CUDA.
        device: "cpu" or "cuda".
        size: Height and width of the image.
        batch: Augmentations in one forward pass.
        precision: Of the forward passes; see spade_xai.trace.

    Returns:
        augment, forward, hessian, prune and save in seconds, the two sums of the paper's split, the total, whether the
        first three are asynchronous, and what was run.

    Raises:
        ValueError: A part on CUDA.
    """
    if part is not None and device != "cpu":
        raise ValueError(f"measure_latency: part must be None on {device}, got {part}")
    model = network(configuration.model, device)
    image = random_image(size, device)
    settings = settings_of(configuration, batch, precision)
    result: dict[str, Any] = {}

    def run() -> None:
        if part is None:
            result.update(run_whole(configuration, model, image, settings))
        else:
            result.update(_sampled(configuration, model, image, part, settings))

    if device != "cpu":
        small = _small(configuration, batch)
        run_whole(small, model, image, settings_of(small, batch, precision))
    start = time.perf_counter()
    peak = machine.peak_extra_bytes(run, device)
    seconds = result["stage_seconds"]
    return {
        "configuration": configuration.name,
        "model": configuration.model,
        "method": configuration.method,
        "layers": configuration.layers or "all",
        "augmentations": configuration.augmentations,
        "samples": configuration.samples,
        "mode": "full" if part is None else "sampled",
        "sparsity": SPARSITY,
        "batch_size": batch,
        "image_size": size,
        "forward_precision": precision,
        "asynchronous": device != "cpu",
        **result,
        "forward_hessian_seconds": sum(seconds[k] for k in ("augment", "forward", "hessian")),
        "prune_save_seconds": seconds["prune"] + seconds["save"],
        "total_seconds": sum(seconds.values()),
        "measured_seconds": time.perf_counter() - start,
        "peak_extra_bytes": peak,
    }


def _small(configuration: Configuration, batch: int) -> Configuration:
    """A batch of augmentations of at most two samples."""
    return replace(
        configuration,
        augmentations=min(configuration.augmentations, batch),
        samples=min(configuration.samples, 2),
    )


def random_image(size: int, device: str) -> Tensor:
    """A random smooth image [1, 3, size, size] in [0, 1]."""
    coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return nn.functional.interpolate(coarse, size=(size, size), mode="bilinear").to(device)


def settings_of(configuration: Configuration, batch: int, precision: str) -> dict[str, Any]:
    """Keyword arguments of spade_xai.trace."""
    return {
        "method": configuration.method,
        "sparsity": schedule.uniform(SPARSITY),
        "augment": "convnext" if "convnext" in configuration.model else "resnet",
        "augmentations": configuration.augmentations,
        "layers": configuration.layers,
        "damp": DAMP,
        "batch_size": batch,
        "seed": 0,
        "forward_precision": precision,
    }


def run_whole(
    configuration: Configuration, model: nn.Module, image: Tensor, settings: dict[str, Any]
) -> dict[str, Any]:
    """Trace the image, or as many as a batch has, and save the traces: seconds of each stage and what was done."""
    if configuration.samples == 1:
        traces = [trace(model, image, progress=None, **settings)]
    else:
        images = torch.cat([image.roll(i, -1) for i in range(configuration.samples)])
        many = trace_many(model, images, group=configuration.samples, progress=None, **settings)
        traces = list(many)
    seconds = {k: traces[0].timings.get(k, 0.0) for k in ("augment", "forward", "hessian", "prune")}
    seconds["save"] = _save_seconds(traces)
    return {"stage_seconds": seconds, **_checked(traces[0])}


def _sampled(
    configuration: Configuration,
    model: nn.Module,
    image: Tensor,
    part: Part,
    settings: dict[str, Any],
) -> dict[str, Any]:
    augmentations = min(configuration.augmentations, part.augmentations)
    scale = configuration.augmentations / augmentations
    settings = {**settings, "augmentations": augmentations}
    options = TraceOptions(function="latency", **settings)
    with Stages(None) as stages, torch.no_grad():
        run = TracingRun(model, [image], options, stages)
        sums = Hessians(run.model, run.layers, options.function, options.forward_precision)
        sums.run(run.batches(run.sources[0]))
        start = time.perf_counter()
        machine.synchronize(image.device.type)
        sums.seconds["forward"] += time.perf_counter() - start
        builder = run.builder(run.sources[0])
        taking = pruning = 0.0
        flop = flop_run = 0
        for layer in run.layers:
            start = time.perf_counter()
            hessian = sums.take(layer)
            taking += time.perf_counter() - start
            if configuration.method == "obc":
                rows = _rows(layer, part)
                flop += layer.rows * layer.cols**3
                flop_run += rows * layer.cols**3
                pruning += _some_rows(builder, layer, hessian, rows)
            else:
                samples = min(configuration.samples, part.samples)
                pruning += _some_samples(builder, layer, hessian, samples)
        made = builder.trace(stages.seconds)
    seconds = {
        "augment": stages.seconds["augment"] * scale,
        "forward": sums.seconds["forward"] * scale,
        "hessian": sums.seconds["hessian"] * scale + taking,
        "prune": pruning,
        "save": _save_seconds([made]),
    }
    run_of = {"augmentations_run": augmentations}
    if configuration.method == "obc":
        run_of["rows_share"] = flop_run / flop
    elif configuration.samples > 1:
        run_of["samples_run"] = min(configuration.samples, part.samples)
    return {"stage_seconds": seconds, **run_of, **_checked(made)}


def _rows(layer: Layer, part: Part) -> int:
    """Rows of a layer to eliminate: the share, but enough to keep the threads busy and to drown a call's overhead."""
    least = max(2 * torch.get_num_threads(), math.ceil(LEAST_FLOP / (layer.cols**3 / 3)))
    return min(layer.rows, max(least, round(part.rows * layer.rows)))


def _some_rows(builder: TraceBuilder, layer: Layer, hessian: Tensor, rows: int) -> float:
    """Prune the first rows of a layer with exact OBC; the time for all of them."""
    weight = layer.read(builder.dense)
    inverting = 0.0
    if rows < layer.rows:
        start = time.perf_counter()
        for h in hessian:
            damped_inverse(h, DAMP)
        inverting = time.perf_counter() - start
    start = time.perf_counter()
    method = PRUNING_METHODS["obc"]
    prepared = method.prepare(replace(layer, rows=rows), weight[:, :rows], hessian, DAMP)
    (result,) = method.prune([prepared], [SPARSITY])
    spent = time.perf_counter() - start
    seconds = inverting + max(0.0, spent - inverting) * layer.rows / rows
    if result.weights is None:
        raise RuntimeError(f"layer {layer.name} was not pruned: its Hessian is singular")
    repeated = result.weights.repeat(1, -(-layer.rows // rows), 1)[:, : layer.rows]
    start = time.perf_counter()
    builder.note(layer, replace(result, weights=repeated.contiguous()), seconds)
    return seconds + time.perf_counter() - start


def _some_samples(builder: TraceBuilder, layer: Layer, hessian: Tensor, samples: int) -> float:
    """Prune a layer with SparseGPT for so many samples at once; the time for each."""
    weight = layer.read(builder.dense)
    start = time.perf_counter()
    method = PRUNING_METHODS["sparsegpt"]
    prepared = [method.prepare(layer, weight, hessian, DAMP)] * samples
    results = method.prune(prepared, [SPARSITY] * samples)
    seconds = (time.perf_counter() - start) / samples
    start = time.perf_counter()
    builder.note(layer, results[0], seconds)
    return seconds + time.perf_counter() - start


def _save_seconds(traces: list[Trace]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        for i, made in enumerate(traces):
            made.save(Path(folder) / f"{i}.safetensors")
        return (time.perf_counter() - start) / len(traces)


def _checked(made: Trace) -> dict[str, Any]:
    """What a trace did; a wrong one is no measurement.

    Raises:
        RuntimeError: A layer was not pruned to the sparsity, or its error is not finite.
    """
    # Depthwise layers have rows too, and are not asked for.
    asked = [layer for layer in made.layers if layer.sparsity_asked > 0]
    if not asked:
        raise RuntimeError("no layer was asked to be pruned")
    for layer in asked:
        # SparseGPT rounds down in each block of a layer's columns
        pruned = layer.status in ("pruned", "damped") and abs(layer.sparsity_got - SPARSITY) < 0.05
        if not pruned or not math.isfinite(layer.relative_loss):
            raise RuntimeError(f"layer {layer.name} was not pruned as asked for: {layer}")
    return {
        "residual": max(layer.relative_loss for layer in asked),
        "layer_seconds": [
            {"name": x.name, "rows": x.rows, "cols": x.cols, "seconds": x.seconds} for x in asked
        ],
    }
