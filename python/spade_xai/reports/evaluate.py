"""How good maps are before and after pruning: every figure with n, and differences of the same samples.

Maps of planted images are compared with the patch (AUROC, pointing game); maps of clean images by how fast the
pixels they name convince the dense model (insertion).
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from spade_xai.attribution.methods import GRADIENT_METHODS
from spade_xai.measures import metrics
from spade_xai.measures.metrics import Estimate
from spade_xai.progress import Progress
from spade_xai.reports.explain import check_tracers
from spade_xai.reports.plain import from_plain
from spade_xai.reports.scores import Sample, Scoring, Work
from spade_xai.tracing.fidelity import Fidelity

AVERAGE = "average"
"""Stands for the mean over methods of each sample."""


@dataclass
class Evaluation:
    """Scores of each sample by metric, method and map, with fidelity and time."""

    scores: dict[str, dict[str, dict[str, Tensor]]]  # metric -> method -> map -> [n] on the CPU
    fidelity: dict[str, list[Fidelity]] = field(default_factory=dict)  # of each tracer's traces
    seconds: dict[str, float] = field(default_factory=dict)  # of each stage, all samples together
    traces: int = 0  # traces of each tracer

    def add(self, records: "Records", methods: Sequence[str]) -> None:
        """Add the samples that records are of."""
        dense = records["dense"]
        for metric in dense[0]["scores"]:
            by_method = self.scores.setdefault(metric, {})
            for method in methods:
                columns: dict[str, list[float]] = {}
                for part, made in records.items():
                    columns[part] = [record["scores"][metric][method] for record in made]
                    if part != "dense" and "following" in made[0]:  # of the sample after each
                        after = [record["following"][metric][method] for record in made]
                        columns[f"{part}, other image"] = [after[-1], *after[:-1]]
                for name in ("edges", "random"):
                    columns[name] = [record[name][metric] for record in dense]
                by_method[method] = {
                    column: torch.tensor(values, dtype=torch.float64)
                    for column, values in columns.items()
                }
        for part, made in records.items():
            for record in made:
                if part != "dense":
                    self.fidelity[part].append(from_plain(Fidelity, record["fidelity"]))
                for stage, seconds in record["seconds"].items():
                    self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        self.traces += len(dense)

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
    scoring = Scoring(model, methods, seed, z_box, progress, trace_options)
    result = Evaluation({}, {tracer: [] for tracer in tracers})
    groups: list[tuple[str, list[Sample]]] = []
    if planted is not None:
        pairs = zip(planted[0].split(1), planted[1], strict=True)
        groups.append(("planted images", [Sample(x, mask) for x, mask in pairs]))
    if clean is not None:
        groups.append(("clean images", [Sample(x, None) for x in clean.split(1)]))
    for what, samples in groups:
        say = None if report is None else functools.partial(_say, report, len(samples), what)
        result.add(records_of(scoring, samples, tracers, controls, None, say), methods)
    return result


Records = dict[str, list[dict[str, Any]]]
"""Part ("dense" or a tracer) -> record of each sample."""


class Store(Protocol):
    """Records that were made before; see `records_of`."""

    def known(self, part: str, work: Work) -> dict[str, Any] | None:
        """The record of a part of a sample, if it is there."""

    def keep(self, part: str, work: Work, record: dict[str, Any]) -> None:
        """Note a record."""


def records_of(
    scoring: Scoring,
    samples: Sequence[Sample],
    tracers: Sequence[str],
    controls: Sequence[str],
    store: Store | None = None,
    say: Callable[[str], object] | None = None,
) -> Records:
    """Records of every sample by part; those in the store are not made again.

    Args:
        scoring: How maps are made and scored.
        samples: Read when they are needed, more than once.
        tracers: Names in `explain.TRACERS`.
        controls: As in `evaluate`.
        store: Where records come from and go to as they are made; None: nowhere.
        say: Called with each part as it begins.
    """
    result: Records = {}
    for part in ("dense", *tracers):
        if say is not None:
            say(part)
        controlled = part in controls and len(samples) > 1
        found: dict[int, dict[str, Any]] = {}
        read: dict[int, Work] = {}

        def missing(
            part: str = part,
            controlled: bool = controlled,
            found: dict[int, dict[str, Any]] = found,
            read: dict[int, Work] = read,
        ) -> Iterator[Work]:
            for index in range(len(samples)):
                following = samples[(index + 1) % len(samples)] if controlled else None
                work = Work(index, samples[index], following)
                record = None if store is None else store.known(part, work)
                if record is None:
                    read[index] = work
                    yield work
                else:
                    found[index] = record

        if part == "dense":
            made: Iterator[tuple[int, dict[str, Any]]] = (
                (work.place, scoring.dense(work.place, work.sample)) for work in missing()
            )
        else:
            made = scoring.traced(part, missing())
        for index, record in made:
            found[index], work = record, read.pop(index)
            if store is not None:
                store.keep(part, work, record)
        result[part] = [found[index] for index in range(len(samples))]
    return result


def _say(report: Callable[[str], object], count: int, what: str, part: str) -> None:
    report(f"{'dense maps' if part == 'dense' else part} of {count} {what}")
