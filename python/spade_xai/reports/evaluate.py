"""How good maps are before and after pruning: every figure with n, and differences of the same samples.

Maps of planted images are compared with the patch (AUROC, pointing game); maps of clean images by how fast the
pixels they name convince the dense model (insertion), and how fast it forgets its answer without them (deletion).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from spade_xai.attribution.methods import GRADIENT_METHODS
from spade_xai.measures import metrics
from spade_xai.measures.metrics import Estimate
from spade_xai.progress import Progress
from spade_xai.reports.controls import controls_of, partners
from spade_xai.reports.explain import check_tracers
from spade_xai.reports.plain import from_plain
from spade_xai.reports.records import Controls, Guests, Records, records_of
from spade_xai.reports.scores import Sample, Scores, Scoring
from spade_xai.tracing.fidelity import Fidelity

AVERAGE = "average"
"""Stands for the mean over methods of each sample."""

BLIND = ("edges", "random")
"""Maps that know nothing of the model; texts have no edges."""


@dataclass
class Evaluation:
    """Scores of each sample by metric, method and map, with fidelity and time."""

    scores: dict[str, dict[str, dict[str, Tensor]]]  # metric -> method -> map -> [n] on the CPU
    fidelity: dict[str, list[Fidelity]] = field(default_factory=dict)  # of each tracer's traces
    seconds: dict[str, float] = field(default_factory=dict)  # of each stage, all samples together
    traces: int = 0  # traces of each tracer
    faithful: dict[str, dict[str, list[bool]]] = field(
        default_factory=dict
    )  # metric -> tracer -> [n]

    def add(
        self, records: Records, methods: Sequence[str], controls: Controls | None = None
    ) -> None:
        """Add the samples that records are of.

        Args:
            records: The records of all samples.
            methods: Names of the saliency methods.
            controls: Scores after pruning for another image, of each tracer that has them; None: those of the records.
        """
        dense = records["dense"]
        if controls is None:
            controls = _controls(records)
        for metric in dense[0]["scores"]:
            by_method = self.scores.setdefault(metric, {})
            for method in methods:
                columns: dict[str, list[float]] = {}
                for part, made in records.items():
                    columns[part] = [record["scores"][metric][method] for record in made]
                    if part in controls:
                        other = [scores[metric][method] for scores in controls[part]]
                        columns[f"{part}, other image"] = other
                for name in BLIND:
                    if name in dense[0]:
                        columns[name] = [record[name][metric] for record in dense]
                by_method[method] = {
                    column: torch.tensor(values, dtype=torch.float64)
                    for column, values in columns.items()
                }
        for part, made in records.items():
            if part in self.fidelity:
                found = [from_plain(Fidelity, record["fidelity"]) for record in made]
                self.fidelity[part] += found
                for metric in dense[0]["scores"]:
                    kept = self.faithful.setdefault(metric, {}).setdefault(part, [])
                    kept += [fidelity.faithful for fidelity in found]
            for record in made:
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

    def rows_of_faithful(self) -> list[dict[str, Any]]:
        """As rows, for each tracer over the samples whose traces are faithful; none where no trace is."""
        found = []
        for metric, by_tracer in self.faithful.items():
            for tracer, faithful in by_tracer.items():
                at = torch.tensor(faithful)
                if not at.any():
                    continue
                for method in self.methods(metric):
                    own = self.values(metric, method, tracer)[at]
                    gain = metrics.paired(own, self.values(metric, method, "dense")[at])
                    found.append(_row(metric, method, tracer, metrics.mean(own), gain))
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Everything as flat rows for JSON."""
        return [
            _row(metric, method, column, mean, gain)
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

    The class explained is the one the dense model predicts. Blank pixels of insertion and deletion are 0 in
    the space of the model's inputs: the mean colour, if these are normalised.

    Args:
        model: Classifier. Not modified.
        planted: Images [n, 3, H, W], as the model takes them, and masks bool [n, H, W] of their patches; None: none.
        clean: Images [m, 3, H, W]; None: none.
        methods: Names in `METHODS`.
        tracers: Names in `explain.TRACERS`.
        controls: Tracers that are also tried as pruned for another image: of planted images a clean one, where those
            are given too, and in any case one that the dense model answers otherwise, if there is one.
        seed: The seed of augmentations, methods that sample, and noise.
        z_box: As in `explain.image_map`.
        progress: True for bars, or callback(stage, done, total).
        report: Called with a line as each step begins.
        **trace_options: Further arguments of `trace_many`: sparsity, augmentations, layers, group, ...

    Returns:
        Scores of each image; `mean` and `gain` give means and paired differences to the dense model, with standard
        errors.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spade_xai import evaluate
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        >>> images = torch.rand(2, 3, 8, 8)
        >>> found = evaluate(
        ...     model, clean=images, methods=["saliency"], tracers=["FastSPADE"], controls=[],
        ...     augmentations=16, sparsity=0.5, progress=False,
        ... )
        >>> found.gain("insertion", "saliency", "FastSPADE").n
        2
    """
    check_tracers("evaluate", [*tracers, *controls])
    if planted is None and clean is None:
        raise ValueError("evaluate: planted or clean must be given, got neither")
    scoring = Scoring(model, methods, seed, z_box, progress, trace_options)
    result = Evaluation({}, {tracer: [] for tracer in tracers})

    def records(
        what: str, samples: list[Sample], controls: Sequence[str], guests: Guests | None = None
    ) -> Records:
        say = None if report is None else functools.partial(_say, report, len(samples), what)
        return records_of(scoring, samples, tracers, controls, None, say, guests)

    plain = [] if clean is None else [Sample(x, None) for x in clean.split(1)]
    if planted is None:
        result.add(records("clean images", plain, controls), methods)
        return result
    patched = [Sample(x, mask) for x, mask in zip(planted[0].split(1), planted[1], strict=True)]
    of_patched = records("planted images", patched, () if plain else controls)
    if not plain:
        result.add(of_patched, methods)
        return result
    # The control of a planted image is the trace of a clean one.
    answers = [record["answer"] for record in of_patched["dense"]]

    def guests(others: Sequence[int]) -> list[tuple[int, Sample]]:
        return list(zip(controls_of(answers, others), patched, strict=True))

    of_plain = records("clean images", plain, controls, guests)
    others = [record["answer"] for record in of_plain["dense"]]
    scores: Controls = {}
    for part in dict.fromkeys(controls):
        waiting = [iter(_of_guests(record, len(plain))) for record in of_plain[part]]
        scores[part] = [next(waiting[place]) for place in controls_of(answers, others)]
    result.add(of_patched, methods, scores)
    result.add(of_plain, methods)
    return result


def _of_guests(record: Mapping[str, Any], samples: int) -> list[Scores]:
    """The scores after those of the partner, which a lone sample has not."""
    found: list[Scores] = record["following"]
    return found[1:] if samples > 1 else found


def _row(metric: str, method: str, column: str, mean: Estimate, gain: Estimate) -> dict[str, Any]:
    return {
        "metric": metric,
        "method": method,
        "map": column,
        "n": mean.n,
        "mean": mean.mean,
        "standard_error": mean.standard_error,
        "difference_to_dense": gain.mean,
        "difference_standard_error": gain.standard_error,
    }


def _controls(records: Records) -> Controls:
    """From the records of each sample's partner."""
    found: Controls = {}
    for part, made in records.items():
        if part != "dense" and made and made[0].get("following"):
            after = partners([record["answer"] for record in records["dense"]])
            scores = {after[k]: record["following"][0] for k, record in enumerate(made)}
            found[part] = [scores[k] for k in range(len(made))]
    return found


def _say(report: Callable[[str], object], count: int, what: str, part: str) -> None:
    report(f"{'dense maps' if part == 'dense' else part} of {count} {what}")
