"""How good maps are before and after pruning: every figure with n, and differences of the same samples.

Maps of planted images are compared with the patch (AUROC, pointing game); maps of clean images by how fast the
pixels they name convince the dense model (insertion).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from spade_xai.attribution.methods import GRADIENT_METHODS
from spade_xai.measures import baselines, metrics
from spade_xai.measures.metrics import Estimate
from spade_xai.progress import Progress
from spade_xai.reports.explain import check_tracers, image_map, short_fidelity
from spade_xai.tracing.fidelity import Fidelity
from spade_xai.tracing.pruning.registry import TRACERS
from spade_xai.tracing.result import Trace
from spade_xai.tracing.trace import trace_many
from spade_xai.trojans.trojan import predictions

AVERAGE = "average"
"""Stands for the mean over methods of each sample."""


@dataclass
class Evaluation:
    """Scores of each sample by metric, method and map, with fidelity and time."""

    scores: dict[str, dict[str, dict[str, Tensor]]]  # metric -> method -> map -> [n] on the CPU
    fidelity: dict[str, list[Fidelity]] = field(default_factory=dict)  # of each tracer's traces
    seconds: dict[str, float] = field(default_factory=dict)  # of each stage, all samples together
    traces: int = 0  # traces of each tracer

    def methods(self, metric: str) -> list[str]:
        """The average, then each method."""
        return [AVERAGE, *self.scores[metric]]

    def values(self, metric: str, method: str, column: str) -> Tensor:
        """Score of each sample, [n]."""
        by_method = self.scores[metric]
        if method != AVERAGE:
            return by_method[method][column]
        return torch.stack([maps[column] for maps in by_method.values()]).mean(0)

    def columns(self, metric: str) -> list[str]:
        """The maps that were scored: "dense", the tracers, controls and baselines."""
        return list(next(iter(self.scores[metric].values())))

    def mean(self, metric: str, method: str, column: str) -> Estimate:
        """Mean score with its standard error."""
        return metrics.mean(self.values(metric, method, column))

    def gain(self, metric: str, method: str, column: str) -> Estimate:
        """Mean difference to the dense model's map of the same sample, with its standard error."""
        dense = self.values(metric, method, "dense")
        return metrics.paired(self.values(metric, method, column), dense)

    def rows(self) -> list[dict[str, Any]]:
        """Everything as flat rows for JSON."""
        return [
            {
                "metric": metric,
                "method": method,
                "map": column,
                "n": mean.n,
                "mean": mean.mean,
                "standard_error": mean.standard_error,
                "difference_to_dense": gain.mean,
                "difference_standard_error": gain.standard_error,
            }
            for metric in self.scores
            for method in self.methods(metric)
            for column in self.columns(metric)
            for mean, gain in [
                (self.mean(metric, method, column), self.gain(metric, method, column))
            ]
        ]


def evaluate(
    model: nn.Module,
    planted: tuple[Tensor, Tensor] | None = None,
    clean: Tensor | None = None,
    *,
    methods: Sequence[str] = GRADIENT_METHODS,
    tracers: Sequence[str] = ("SPADE", "FastSPADE"),
    controls: Sequence[str] = ("SPADE",),
    seed: int = 0,
    z_box: bool = False,
    progress: Progress = True,
    report: Callable[[str], object] | None = None,
    **trace_options: Any,
) -> Evaluation:
    """Score maps of the dense model, of traces, of another image's traces, of edges and of noise.

    The class explained is the one the dense model predicts. Blank pixels of insertion are 0 in the space of the model's
    inputs: the mean colour, if these are normalised.

    Args:
        model: Classifier. Not modified.
        planted: Images [n, 3, H, W], as the model takes them, and masks bool [n, H, W] of their patches; None: none.
        clean: Images [m, 3, H, W]; None: none.
        methods: Names in `METHODS`.
        tracers: Names in `explain.TRACERS`.
        controls: Tracers that are also tried as pruned for the image before, for two images or more.
        seed: The seed of augmentations, methods that sample, and noise.
        z_box: As in `explain.image_map`.
        progress: True for bars, or callback(stage, done, total).
        report: Called with a line as each step begins.
        **trace_options: Further arguments of `trace_many`: sparsity, augmentations, layers, group, ...
    """
    check_tracers("evaluate", [*tracers, *controls])
    if planted is None and clean is None:
        raise ValueError("evaluate: planted or clean must be given, got neither")
    result = Evaluation({}, {tracer: [] for tracer in tracers})
    run = _Run(
        model, methods, tracers, controls, seed, z_box, progress, report, trace_options, result
    )
    if planted is not None:
        images, masks = planted
        maps = run.maps(images, "planted images")
        run.score("auroc", maps, lambda m: metrics.auroc(m, masks))
        run.score("pointing_game", maps, lambda m: metrics.pointing_game(m, masks))
    if clean is not None:
        maps = run.maps(clean, "clean images")
        labels = predictions(model, clean)
        run.score(
            "insertion", maps, lambda m: metrics.insertion(model, clean, m, labels, progress=False)
        )
    return result


