"""One run over samples: layers in order of execution, their ratios, Hessians, and pruning within a memory limit."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from spade_xai.models.copies import duplicate
from spade_xai.models.inputs import Inputs, device_of
from spade_xai.models.layers import Layer
from spade_xai.progress import Stages
from spade_xai.tracing.builder import TraceBuilder
from spade_xai.tracing.copies import working_copy
from spade_xai.tracing.faithful import FaithfulSearch
from spade_xai.tracing.fast_forward import LEAST_AUGMENTATIONS, fast_forward
from spade_xai.tracing.hessians import Hessians
from spade_xai.tracing.layer_choice import choose_layers, sequential_steps
from spade_xai.tracing.memory import plan_memory, scratch_bytes
from spade_xai.tracing.options import TraceOptions
from spade_xai.tracing.prepared import PreparedLayers
from spade_xai.tracing.pruning.method import Prepared
from spade_xai.tracing.result import Trace
from spade_xai.tracing.sample import TracedSample, read_sample
from spade_xai.tracing.schedule import FAITHFUL, resolve_sparsity
from spade_xai.tracing.shortfalls import warn_of_shortfalls
from spade_xai.tracing.trial import Trial
from spade_xai.tracing.verdict import Probe


class TracingRun:
    """A model and the samples to prune it for.

    Attributes:
        given: The caller's model, only read.
        dense: A copy of it that shares its parameters, in which computed weights are parameters; only read.
        model: The working copy.
        fast: The copy of it that reads what its layers read in fewer operations; it stays dense.
        device: The device of the working copy; samples, Hessians and pruning are there.
        sources: One per sample.
        layers: Layers that can be pruned, in order of execution.
        calls: How often a pass of the model reads each.
        faithful: Whether the ratios are chosen for each sample.
        ratios: Sparsity of each; 1 where it is chosen for each sample.
        left_out: Status of the layers that were chosen but cannot be pruned, and the reason.
        found: Every chosen layer by name: those of layers, then those left out.
        unsupported: The chosen weights that belong to no layer that can be pruned.
    """

    def __init__(
        self, given: nn.Module, samples: Sequence[Any], options: TraceOptions, stages: Stages
    ) -> None:
        self.given, self.options, self.stages = given, options, stages
        self.model = working_copy(options.function, given, options.device)
        self.dense = duplicate(given)
        self.device = device_of(self.model)
        self.sources = [read_sample(options, sample, self.device) for sample in samples]
        choice = choose_layers(self.dense, self.model, self.sources[0].inputs, options, stages)
        self.layers, self.calls = choice.layers, choice.calls
        self.found, self.left_out = choice.found, choice.left_out
        self.unsupported = choice.unsupported
        self.fast = self.model
        if min(source.augmentations for source in self.sources) >= LEAST_AUGMENTATIONS:
            with stages.timed("forward"):
                self.fast = fast_forward(self.model, self.layers, self.sources[0].inputs)
        self.faithful = options.sparsity == FAITHFUL
        asked = 1.0 if self.faithful else options.sparsity
        self.ratios = resolve_sparsity(options.function, asked, self.layers, choice.everything)

    def batches(self, source: TracedSample) -> Iterator[Inputs]:
        """The augmentations of a sample in batches; the time to make them is counted."""
        whole = source.batches(self.options.function)
        while True:
            with self.stages.timed("augment"):
                batch = next(whole, None)
            if batch is None:
                return
            yield batch

    def hessians(
        self,
        source: TracedSample,
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
            stop_early: End each pass of the working copy, whose weights may be sparse, where the last of the layers was
                read; otherwise the passes are of the fast copy.
        """
        passes = -(-source.augmentations // source.batch_size)
        reads = passes * sum(self.calls[layer.name] for layer in layers)
        model = self.model if stop_early else self.fast
        sums = Hessians(model, layers, self.options.function, self.options.forward_precision)

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

    def builder(self, source: TracedSample) -> TraceBuilder:
        """An empty trace of a sample."""
        return TraceBuilder(
            self.given, self.dense, self.found, dict(self.ratios), self.left_out, self.unsupported,
            self.options, source,
        )  # fmt: skip

    def prune(self, *, sequential: bool = False, keep: bool = False) -> list[Trace]:
        """Prune every layer with a ratio above 0, for each sample.

        Args:
            sequential: Each layer for the inputs that the sparse layers before it give.
            keep: Have the traces keep what other sparsities are made from, where it fits into the memory.
        """
        todo = [layer for layer in self.layers if self.ratios[layer.name] > 0]
        builders = [self.builder(source) for source in self.sources]
        reference = duplicate(self.model)  # stays dense, whatever a sequential run writes
        self.stages.counts["prune"] = 0
        if not sequential or self.faithful:
            self._parallel(todo, builders, reference, keep and not sequential)
        if sequential:
            chosen = builders[0].ratios
            builders = [self.builder(source) for source in self.sources]
            for builder in builders:
                builder.ratios = chosen
            self._sequential([x for x in todo if chosen[x.name] > 0], builders)
        self._judge(builders, reference)
        timings = {stage: seconds / len(builders) for stage, seconds in self.stages.seconds.items()}
        traces = [builder.trace(timings, keep=keep) for builder in builders]
        warn_of_shortfalls(self.options.function, traces)
        return traces

    def _parallel(
        self,
        todo: Sequence[Layer],
        builders: Sequence[TraceBuilder],
        reference: nn.Module,
        keep: bool,
    ) -> None:
        """Prune all layers for the dense model's inputs."""
        options = self.options
        plan = plan_memory(
            todo,
            method=options.pruning,
            samples=len(builders),
            max_memory=options.most_memory,
            function=options.function,
            device=self.device,
        )
        total = len(todo) * len(builders)
        turn, turns = 0, len(builders) * len(plan.parts)
        for start in range(0, len(builders), plan.samples):
            some = builders[start : start + plan.samples]
            if self.faithful or (keep and plan.keeps):
                for builder in some:
                    builder.prepared = PreparedLayers(
                        options.pruning,
                        options.damp,
                        self.dense,
                        self.device,
                        not plan.keeps,
                        options.most_memory,
                    )
            for part in plan.parts:
                hessians = []
                for builder in some:
                    hessians.append(self.hessians(builder.source, part, turn, turns))
                    turn += 1
                together = options.pruning.together(self.device)
                for layers in [part] if together else [[layer] for layer in part]:
                    self._prune_layers(layers, some, hessians, total)
            if self.faithful:
                for builder in some:
                    self._search(builder, reference)
                    if not keep:
                        builder.prepared = None

    def _sequential(self, todo: Sequence[Layer], builders: Sequence[TraceBuilder]) -> None:
        """Prune layer after layer for the inputs that the sparse layers before it give."""
        steps = sequential_steps(todo)
        self.stages.counts["prune"] = 0
        for i, step in enumerate(steps):
            hessians = [
                self.hessians(builder.source, step, i, len(steps), stop_early=True)
                for builder in builders
            ]
            for layer in step:
                total = len(todo) * len(builders)
                weights = self._prune_layers([layer], builders, hessians, total, now=True)
                if layer.name in weights:
                    layer.write(self.model, weights[layer.name])

    def _prune_layers(
        self,
        layers: Sequence[Layer],
        builders: Sequence[TraceBuilder],
        hessians: list[dict[str, Tensor]],
        total: int,
        now: bool = False,
    ) -> dict[str, Tensor]:
        """Prepare layers for each sample that uses them and, unless ratios are chosen later, prune them.

        Returns:
            Weights of the layers pruned for the first sample.
        """
        first: dict[str, Tensor] = {}
        done = self.stages.counts.get("prune", 0)
        held = sum(h.nbytes for found in hessians for h in found.values())
        method, options = self.options.pruning, self.options
        users: list[TraceBuilder] = []
        prepared: list[Prepared] = []
        count = sum(layer.name in found for layer in layers for found in hessians)

        def report(part: float, whole: float) -> None:
            self.stages.report("prune", done + count * part / max(1, whole), total)

        self.stages.report("prune", done, total)
        start = time.perf_counter()
        limit = scratch_bytes(layers, method, len(builders), held, options.most_memory)
        for layer in layers:
            for builder, found in zip(builders, hessians, strict=True):
                if layer.name not in found:
                    continue
                hessian = found.pop(layer.name)
                before, share = len(prepared), max(1, count)

                def part(some: int, whole: int, before: int = before, n: int = share) -> None:
                    report(before + some / max(1, whole), n)

                weight = layer.read(self.dense).to(hessian.device)
                prepared.append(method.prepare(layer, weight, hessian, options.damp, part, limit))
                users.append(builder)
        if now or not self.faithful:
            ratios = [b.ratios[x.layer.name] for b, x in zip(users, prepared, strict=True)]
            results = method.prune(prepared, ratios, max_scratch=limit)
            seconds = (time.perf_counter() - start) / max(1, count)
            for builder, x, result in zip(users, prepared, results, strict=True):
                builder.note(x.layer, result, seconds)
                if builder is builders[0] and result.weights is not None:
                    first[x.layer.name] = result.weights
        for builder, x in zip(users, prepared, strict=True):
            if builder.prepared is not None:
                builder.prepared.put(x)
        self.stages.add("prune", time.perf_counter() - start)
        self.stages.report("prune", done + len(layers) * len(builders), total)
        return first

    def _search(self, builder: TraceBuilder, reference: nn.Module) -> None:
        """Choose the ratios of one sample."""
        prepared = builder.prepared
        if prepared is None:
            raise RuntimeError("TracingRun: the layers of a sample were not kept for the search")
        function, start = self.options.function, time.perf_counter()

        def report(done: int, total: int) -> None:
            self.stages.report("fidelity", done, total)

        with self.stages.timed("fidelity"):
            trial = Trial(function, reference, self.layers, builder.source, self.fast)
            found = FaithfulSearch(function, reference, self.layers, prepared, trial, report).run()
        builder.ratios = {**dict.fromkeys(self.ratios, 0.0), **found.ratios}
        seconds = (time.perf_counter() - start) / max(1, len(found.results))
        for name, result in found.results.items():
            builder.note(self.found[name], result, seconds, found.packed.get(name))
        builder.verdict = found.verdict

    def _judge(self, builders: Sequence[TraceBuilder], reference: nn.Module) -> None:
        """Say of each trace whether it is faithful."""
        with self.stages.timed("fidelity"):
            for builder in builders:
                if builder.verdict is None:
                    sparse = duplicate(reference)
                    builder.pruned(sparse)
                    probe = Probe(self.options.function, reference, builder.source)
                    builder.verdict = probe.judge(sparse)
