"""Tuning the sparsity of each layer, from the last to the first, for a metric over a calibration set."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from typing_extensions import Unpack

from spade_ext.files import write_json
from spade_xai.measures.metrics import mean
from spade_xai.models.layers import Layer, check_pattern, fitting
from spade_xai.models.modes import outside_inference_mode
from spade_xai.progress import Stages
from spade_xai.tracing.options import TraceKeywords, TraceOptions, takes_trace_options
from spade_xai.tracing.run import TracingRun
from spade_xai.tracing.schedule import GRID, SPARSITY_FORMAT, check_ratio
from spade_xai.tuning.cache import SampleCache, temporary_folder
from spade_xai.tuning.identity import identity_of
from spade_xai.tuning.score_log import ScoreLog

Metric = Callable[[nn.Module, int], float]
"""Takes a sparse model and the index of the sample it was pruned for; higher is better."""


@dataclass(frozen=True)
class Candidate:
    """One ratio tried for one group of layers.

    Attributes:
        group: Names of the layers.
        ratio: Sparsity tried.
        mean: The mean of the metric over the samples.
        standard_error: The standard error of that mean; NaN for a single sample.
        chosen: Whether it was the best of the group.
    """

    group: tuple[str, ...]
    ratio: float
    mean: float
    standard_error: float
    chosen: bool


@dataclass(frozen=True)
class Tuned:
    """Ratios found.

    Attributes:
        sparsity: Ratio of each layer in order of execution.
        score: Mean of the metric with all of them.
        history: Every candidate in the order tried.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spade_xai import tune
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> image = torch.rand(1, 3, 4, 4)
        >>> def metric(sparse, index):  # higher is better
        ...     return -float((sparse(image) - model(image)).norm().detach())
        >>> tuned = tune(model, [image], metric, grid=[0.0, 0.5], augmentations=64, progress=False)
        >>> tuned.save("tuned.json")  # trace(..., sparsity="tuned.json") takes it
    """

    sparsity: dict[str, float]
    score: float
    history: list[Candidate]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write JSON that trace takes as sparsity: to a temporary file beside path, then renamed."""
        write_json(path, SPARSITY_FORMAT, asdict(self))


@takes_trace_options("sparsity")
def tune(
    model: nn.Module,
    samples: Iterable[Any],
    metric: Metric,
    *,
    grid: Sequence[float] = GRID,
    groups: Sequence[str | Sequence[str]] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    **options: Unpack[TraceKeywords],
) -> Tuned:
    """Choose each layer group's sparsity, last group first, by the mean metric over the samples.

    While a group is tuned, later groups have their chosen ratios and earlier ones are dense. Of equal means the
    lower ratio wins. Hessians and OBC orders are computed once per sample; a candidate costs the solve of its weights
    and one call of the metric. A ratio of 0 leaves the model as the last choice made it, and its score is not
    computed again.

    Args:
        model: As in trace. Not modified.
        samples: The calibration set, each as in trace; the paper uses 100, and 30 work. All are held in memory.
        metric: Called with the sparse model of a sample, in eval mode, and the sample's index; higher is better, such
            as the AUROC of a saliency map against the Trojan's mask. It must be deterministic and leave the model
            as it is.
        grid: Ratios to try.
        groups: Patterns, or lists of patterns, of the layers that share a ratio; layers that none takes stay dense.
            None: each layer is a group.
        checkpoint: File that every score is appended to as it comes. A run with the same arguments goes on
            where an interrupted one ended; one with others is refused.
        cache: Folder for Hessians and orders. None: the checkpoint's name with ".cache", or a temporary folder.
        **options: The fields of `TraceOptions` but sparsity. The metric gets sparse models on the device of model,
            whatever device says; stage "tune" of progress counts calls of the metric.

    Returns:
        Tuned.

    Raises:
        ValueError: An argument is not as above; the checkpoint belongs to another run; the metric is not finite.

    Source: section 3.2 and appendix B of the paper.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spade_xai import tune
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> image = torch.rand(1, 3, 4, 4)
        >>> def metric(sparse, index):  # higher is better
        ...     return -float((sparse(image) - model(image)).norm().detach())
        >>> tuned = tune(model, [image], metric, grid=[0.0, 0.5], augmentations=64, progress=False)
        >>> sorted(tuned.sparsity)
        ['1', '3']
    """
    held = list(samples)
    if not held:
        raise ValueError("tune: samples must hold at least one sample, got none")
    if not grid:
        raise ValueError("tune: grid must hold at least one ratio, got none")
    ratios = sorted({check_ratio("tune", "grid", ratio) for ratio in grid})
    given = replace(TraceOptions(**options, function="tune"), sparsity=1.0)
    with (
        Stages(given.progress) as stages,
        outside_inference_mode(),
        temporary_folder() as temporary,
    ):
        with torch.no_grad():
            run = TracingRun(model, held, given, stages)
        grouped = _groups(groups, run.layers)
        identity = identity_of(model, run, ratios, grouped, metric)
        log = ScoreLog(checkpoint, identity)
        folder = Path(cache) if cache is not None else None
        if folder is None:
            folder = Path(f"{os.fspath(checkpoint)}.cache" if checkpoint else temporary)
        store = SampleCache(folder, identity["inputs"], run, [x for g in grouped for x in g])
        return Search(run, store, log, metric, ratios, grouped).run_all()


