"""One run over samples: layers in order of execution, their ratios, Hessians, and pruning within a memory limit."""

import copy
import logging
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spade_ext import DampingWarning
from spade_ext._checks import MOST_DAMP, check_range, check_seed
from spade_ext._cuda import scratch_within
from spade_xai.augment import Augmentation, augmented, vary
from spade_xai.capture import Hessians, execution_order
from spade_xai.inputs import (
    Inputs,
    check_count,
    device_of,
    first_tensor,
    map_tensors,
    rebatch,
)
from spade_xai.layers import Layer, find_layers, select_layers
from spade_xai.plan import plan_memory, scratch_bytes
from spade_xai.precision import PRECISIONS
from spade_xai.prepare import check_model, duplicate
from spade_xai.progress import Stages
from spade_xai.pruning import METHODS, Problem, Pruned, prune_layers
from spade_xai.result import LayerReport, Packed, Source, Trace
from spade_xai.schedule import Sparsity, resolve_sparsity

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Checked arguments of a run; see trace."""

    function: str
    method: str
    sparsity: Sparsity
    augment: str | Augmentation | None
    augmentations: int
    layers: str | Iterable[str] | None
    depthwise: bool
    damp: float
    batch_size: int
    seed: int
    max_memory: int | None
    forward_precision: str = "float32"

    def __post_init__(self) -> None:
        name = self.function
        if self.method not in METHODS:
            raise ValueError(
                f"{name}: method must be one of {', '.join(METHODS)}, got {self.method!r}"
            )
        for argument in ("augmentations", "batch_size"):
            check_count(name, argument, getattr(self, argument))
        check_range(name, "damp", self.damp, 0.0, MOST_DAMP)
        check_seed(name, self.seed)
        if self.forward_precision not in PRECISIONS:
            raise ValueError(
                f"{name}: forward_precision must be one of {', '.join(PRECISIONS)}, "
                f"got {self.forward_precision!r}"
            )


def working_copy(
    function: str, model: nn.Module, device: torch.device | str | None = None
) -> nn.Module:
    """A copy of the modules that may carry hooks and other weights; it shares the model's tensors unless moved."""
    check_model(function, model)
    if device is None:
        return duplicate(model)
    return copy.deepcopy(model).to(check_place(function, device)).eval()


def check_place(function: str, device: torch.device | str) -> torch.device:
    """The device, if the CPU or a CUDA device of this machine."""
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError):
        place = None
    cuda = place is not None and place.type == "cuda"
    if place is None or not (place.type == "cpu" or (cuda and torch.cuda.is_available())):
        raise ValueError(
            f"{function}: device must be cpu or a CUDA device that PyTorch finds, got {device!r}"
        )
    return place


def read_sample(options: Options, sample: Any, device: torch.device) -> Source:
    """The sample as inputs on the device, where it is varied too."""
    inputs, resolved = vary(options.function, sample, options.augment)
    inputs = map_tensors(inputs, lambda t: t.to(device))
    count = len(first_tensor(inputs)) if resolved is None else options.augmentations
    return Source(inputs, resolved, count, options.seed)