Maps = dict[str, dict[str, Tensor]]  # method -> map's name -> [n, H, W]


@dataclass
class _Run:
    model: nn.Module
    methods: Sequence[str]
    tracers: Sequence[str]
    controls: Sequence[str]
    seed: int
    z_box: bool
    progress: Progress
    report: Callable[[str], object] | None
    trace_options: dict[str, Any]
    result: Evaluation

    def maps(self, images: Tensor, what: str) -> Maps:
        """All maps of the images."""
        labels = predictions(self.model, images)
        self._say(f"dense maps of {len(images)} {what}")
        maps = {
            method: {"dense": self._attribute(self.model, images, labels, method)}
            for method in self.methods
        }
        for tracer in self.tracers:
            self._say(f"{tracer} of {len(images)} {what}")
            own: dict[str, list[Tensor]] = {method: [] for method in self.methods}
            other: dict[str, list[Tensor]] = {method: [] for method in self.methods}
            controlled = tracer in self.controls and len(images) > 1
            for k, found in enumerate(self._traces(images, tracer)):
                after = (k + 1) % len(images)
                for method in self.methods:
                    own[method].append(
                        self._attribute(found.model, images[k : k + 1], labels[k : k + 1], method)
                    )
                    if controlled:
                        part = slice(after, after + 1)
                        other[method].append(
                            self._attribute(found.model, images[part], labels[part], method)
                        )
            for method in self.methods:
                maps[method][tracer] = torch.cat(own[method])
                if controlled:  # entry k belongs to image k + 1
                    maps[method][f"{tracer}, other image"] = torch.cat(other[method]).roll(1, 0)
        for by_map in maps.values():
            by_map["edges"] = baselines.edge_map(images)
            by_map["random"] = baselines.random_map(images, seed=self.seed)
        return maps

    def score(self, metric: str, maps: Maps, of: Callable[[Tensor], Tensor]) -> None:
        """Score all maps by one metric; those that are the same for every method once."""
        self._say(metric.replace("_", " "))
        start = time.perf_counter()
        first = next(iter(maps.values()))
        shared = {column: of(first[column]).cpu() for column in ("edges", "random")}
        self.result.scores[metric] = {
            method: {c: shared[c] if c in shared else of(m).cpu() for c, m in by_map.items()}
            for method, by_map in maps.items()
        }
        self._spend("metrics", time.perf_counter() - start)

    def _traces(self, images: Tensor, tracer: str) -> Iterator[Trace]:
        traces = trace_many(
            self.model, images, method=TRACERS[tracer], seed=self.seed, progress=self.progress,
            **self.trace_options,
        )  # fmt: skip
        for found in traces:
            for stage, seconds in found.timings.items():
                self._spend(f"{tracer}: {stage}", seconds)
            start = time.perf_counter()
            self.result.fidelity[tracer].append(short_fidelity(found))
            self._spend("fidelity", time.perf_counter() - start)
            yield found
        if tracer == self.tracers[0]:
            self.result.traces += len(images)

    def _attribute(self, model: nn.Module, images: Tensor, labels: Tensor, method: str) -> Tensor:
        start = time.perf_counter()
        parts = [
            image_map(model, images[k : k + 1], labels[k : k + 1], method, self.seed, self.z_box)
            for k in range(len(images))
        ]
        self._spend("maps", time.perf_counter() - start)
        return torch.cat(parts)

    def _spend(self, stage: str, seconds: float) -> None:
        self.result.seconds[stage] = self.result.seconds.get(stage, 0.0) + seconds

    def _say(self, line: str) -> None:
        if self.report is not None:
            self.report(line)
