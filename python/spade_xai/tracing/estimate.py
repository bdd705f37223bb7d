"""What a trace will take: measured on two batches of augmentations and a few rows of each kind of layer."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack

import torch
from torch import nn

from spade_xai.models.layers import Layer
from spade_xai.models.modes import outside_inference_mode
from spade_xai.progress import Stages
from spade_xai.tracing.memory import plan_memory
from spade_xai.tracing.options import TraceKeywords, TraceOptions, takes_trace_options
from spade_xai.tracing.pruning.method import PruningMethod
from spade_xai.tracing.run import TracingRun
from spade_xai.tracing.schedule import FAITHFUL

BATCHES = 2  # of augmentations that are run
FEW = 8  # augmentations that are run for a rough estimate
MOST_GROUPS = 4  # groups of a convolution that are pruned
ENOUGH = 0.2  # seconds that are measured well enough
RATIO = 0.9  # sparsity that layers are pruned to


@dataclass(frozen=True)
class LayerCost:
    """What pruning a layer takes.

    Attributes:
        name: The layer.
        rows: Its outputs.
        cols: Inputs of one output.
        seconds: Of its pruning to one sparsity.
    """

    name: str
    rows: int
    cols: int
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """What the trace of one sample takes on this machine.

    Attributes:
        method: The pruning method.
        augmentations: How many.
        setup_seconds: Copies of the model and a first pass, once per run.
        augment_seconds: Making the augmentations.
        forward_seconds: Forward passes.
        hessian_seconds: Hessians of the layers.
        prune_seconds: Pruning every layer to one sparsity. Choosing faithful sparsities comes on top.
        passes: Passes over the augmentations: more than one where the Hessians do not fit into the memory.
        bytes: Memory of Hessians and pruning, beyond the model and one batch of activations.
        layers: What each layer adds to prune_seconds, the dearest first.
    """

    method: str
    augmentations: int
    setup_seconds: float
    augment_seconds: float
    forward_seconds: float
    hessian_seconds: float
    prune_seconds: float
    passes: int
    bytes: int
    layers: tuple[LayerCost, ...]

    @property
    def seconds(self) -> float:
        """All together."""
        passes = self.augment_seconds + self.forward_seconds + self.hessian_seconds
        return self.setup_seconds + passes + self.prune_seconds


@takes_trace_options("progress", "sparsity")
def estimate(model: nn.Module, sample: Any, **options: Unpack[TraceKeywords]) -> Estimate:
    """Estimate what `trace` takes for a sample, in a small part of its time.

    Two batches of augmentations go through the model with all Hessians. Of each kind of layer (rows, columns, groups)
    ever more rows are pruned for a matrix of its size, until that takes a fifth of a second; the line through the last
    two times gives that of all rows.

    Args:
        model: As in `trace`. Not modified.
        sample: As in `trace`.
        **options: The fields of `TraceOptions` except sparsity and progress.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spade_xai import estimate
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> found = estimate(model, torch.rand(1, 3, 4, 4), method="obc", augmentations=256)
        >>> found.seconds > 0, len(found.layers)
        (True, 2)
    """
    return _measured(model, sample, options, "estimate", rough=False)


@takes_trace_options("progress", "sparsity")
def rough_estimate(model: nn.Module, sample: Any, **options: Unpack[TraceKeywords]) -> Estimate:
    """As `estimate`, in some hundredths of the time of the trace and less exact.

    Eight variants go through the model, and of the layers only the kind that takes most operations is pruned; the times
    of the others are in proportion to their operations.

    Args:
        model: As in `estimate`.
        sample: As in `estimate`.
        **options: As in `estimate`.
    """
    return _measured(model, sample, options, "rough_estimate", rough=True)


def _measured(
    model: nn.Module, sample: Any, options: TraceKeywords, function: str, rough: bool
) -> Estimate:
    chosen: TraceKeywords = {**options, "sparsity": FAITHFUL, "progress": False}
    given = TraceOptions(**chosen, function=function)
    with outside_inference_mode(), torch.no_grad():
        start = time.perf_counter()
        stages = Stages(False)
        run = TracingRun(model, [sample], given, stages)
        setup = time.perf_counter() - start
        stages.seconds.clear()
        source = run.sources[0]
        some = min(source.augmentations, FEW if rough else BATCHES * source.batch_size)
        plan = plan_memory(
            run.layers, method=given.pruning, samples=1, max_memory=given.most_memory,
            function=function, device=run.device,
        )  # fmt: skip
        for part in plan.parts:
            run.hessians(replace(source, augmentations=some), part, 0, 1)
        share = source.augmentations / max(1, some)
        measure = _by_operations if rough else _layers
        layers = measure(run.layers, given.pruning, given.damp, run.device)
    seconds = {
        stage: stages.seconds.get(stage, 0.0) * share for stage in ("augment", "forward", "hessian")
    }
    return Estimate(
        given.pruning.name, source.augmentations, setup, seconds["augment"], seconds["forward"],
        seconds["hessian"], sum(x.seconds for x in layers), len(plan.parts), plan.bytes, tuple(layers),
    )  # fmt: skip


def _by_operations(
    layers: Sequence[Layer], method: PruningMethod, damp: float, device: torch.device
) -> list[LayerCost]:
    """Of each layer in proportion to its operations, from the time of the one that takes most."""
    if not layers:
        return []
    dearest = max(layers, key=method.operations)
    rate = _seconds(dearest, method, damp, device) / method.operations(dearest)
    found = [LayerCost(x.name, x.rows, x.cols, rate * method.operations(x)) for x in layers]
    return sorted(found, key=lambda x: -x.seconds)


def _layers(
    layers: Sequence[Layer], method: PruningMethod, damp: float, device: torch.device
) -> list[LayerCost]:
    """Of each layer; those of one kind are measured once."""
    known: dict[tuple[int, int, int, int], float] = {}
    found = []
    for layer in layers:
        kind = (layer.groups, layer.rows, layer.cols, layer.taps)
        if kind not in known:
            known[kind] = _seconds(layer, method, damp, device)
        found.append(LayerCost(layer.name, layer.rows, layer.cols, known[kind]))
    return sorted(found, key=lambda x: -x.seconds)


def _seconds(layer: Layer, method: PruningMethod, damp: float, device: torch.device) -> float:
    """Of all rows and groups of a layer, from those of a few groups and of ever more rows while these are cheap."""
    rows, groups = layer.rows // layer.groups, min(layer.groups, MOST_GROUPS)
    few, count, before = 0, min(rows, torch.get_num_threads()), 0.0
    taken = _pruned(layer, method, damp, device, groups, count)
    while count < rows and (few == 0 or taken < ENOUGH):
        few, before, count = count, taken, min(rows, 4 * count)
        taken = _pruned(layer, method, damp, device, groups, count)
    slope = max(0.0, taken - before) / (count - few)
    return (taken + slope * (rows - count)) * layer.groups / groups


def _pruned(
    layer: Layer, method: PruningMethod, damp: float, device: torch.device, groups: int, rows: int
) -> float:
    """Seconds to prune so many groups and rows; times do not depend on the values."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(groups, rows, layer.cols, generator=generator)
    inputs = torch.randn(groups, layer.cols, 8, generator=generator)
    hessian = torch.eye(layer.cols) + inputs @ inputs.mT / 8
    part = replace(layer, groups=groups, rows=groups * rows)
    weight, hessian = weight.to(device), hessian.to(device)
    start = time.perf_counter()
    (result,) = method.prune([method.prepare(part, weight, hessian, damp)], [RATIO])
    if result.weights is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
