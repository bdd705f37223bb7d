"""The search for a faithful trace: as sparse as possible while it answers as the dense model does.

Each layer gets the largest sparsity at which its relative error ||(W - W') X||^2 / ||W X||^2 stays within its budget.
Budgets are one number b times a weight per layer: the less an error of the layer's outputs moves the answer, the more
error it may have. Small budgets are tried first, and the search ends at the first with an unfaithful trace.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from spade_xai.models.copies import duplicate
from spade_xai.models.inputs import first_tensor, take
from spade_xai.models.layers import Layer
from spade_xai.tracing.packed import Packed
from spade_xai.tracing.prepared import PreparedLayers
from spade_xai.tracing.pruning.method import PrunedLayer
from spade_xai.tracing.verdict import Probe, Verdict, logits_of

LEVELS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)
"""The sparsities that a layer may get: those of the paper's grid and some between them."""

BUDGETS = tuple(0.003 * 2.0**k for k in range(-5, 8))
"""Relative errors of a layer of average weight, in the order of their size."""

FIRST = 0.003
"""The budget that is tried first: smaller ones only if it fails."""

MOST_ERROR = 0.5
"""Relative error that no layer may exceed, however little it moves the answer."""

AT_ONCE = 4  # inputs whose gradients are computed together


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
        probe: The dense model's answers.
        report: Called with (budgets tried, most that there are).
    """

    def __init__(
        self,
        function: str,
        model: nn.Module,
        layers: Sequence[Layer],
        prepared: PreparedLayers,
        probe: Probe,
        report: Callable[[int, int], object] | None = None,
    ) -> None:
        self.function, self.model, self.probe, self.report = function, model, probe, report
        self.layers = [layer for layer in layers if layer.name in prepared]
        self.prepared = prepared
        self.sparse = duplicate(model)
        self.known: dict[str, list[float]] = {}  # losses of all levels, of methods that know them
        self.written: dict[str, float] = {layer.name: 0.0 for layer in self.layers}
        self.solved: dict[tuple[str, float], tuple[PrunedLayer, Packed | None]] = {}
        self.tried = 0

    def run(self) -> Found:
        """Search."""
        method = self.prepared.method
        for layer in self.layers:
            losses = method.losses(self.prepared.get(layer.name), LEVELS)
            if losses is not None:
                self.known[layer.name] = losses
        shares = layer_weights(self.function, self.model, self.layers, self.probe)

        def ratios_at(budget: float) -> dict[str, float]:
            return self._levels({n: min(MOST_ERROR, budget * share) for n, share in shares.items()})

        dense = dict.fromkeys(shares, 0.0)
        best, best_budget, verdict = dense, 0.0, self.probe.judge(self.model)
        seen = [dense]
        start = BUDGETS.index(FIRST)
        up, down = BUDGETS[start:], BUDGETS[:start][::-1]
        failed: float | None = None
        for budget in up:
            ratios = ratios_at(budget)
            if ratios not in seen:
                seen.append(ratios)
                found = self._judge(ratios)
                if not found.faithful:
                    failed = budget
                    break
                best, verdict = ratios, found
            best_budget = budget
        if failed == FIRST:
            for budget in down:
                ratios = ratios_at(budget)
                if ratios not in seen and (found := self._judge(ratios)).faithful:
                    best, best_budget, verdict = ratios, budget, found
                    break
        elif failed is not None:
            between = (best_budget * failed) ** 0.5
            ratios = ratios_at(between)
            if ratios not in (*seen, best) and (found := self._judge(ratios)).faithful:
                best, best_budget, verdict = ratios, between, found
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
        return {0: 0.0, **{k: self._loss(name, LEVELS[k]) for k in levels}}

    def _loss(self, name: str, level: float) -> float:
        result, packed = self.solved[name, level]
        return float("inf") if packed is None else result.relative_loss

    def _solve(self, ratios: Mapping[str, float]) -> None:
        """Prune the layers that were not yet pruned to these ratios."""
        new = {
            name: ratio
            for name, ratio in ratios.items()
            if ratio > 0 and (name, ratio) not in self.solved
        }
        for name, result in self.prepared.prune(new).items():
            packed = None if result.weights is None else Packed.of(result.weights)
            self.solved[name, new[name]] = replace(result, weights=None), packed

    def _judge(self, ratios: Mapping[str, float]) -> Verdict:
        """The verdict on the model pruned to these ratios."""
        self._solve(ratios)
        for layer in self.layers:
            ratio = ratios[layer.name]
            if ratio != self.written[layer.name]:
                packed = self.solved[layer.name, ratio][1] if ratio > 0 else None
                dense = layer.read(self.model)
                layer.write(self.sparse, dense if packed is None else packed.weights().to(dense))
                self.written[layer.name] = ratio
        self.tried += 1
        if self.report is not None:
            self.report(min(self.tried, len(BUDGETS) - 1), len(BUDGETS))
        return self.probe.judge(self.sparse)

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
                results[name], weights = self.solved[name, ratio]
                if weights is not None:
                    packed[name] = weights
        return Found(ratios, results, packed, verdict, budget)


def layer_weights(
    function: str, model: nn.Module, layers: Sequence[Layer], probe: Probe
) -> dict[str, float]:
    """How much relative error each layer may have beside the others: 1 / s, over its geometric mean.

    s is how far errors of a layer's outputs y move the answer's log-odds m, if they are of the size of y and as
    large in every entry: s^2 = mean of |dm/dy|^2 |y|^2 / entries, over the sample and the inputs near it. A layer
    whose outputs cannot be seen gets 1.
    """
    outputs: dict[str, Tensor] = {}
    handles = []
    copied = duplicate(model)
    for layer in layers:
        module = copied.get_submodule(layer.modules[0])
        handles.append(module.register_forward_hook(_keep(layer.name, outputs)))
    sums: dict[str, list[Tensor]] = {layer.name: [] for layer in layers}
    try:
        for batch, answers in zip(probe.batches, probe.answers, strict=True):
            rows = min(len(first_tensor(batch)), 2 * AT_ONCE)
            for start in range(0, rows, AT_ONCE):
                part = slice(start, min(start + AT_ONCE, rows))
                per_row = len(answers) // len(first_tensor(batch))
                wanted = answers[part.start * per_row : part.stop * per_row]
                outputs.clear()
                with torch.enable_grad():
                    logits = logits_of(function, copied, take(batch, part))
                    moved = _gradients(_log_odds(logits, wanted).sum(), outputs)
                for name, (y, gradient) in moved.items():
                    entries = y.numel() // len(y)
                    size = y.double().flatten(1).square().sum(1) / entries
                    sums[name].append(gradient.double().flatten(1).square().sum(1) * size)
    finally:
        for handle in handles:
            handle.remove()
    found = {name: float(torch.cat(parts).mean()) for name, parts in sums.items() if parts}
    logs = {n: 0.5 * float(torch.tensor(v).double().log()) for n, v in found.items() if v > 0}
    mean = sum(logs.values()) / max(1, len(logs))
    return {x.name: _share(mean - logs[x.name]) if x.name in logs else 1.0 for x in layers}


def _share(log: float) -> float:
    """The exponential, where it is a usable number."""
    return float(torch.tensor(log).clamp(-20, 20).exp())


def _keep(name: str, outputs: dict[str, Tensor]) -> Callable[..., Any]:
    """Hook that keeps a module's output, from which on gradients are taken; what follows may overwrite a copy."""

    def hook(module: nn.Module, args: object, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) and output else output
        if not isinstance(first, Tensor) or not first.is_floating_point() or name in outputs:
            return None
        kept = first if first.requires_grad else first.detach().requires_grad_()
        outputs[name] = kept
        own = kept.clone()
        return (own, *output[1:]) if isinstance(output, tuple) else own

    return hook


def _log_odds(logits: Tensor, answers: Tensor) -> Tensor:
    """Log p - log(1 - p) of the answers."""
    own = logits.gather(-1, answers[:, None])[:, 0]
    others = logits.scatter(-1, answers[:, None], float("-inf"))
    return own - others.logsumexp(-1)


def _gradients(value: Tensor, outputs: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Of each output, itself and the value's gradient."""
    if not outputs or not value.requires_grad:
        return {}
    found = torch.autograd.grad(value, list(outputs.values()), allow_unused=True)
    return {
        name: (y.detach(), gradient)
        for (name, y), gradient in zip(outputs.items(), found, strict=True)
        if gradient is not None and len(y) > 0
    }
