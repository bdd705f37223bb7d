"""The search for a faithful trace: as sparse as possible while it answers as the dense model does.

Each layer gets the largest sparsity at which its relative error ||(W - W') X||^2 / ||W X||^2 stays within its budget.
Budgets are one number b times a weight per layer: the less an error of the layer's outputs moves the answer, the more
error it may have. Budgets are tried upward from one that most samples pass, up to the first with an unfaithful trace;
where already that one fails, downward to the first with a faithful trace. One between the last two is tried in the end.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from spade_xai.models.layers import Layer
from spade_xai.tracing.layer_weights import layer_weights
from spade_xai.tracing.packed import Packed
from spade_xai.tracing.prepared import PreparedLayers
from spade_xai.tracing.pruning.method import PrunedLayer
from spade_xai.tracing.solved import Solved
from spade_xai.tracing.trial import Trial
from spade_xai.tracing.verdict import Verdict

LEVELS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)
"""The sparsities that a layer may get: those of the paper's grid and some between them."""

BUDGETS = tuple(0.003 * 2.0**k for k in range(-5, 8))
"""Relative errors of a layer of average weight, in the order of their size."""

FIRST = 0.012
"""The budget that is tried first: smaller ones only if it fails."""

MOST_ERROR = 0.5
"""Relative error that no layer may exceed, however little it moves the answer."""


@dataclass(frozen=True)
class Found:
    """A trace as the search leaves it.

    Attributes:
        ratios: The ratios of each prepared layer.
        results: The results of the layers that are pruned, or that cannot be.
        packed: Their weights.
        verdict: On the whole.
        budget: Relative error of a layer of average weight; 0 if nothing could be pruned.
    """

    ratios: dict[str, float]
    results: dict[str, PrunedLayer]
    packed: dict[str, Packed]
    verdict: Verdict
    budget: float


class FaithfulSearch:
    """One sample's search.

    Args:
        function: Named in errors.
        model: The dense model on the device of the run. Not modified.
        layers: The prepared ones, in order of execution.
        prepared: Each of them, for the sample.
        trial: Of these layers.
        report: Called with (budgets tried, most that there are).
    """

    def __init__(
        self,
        function: str,
        model: nn.Module,
        layers: Sequence[Layer],
        prepared: PreparedLayers,
        trial: Trial,
        report: Callable[[int, int], object] | None = None,
    ) -> None:
        self.function, self.model, self.trial, self.report = function, model, trial, report
        self.layers = [layer for layer in layers if layer.name in prepared]
        self.prepared = prepared
        self.known: dict[str, list[float]] = {}  # losses of all levels, of methods that know them
        self.written: dict[str, float] = {layer.name: 0.0 for layer in self.layers}
        self.solved = Solved()
        self.tried = 0

    def run(self) -> Found:
        """Search."""
        method = self.prepared.method
        self.prepared.settle()
        for layer in self.layers:
            losses = method.losses(self.prepared.get(layer.name), LEVELS)
            if losses is not None:
                self.known[layer.name] = losses
        shares = layer_weights(self.function, self.model, self.layers, self.trial.probe)

        def ratios_at(budget: float) -> dict[str, float]:
            return self._levels({n: min(MOST_ERROR, budget * share) for n, share in shares.items()})

        best, best_budget = dict.fromkeys(shares, 0.0), 0.0
        verdict = self.trial.dense_verdict()
        seen = [(best, True)]

        def holds(budget: float) -> bool:
            """Whether a budget gives a faithful trace, which is then the best."""
            nonlocal best, best_budget, verdict
            ratios = ratios_at(budget)
            known = next((fine for same, fine in seen if same == ratios), None)
            if known is None:
                found = self._judge(ratios)
                known = found.faithful
                seen.append((ratios, known))
                if known:
                    best, verdict = ratios, found
            if known:
                best_budget = budget
            return known

        start = BUDGETS.index(FIRST)
        failed = next((b for b in BUDGETS[start:] if not holds(b)), None)
        if failed == FIRST:
            below = BUDGETS[:start][::-1]
            lower = next((k for k, b in enumerate(below) if holds(b)), len(below))
            failed = FIRST if lower == 0 else below[lower - 1]
        if failed is not None and best_budget > 0:
            holds((best_budget * failed) ** 0.5)
        if self.report is not None:
            self.report(len(BUDGETS), len(BUDGETS))
        return self._found(best, verdict, best_budget)

    def _levels(self, bounds: Mapping[str, float]) -> dict[str, float]:
        """The largest level of each layer whose loss is within its bound.

        Losses rise with the level, so that of levels that cost a sweep each few are looked at.
        """
        while True:
            found, between = {}, {}
            for name, bound in bounds.items():
                losses = self._losses(name)
                within = max(k for k, loss in losses.items() if k == 0 or loss <= bound)
                above = min((k for k in losses if k > within), default=len(LEVELS))
                found[name] = LEVELS[within]
                if above - within > 1:
                    between[name] = LEVELS[(within + above) // 2]
            if not between:
                return found
            self._solve(between)

    def _losses(self, name: str) -> dict[int, float]:
        """The losses of a layer that are known, by the place of the level; that of level 0 is."""
        if name in self.known:
            return dict(enumerate(self.known[name]))
        levels = [k for k, level in enumerate(LEVELS) if (name, level) in self.solved]
        return {0: 0.0, **{k: self.solved.relative_loss(name, LEVELS[k]) for k in levels}}

    def _solve(self, ratios: Mapping[str, float]) -> None:
        """Prune the layers that were not yet pruned to these ratios."""
        new = {
            name: ratio
            for name, ratio in ratios.items()
            if ratio > 0 and (name, ratio) not in self.solved
        }
        for name, result in self.prepared.prune(new).items():
            self.solved.put(name, new[name], result)

    def _judge(self, ratios: Mapping[str, float]) -> Verdict:
        """The verdict on the model pruned to these ratios."""
        self._solve(ratios)
        for layer in self.layers:
            ratio = ratios[layer.name]
            if ratio != self.written[layer.name]:
                weights = self.solved.weights(layer.name, ratio) if ratio > 0 else None
                self.trial.write(layer, weights)
                self.written[layer.name] = ratio
        self.tried += 1
        if self.report is not None:
            self.report(min(self.tried, len(BUDGETS) - 1), len(BUDGETS))
        return self.trial.judge()

    def _found(
        self,
        ratios: dict[str, float],
        verdict: Verdict,
        budget: float,
    ) -> Found:
        hopeless = {name: LEVELS[1] for name in ratios if self._losses(name).get(1) == float("inf")}
        self._solve(hopeless)
        results: dict[str, PrunedLayer] = {}
        packed: dict[str, Packed] = {}
        for name, ratio in (ratios | hopeless).items():
            if ratio > 0:
                results[name] = self.solved.result(name, ratio)
                weights = self.solved.packed(name, ratio)
                if weights is not None:
                    packed[name] = weights
        return Found(ratios, results, packed, verdict, budget)
