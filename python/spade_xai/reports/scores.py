"""Scores of the maps of one sample: of the dense model, and of the traces of the sample and of another one."""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from spade_xai.measures import baselines, metrics
from spade_xai.progress import Progress
from spade_xai.reports.explain import image_map, short_fidelity
from spade_xai.tracing.pruning.registry import TRACERS
from spade_xai.tracing.result import Trace
from spade_xai.tracing.trace import trace, trace_many
from spade_xai.trojans.trojan import predictions

CURVES = {"insertion": metrics.insertion, "deletion": metrics.deletion}
"""What scores a map without a mask."""

Scores = dict[str, dict[str, float]]
"""Metric -> method -> score."""


class Sample(NamedTuple):
    """One image to score maps of."""

    x: Tensor  # [1, 3, H, W], as the model takes it
    mask: (
        Tensor | None
    )  # bool [H, W] of the patch: AUROC and pointing game; None: insertion and deletion


class Work(NamedTuple):
    """A sample to trace."""

    place: int
    sample: Any  # an image's `Sample`, or the `Tokens` of a text
    following: Sequence[Any] = ()  # whose maps are scored after pruning for this one, as control


@dataclass(frozen=True)
class Scorer:
    """How maps are made and scored; see `evaluate`. What a sample is, and how its maps are scored, a subclass says.

    `trace_options` are those of `trace_many`; with "sequential" each sample is traced alone, layer after layer.
    """

    model: nn.Module
    methods: Sequence[str]
    seed: int
    z_box: bool
    progress: Progress
    trace_options: Mapping[str, Any]
    first: int = 0  # place of the first sample in the whole set, from which the noise is drawn

    def dense(self, index: int, sample: Any) -> dict[str, Any]:
        """Scores of the dense model's maps and of controls that know nothing of it, as JSON takes them."""
        raise NotImplementedError

    def _answer(self, sample: Any) -> Any:
        """The class that the dense model answers, which maps explain."""
        raise NotImplementedError

    def _map(self, model: nn.Module, sample: Any, label: Any, method: str) -> Tensor:
        """The map of a model for a class."""
        raise NotImplementedError

    def _score(self, found: Tensor, sample: Any) -> dict[str, float]:
        """Scores of a map by metric."""
        raise NotImplementedError

    def _scores(self, model: nn.Module, sample: Any, seconds: dict[str, float]) -> Scores:
        """Of the maps of a model for the class that the dense model answers."""
        label = self._answer(sample)
        result: Scores = {}
        for method in self.methods:
            start = time.perf_counter()
            found = self._map(model, sample, label, method)
            middle = time.perf_counter()
            for metric, value in self._score(found, sample).items():
                result.setdefault(metric, {})[method] = value
            seconds["maps"] = seconds.get("maps", 0.0) + middle - start
            seconds["metrics"] = seconds.get("metrics", 0.0) + time.perf_counter() - middle
        return result

    def traced(self, tracer: str, work: Iterable[Work]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Index and scores of each sample after pruning for it, in order; samples are read a group at a time."""
        read: deque[Work] = deque()

        def samples() -> Iterator[Any]:
            for item in work:
                read.append(item)
                yield item.sample.x

        for found in self._traces(TRACERS[tracer], samples()):
            place, sample, following = read.popleft()
            seconds = {f"{tracer}: {stage}": value for stage, value in found.timings.items()}
            start = time.perf_counter()
            fidelity = asdict(short_fidelity(found))
            seconds["fidelity"] = time.perf_counter() - start
            record: dict[str, Any] = {
                "scores": self._scores(found.model, sample, seconds),
                "fidelity": fidelity,
            }
            record["following"] = [self._scores(found.model, x, seconds) for x in following]
            yield place, {**record, "seconds": seconds}

    def of(self, network: nn.Module, sample: Any) -> dict[str, Any]:
        """Scores of another network's maps, as JSON takes them."""
        seconds: dict[str, float] = {}
        return {"scores": self._scores(network, sample, seconds), "seconds": seconds}

    def _traces(self, method: str, samples: Iterator[Any]) -> Iterator[Trace]:
        """The trace of each sample, in order."""
        options = {
            **self.trace_options,
            "method": method,
            "seed": self.seed,
            "progress": self.progress,
        }
        if options.pop("sequential", False):
            return (trace(self.model, x, sequential=True, **options) for x in samples)
        return trace_many(self.model, samples, **options)


@dataclass(frozen=True)
class Scoring(Scorer):
    """How maps of images are made and scored."""

    def dense(self, index: int, sample: Sample) -> dict[str, Any]:
        """Scores of the dense model's maps, of edges and of noise, as JSON takes them."""
        seconds: dict[str, float] = {}
        scores = self._scores(self.model, sample, seconds)
        start = time.perf_counter()
        edges = self._score(baselines.edge_map(sample.x.cpu()), sample)
        noise = self._score(
            baselines.random_map(sample.x.cpu(), seed=self.seed + self.first + index), sample
        )
        seconds["metrics"] += time.perf_counter() - start
        answer = int(predictions(self.model, sample.x))
        return {
            "scores": scores, "edges": edges, "random": noise, "answer": answer, "seconds": seconds,
        }  # fmt: skip

    def _answer(self, sample: Sample) -> Tensor:
        return predictions(self.model, sample.x)

    def _map(self, model: nn.Module, sample: Sample, label: Tensor, method: str) -> Tensor:
        return image_map(model, sample.x, label, method, self.seed, self.z_box)

    def _score(self, found: Tensor, sample: Sample) -> dict[str, float]:
        """Scores of a map [1, H, W] by metric."""
        if sample.mask is None:
            label = predictions(self.model, sample.x)
            there = found.to(sample.x.device)
            return {
                name: float(measure(self.model, sample.x, there, label, progress=False))
                for name, measure in CURVES.items()
            }
        mask = sample.mask[None]
        return {
            "auroc": float(metrics.auroc(found, mask)),
            "pointing_game": float(metrics.pointing_game(found, mask)),
        }