def _groups(
    groups: Sequence[str | Sequence[str]] | None, layers: Sequence[Layer]
) -> list[list[Layer]]:
    if groups is None:
        return [[layer] for layer in layers]
    found: list[list[Layer]] = []
    taken: set[str] = set()
    for group in groups:
        patterns = [group] if isinstance(group, str) else list(group)
        for pattern in patterns:
            check_pattern(pattern, layers, (), "tune", "groups")
        names = {name for p in patterns for name in fitting([x.name for x in layers], p)}
        members = [x for x in layers if x.name in names]
        for layer in members:
            if layer.name in taken:
                raise ValueError(f"tune: groups must not overlap, {layer.name} is in two")
            taken.add(layer.name)
        found.append(members)
    place = {layer.name: i for i, layer in enumerate(layers)}
    return sorted(found, key=lambda members: place[members[-1].name])


class Search:
    """The search over groups, candidates and samples."""

    def __init__(
        self,
        run: TracingRun,
        store: SampleCache,
        log: ScoreLog,
        metric: Metric,
        ratios: Sequence[float],
        groups: list[list[Layer]],
    ) -> None:
        self.run, self.store, self.log, self.metric = run, store, log, metric
        self.ratios, self.groups = ratios, groups
        self.done = 0
        self.total = len(groups) * len(ratios) * len(run.sources)

    def run_all(self) -> Tuned:
        """Tune every group, last first."""
        chosen: dict[str, float] = {}
        history: list[Candidate] = []
        score = float("nan")
        before: list[float] | None = None  # of each sample, with the choices so far
        for index in reversed(range(len(self.groups))):
            members = self.groups[index]
            known = {0.0: before} if before is not None and 0.0 in self.ratios else {}
            scores = self._scores(index, chosen, known)
            best = max(self.ratios, key=lambda r: (sum(scores[r]), -r))
            names = tuple(layer.name for layer in members)
            for ratio in self.ratios:
                estimate = mean(scores[ratio])
                history.append(
                    Candidate(names, ratio, estimate.mean, estimate.standard_error, ratio == best)
                )
            chosen.update(dict.fromkeys(names, best))
            before = scores[best]
            score = sum(before) / len(before)
        order = [layer.name for layer in self.run.layers]
        return Tuned({name: chosen[name] for name in order if name in chosen}, score, history)

    def _scores(
        self, index: int, chosen: dict[str, float], known: dict[float, list[float]]
    ) -> dict[float, list[float]]:
        """Scores of each sample for each ratio of a group."""
        scores: dict[float, list[float]] = {ratio: [] for ratio in self.ratios}
        for sample in range(len(self.run.sources)):
            model: nn.Module | None = None
            for ratio in self.ratios:
                score = self.log.scores.get((index, ratio, sample))
                if score is None and ratio in known:
                    score = known[ratio][sample]
                if score is None:
                    if model is None:
                        model = self.store.model(sample, chosen)
                    for layer in self.groups[index]:
                        layer.write(model, self.store.weights(sample, layer, ratio))
                    score = float(self.metric(model, sample))
                    if score != score or abs(score) == float("inf"):
                        raise ValueError(
                            f"tune: metric must be finite, got {score} for sample {sample}"
                        )
                    self.log.add(index, ratio, sample, score)
                scores[ratio].append(score)
                self.done += 1
                self.run.stages.report("tune", self.done, self.total)
        return scores