class Run:
    """A model and the samples to prune it for.

    Attributes:
        dense: The caller's model, only read.
        model: The working copy.
        device: Of the working copy; samples, Hessians and pruning are there.
        sources: One a sample.
        layers: Layers that can be pruned, in order of execution.
        calls: How often a pass of the model reads each.
        ratios: Sparsity of each.
        left_out: Status of the layers that were chosen but cannot be pruned.
        found: Every chosen layer by name.
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
        self.dense, self.options, self.stages = dense, options, stages
        self.model = working_copy(function, dense, device)
        self.device = device_of(self.model)
        self.sources = [read_sample(options, sample, self.device) for sample in samples]
        everything = find_layers(dense)
        chosen = select_layers(
            everything, options.layers, depthwise=options.depthwise, function=function
        )
        self.found = {layer.name: layer for layer in chosen}
        with stages.timed("forward"):
            self.calls, odd = execution_order(self.model, chosen, self.sources[0].inputs)
        self.layers = [self.found[name] for name in self.calls if name not in odd]
        self.left_out = {x.name: "unused" for x in chosen if x.name not in self.calls}
        self.left_out.update(dict.fromkeys(odd, "unsupported"))
        self.ratios = resolve_sparsity(function, options.sparsity, self.layers, everything)
        if odd:
            text = ", ".join(odd)
            _log.warning(
                "%s: left dense, as their classes change the forward pass: %s", function, text
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

    def prune(self, sequential: bool) -> list[Trace]:
        """Prune every layer with a ratio above 0, for each sample."""
        todo = [layer for layer in self.layers if self.ratios[layer.name] > 0]
        books = [Book(self, source) for source in self.sources]
        total = len(todo) * len(books)
        if sequential:
            steps = _steps(todo)
            for i, step in enumerate(steps):
                hessians = [
                    self.hessians(book.source, step, i, len(steps), stop_early=True)
                    for book in books
                ]
                for layer in step:
                    weights = self._prune_layers([layer], books, hessians, total).get(layer.name)
                    if weights is not None:
                        layer.write(self.model, weights)
        else:
            plan = plan_memory(
                todo,
                method=self.options.method,
                samples=len(books),
                max_memory=self.options.max_memory,
                function=self.options.function,
                device=self.device,
            )
            turn, turns = 0, len(books) * len(plan.parts)
            for start in range(0, len(books), plan.samples):
                some = books[start : start + plan.samples]
                for part in plan.parts:
                    hessians = []
                    for book in some:
                        hessians.append(self.hessians(book.source, part, turn, turns))
                        turn += 1
                    for layers in self._at_once(part):
                        self._prune_layers(layers, some, hessians, total)
        traces = [book.trace(len(books)) for book in books]
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
        books: "list[Book]",
        hessians: list[dict[str, Tensor]],
        total: int,
    ) -> dict[str, Tensor]:
        """Prune layers for each sample that uses them; weights of the layers pruned for the first sample."""
        done = self.stages.counts.get("prune", 0)
        users: list[list[Book]] = []
        problems: list[Problem] = []
        for layer in layers:
            ready = [
                (book, found.pop(layer.name))
                for book, found in zip(books, hessians, strict=True)
                if layer.name in found
            ]
            if ready:
                users.append([book for book, _ in ready])
                stacked = _stack([h for _, h in ready])
                weight = layer.read(self.dense).to(stacked.device)
                problems.append(Problem(layer, weight, stacked, self.ratios[layer.name]))
        count = sum(map(len, users))

        def report(part: int, whole: int) -> None:
            self.stages.report("prune", done + count * part / max(1, whole), total)

        self.stages.report("prune", done, total)
        start = time.perf_counter()
        method, limit = self.options.method, self.options.max_memory
        with scratch_within(scratch_bytes(layers, method, len(books), limit)):
            results = prune_layers(problems, method=method, damp=self.options.damp, progress=report)
        seconds = (time.perf_counter() - start) / max(1, count)
        first = {}
        for problem, some, of_layer in zip(problems, users, results, strict=True):
            for book, result in zip(some, of_layer, strict=True):
                book.note(problem.layer, result, seconds)
                if book is books[0] and result.weights is not None:
                    first[problem.layer.name] = result.weights
        self.stages.add("prune", time.perf_counter() - start)
        self.stages.report("prune", done + len(layers) * len(books), total)
        return first


def _stack(hessians: list[Tensor]) -> Tensor:
    """[S, G, D, D] of S Hessians; a view of one alone."""
    return hessians[0][None] if len(hessians) == 1 else torch.stack(hessians)


class Book:
    """What was pruned for one sample."""

    def __init__(self, run: Run, source: Source) -> None:
        self.run, self.source = run, source
        self.packed: dict[str, Packed] = {}
        self.reports: dict[str, LayerReport] = {}

    def note(self, layer: Layer, result: Pruned, seconds: float) -> None:
        """Keep a layer's result."""
        if result.weights is None:
            status = "failed"
        else:
            self.packed[layer.name] = Packed.of(result.weights)
            status = "damped" if result.damp > self.run.options.damp else "pruned"
        self.reports[layer.name] = self._report(
            layer, status, result.loss, result.relative_loss, result.damp, seconds
        )

    def _report(
        self, layer: Layer, status: str, loss: float = 0.0, relative: float = 0.0, damp: float = 0.0,
        seconds: float = 0.0,
    ) -> LayerReport:  # fmt: skip
        packed = self.packed.get(layer.name)
        kept = len(packed.values) if packed else int(layer.read(self.run.dense).count_nonzero())
        got = 1 - kept / layer.numel if layer.numel else 0.0
        return LayerReport(
            layer.name, layer.rows, layer.cols, self.run.ratios.get(layer.name, 0.0), got, loss,
            relative, damp, seconds, status,
        )  # fmt: skip

    def trace(self, samples: int) -> Trace:
        """The trace, of one of so many samples."""
        run = self.run
        names = [layer.name for layer in run.layers] + list(run.left_out)
        layers = []
        for name in names:
            left = "dense" if run.ratios.get(name, 0.0) == 0 else "unused"
            status = run.left_out.get(name, left)
            layers.append(self.reports.get(name) or self._report(run.found[name], status))
        settings = {
            "method": run.options.method,
            "augment": repr(self.source.augment),
            "augmentations": self.source.augmentations,
            "damp": run.options.damp,
            "seed": run.options.seed,
        }
        timings = {stage: seconds / samples for stage, seconds in run.stages.seconds.items()}
        return Trace(run.dense, layers, settings, timings, run.found, self.packed, self.source)


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
