"""One run over samples: layers in order of execution, their ratios, Hessians, and pruning within a memory limit."""

import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from spade_ext import DampingWarning
from spade_ext.memory import scratch_within
from spade_xai.exceptions import UnprunedLayerWarning
from spade_xai.models.copies import duplicate
from spade_xai.models.inputs import Inputs, device_of, rebatch
from spade_xai.models.layers import (
    Layer,
    Unsupported,
    as_patterns,
    find_layers,
    find_unsupported,
    fitting,
    select_layers,
)
from spade_xai.progress import Stages
from spade_xai.tracing.augment import augmented
from spade_xai.tracing.builder import TraceBuilder
from spade_xai.tracing.hessians import Hessians, execution_order
from spade_xai.tracing.memory import plan_memory, scratch_bytes
from spade_xai.tracing.options import Options, read_sample, working_copy
from spade_xai.tracing.pruning import Problem, prune_layers
from spade_xai.tracing.result import Source, Trace
from spade_xai.tracing.schedule import resolve_sparsity

Item = TypeVar("Item", Layer, Unsupported)


class Run:
    """A model and the samples to prune it for.

    Attributes:
        given: The caller's model, only read.
        dense: A copy of it that shares its parameters, in which computed weights are parameters; only read.
        model: The working copy.
        device: Of the working copy; samples, Hessians and pruning are there.
        sources: One a sample.
        layers: Layers that can be pruned, in order of execution.
        calls: How often a pass of the model reads each.
        ratios: Sparsity of each.
        left_out: Status of the layers that were chosen but cannot be pruned, and the reason.
        found: Every chosen layer by name: those of layers, then those left out.
        unsupported: The chosen weights that belong to no layer that can be pruned.
    """

    def __init__(
        self,
        dense: nn.Module,
        samples: Sequence[Any],
        options: Options,
        device: torch.device | str | None,
        stages: Stages,
    ) -> None:
        function = options.function
        self.given, self.options, self.stages = dense, options, stages
        self.model = working_copy(function, dense, device)
        self.dense = duplicate(dense)
        self.device = device_of(self.model)
        self.sources = [read_sample(options, sample, self.device) for sample in samples]
        everything, others = find_layers(self.dense), find_unsupported(self.dense)
        patterns = None if options.layers is None else as_patterns(options.layers, function)
        chosen = select_layers(
            everything,
            patterns,
            depthwise=options.depthwise,
            function=function,
            unsupported=others,
        )
        by_name = {layer.name: layer for layer in chosen}
        with stages.timed("forward"):
            self.calls, odd = execution_order(self.model, chosen, self.sources[0].inputs)
        self.layers = [by_name[name] for name in self.calls]
        self.left_out = {
            name: ("unsupported", odd[name])
            if name in odd
            else ("unused", "the forward pass does not use its weight")
            for name in by_name
            if name not in self.calls
        }
        self.unsupported = _chosen(others, patterns)
        if not options.depthwise:
            for layer in _chosen([x for x in everything if x.depthwise], patterns):
                by_name[layer.name] = layer
                self.left_out[layer.name] = (
                    "dense",
                    "depthwise=True prunes depthwise convolutions",
                )
        order = [*(layer.name for layer in self.layers), *self.left_out]
        self.found = {name: by_name[name] for name in order}
        self.ratios = resolve_sparsity(function, options.sparsity, self.layers, everything)
        for name, reason in odd.items():
            warnings.warn(
                f"{function}: layer {name} is left dense: {reason}",
                UnprunedLayerWarning,
                stacklevel=5,
            )

    def batches(self, source: Source) -> Iterator[Inputs]:
        """The augmentations of a sample in batches; the time to make them is counted."""
        function, size = self.options.function, self.options.batch_size
        parts = augmented(
            function, source.inputs, source.augment, source.augmentations, source.seed
        )
        whole = rebatch(parts, size)
        while True:
            with self.stages.timed("augment"):
                batch = next(whole, None)
            if batch is None:
                return
            yield batch

    def hessians(
        self,
        source: Source,
        layers: Sequence[Layer],
        turn: int,
        turns: int,
        stop_early: bool = False,
    ) -> dict[str, Tensor]:
        """H of the layers that the sample's augmentations use.

        Args:
            source: The sample.
            layers: Layers.
            turn: How many such runs were done before, for the progress.
            turns: How many there are.
            stop_early: End each pass where the last of the layers was read.
        """
        passes = -(-source.augmentations // self.options.batch_size)
        reads = passes * sum(self.calls[layer.name] for layer in layers)
        sums = Hessians(self.model, layers, self.options.function, self.options.forward_precision)

        def report(batches: int, read: int) -> None:
            self.stages.report("forward", turn * passes + batches, turns * passes)
            self.stages.report("hessian", turn * reads + min(read, reads), turns * reads)

        reach = {layer.name: self.calls[layer.name] for layer in layers} if stop_early else None
        sums.run(self.batches(source), report, reach)
        for stage, seconds in sums.seconds.items():
            self.stages.add(stage, seconds)
        with self.stages.timed("hessian"):
            taken = {layer.name: sums.take(layer) for layer in layers}
        return {name: h for name, h in taken.items() if h is not None}

    def builder(self, source: Source) -> TraceBuilder:
        """An empty trace of a sample."""
        return TraceBuilder(
            self.given, self.dense, self.found, self.ratios, self.left_out, self.unsupported,
            self.options, source,
        )  # fmt: skip

    def prune(self, sequential: bool) -> list[Trace]:
        """Prune every layer with a ratio above 0, for each sample."""
        todo = [layer for layer in self.layers if self.ratios[layer.name] > 0]
        builders = [self.builder(source) for source in self.sources]
        total = len(todo) * len(builders)
        if sequential:
            steps = _steps(todo)
            for i, step in enumerate(steps):
                hessians = [
                    self.hessians(builder.source, step, i, len(steps), stop_early=True)
                    for builder in builders
                ]
                for layer in step:
                    weights = self._prune_layers([layer], builders, hessians, total).get(layer.name)
                    if weights is not None:
                        layer.write(self.model, weights)
        else:
            plan = plan_memory(
                todo,
                method=self.options.method,
                samples=len(builders),
                max_memory=self.options.max_memory,
                function=self.options.function,
                device=self.device,
            )
            turn, turns = 0, len(builders) * len(plan.parts)
            for start in range(0, len(builders), plan.samples):
                some = builders[start : start + plan.samples]
                for part in plan.parts:
                    hessians = []
                    for builder in some:
                        hessians.append(self.hessians(builder.source, part, turn, turns))
                        turn += 1
                    for layers in self._at_once(part):
                        self._prune_layers(layers, some, hessians, total)
        timings = {stage: seconds / len(builders) for stage, seconds in self.stages.seconds.items()}
        traces = [builder.trace(timings) for builder in builders]
        _warn(self.options.function, traces)
        return traces

    def _at_once(self, layers: Sequence[Layer]) -> Sequence[Sequence[Layer]]:
        """On CUDA the layers of SparseGPT share launches; elsewhere each frees its Hessians before the next."""
        if self.device.type == "cuda" and self.options.method == "sparsegpt":
            return [layers]
        return [[layer] for layer in layers]

    def _prune_layers(
        self,
        layers: Sequence[Layer],
        builders: Sequence[TraceBuilder],
        hessians: list[dict[str, Tensor]],
        total: int,
    ) -> dict[str, Tensor]:
        """Prune layers for each sample that uses them; weights of the layers pruned for the first sample."""
        done = self.stages.counts.get("prune", 0)
        held = sum(h.nbytes for found in hessians for h in found.values())
        users: list[list[TraceBuilder]] = []
        problems: list[Problem] = []
        for layer in layers:
            ready = [
                (builder, found.pop(layer.name))
                for builder, found in zip(builders, hessians, strict=True)
                if layer.name in found
            ]
            if ready:
                users.append([builder for builder, _ in ready])
                stacked = _stack([h for _, h in ready])
                weight = layer.read(self.dense).to(stacked.device)
                problems.append(Problem(layer, weight, stacked, self.ratios[layer.name]))
        count = sum(map(len, users))

        def report(part: int, whole: int) -> None:
            self.stages.report("prune", done + count * part / max(1, whole), total)

        self.stages.report("prune", done, total)
        start = time.perf_counter()
        method, limit = self.options.method, self.options.max_memory
        with scratch_within(scratch_bytes(layers, method, len(builders), held, limit)):
            results = prune_layers(problems, method=method, damp=self.options.damp, progress=report)
        seconds = (time.perf_counter() - start) / max(1, count)
        first = {}
        for problem, some, of_layer in zip(problems, users, results, strict=True):
            for builder, result in zip(some, of_layer, strict=True):
                builder.note(problem.layer, result, seconds)
                if builder is builders[0] and result.weights is not None:
                    first[problem.layer.name] = result.weights
        self.stages.add("prune", time.perf_counter() - start)
        self.stages.report("prune", done + len(layers) * len(builders), total)
        return first


def _chosen(items: Sequence[Item], patterns: list[str] | None) -> list[Item]:
    """Those whose names a pattern takes; all without patterns."""
    if patterns is None:
        return list(items)
    names = [x.name for x in items]
    chosen = {name for pattern in patterns for name in fitting(names, pattern)}
    return [x for x in items if x.name in chosen]


def _stack(hessians: list[Tensor]) -> Tensor:
    """[S, G, D, D] of S Hessians; a view of one alone."""
    return hessians[0][None] if len(hessians) == 1 else torch.stack(hessians)


def _steps(layers: Sequence[Layer]) -> list[list[Layer]]:
    """Layers in order of execution; the input projections of an attention read at once go together."""
    steps: list[list[Layer]] = []
    for layer in layers:
        before = steps[-1][-1] if steps else None
        projections = ("query", "key", "value")
        if before and layer.kind in projections and before.modules == layer.modules:
            steps[-1].append(layer)
        else:
            steps.append([layer])
    return steps


def _warn(function: str, traces: Sequence[Trace]) -> None:
    """Say which layers needed more damping or failed."""
    for status, what in (
        ("damped", "needed more damping than asked for"),
        ("failed", "have no Hessian that can be inverted, even at damp = 1, and were left dense"),
    ):
        names = dict.fromkeys(x.name for t in traces for x in t.layers if x.status == status)
        if names:
            text = ", ".join(names)
            warnings.warn(f"{function}: layers {what}: {text}", DampingWarning, stacklevel=4)
