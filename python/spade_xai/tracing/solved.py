"""The results of a search for sparsities: of each layer and level one, the weights of most of them packed."""

from dataclasses import replace

from torch import Tensor

from spade_xai.tracing.packed import Packed
from spade_xai.tracing.pruning.method import PrunedLayer


class Solved:
    """Pruned layers by name and ratio. The weights of each layer's last result are kept as they are, others packed."""

    def __init__(self) -> None:
        self._results: dict[tuple[str, float], PrunedLayer] = {}
        self._packed: dict[tuple[str, float], Packed] = {}
        self._last: dict[str, float] = {}

    def __contains__(self, key: tuple[str, float]) -> bool:
        return key in self._results

    def put(self, name: str, ratio: float, result: PrunedLayer) -> None:
        """Keep a result."""
        if name in self._last:
            self.packed(name, self._last[name])
        self._results[name, ratio] = result
        self._last[name] = ratio

    def relative_loss(self, name: str, ratio: float) -> float:
        """The relative error of a result; infinite if the layer cannot be pruned."""
        failed = self._results[name, ratio].weights is None and (name, ratio) not in self._packed
        return float("inf") if failed else self._results[name, ratio].relative_loss

    def weights(self, name: str, ratio: float) -> Tensor | None:
        """The weights of a result; None if the layer cannot be pruned."""
        packed = self._packed.get((name, ratio))
        return self._results[name, ratio].weights if packed is None else packed.weights()

    def packed(self, name: str, ratio: float) -> Packed | None:
        """The weights of a result, packed; from now on they are kept so."""
        result = self._results[name, ratio]
        if result.weights is not None:
            self._packed[name, ratio] = Packed.of(result.weights)
            self._results[name, ratio] = replace(result, weights=None)
        return self._packed.get((name, ratio))

    def result(self, name: str, ratio: float) -> PrunedLayer:
        """A result without its weights."""
        return replace(self._results[name, ratio], weights=None)
