"""Layers prepared for one sample, kept in memory or, where they do not fit, in a temporary folder."""

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import nn

from spade_xai.models.layers import Layer
from spade_xai.tracing.pruning.method import Prepared, PrunedLayer, PruningMethod


class PreparedLayers:
    """The layers of one sample that can be pruned to any sparsity.

    Args:
        method: That prepared them.
        damp: Damping asked for.
        dense: The model whose weights they have, for those that are read again from files.
        device: Where they are.
        in_files: Whether they are kept in files.
        max_scratch: As in PruningMethod.prepare.
    """

    def __init__(
        self,
        method: PruningMethod,
        damp: float,
        dense: nn.Module,
        device: torch.device,
        in_files: bool,
        max_scratch: int | None = None,
    ) -> None:
        self.method, self.damp, self.dense, self.device = method, damp, dense, device
        self.max_scratch = max_scratch
        self._held: dict[str, Prepared] = {}
        self._files: dict[str, tuple[Layer, Path]] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="spade-trace-") if in_files else None

    def __contains__(self, name: str) -> bool:
        return name in self._held or name in self._files

    @property
    def names(self) -> list[str]:
        """Of the layers."""
        return [*self._held, *self._files]

    def put(self, prepared: Prepared) -> None:
        """Keep a layer."""
        layer = prepared.layer
        if self._folder is None:
            self._held[layer.name] = prepared
            return
        path = Path(self._folder.name) / f"{len(self._files)}.safetensors"
        self.method.save(prepared, path)
        self._files[layer.name] = layer, path

    def get(self, name: str) -> Prepared:
        """A layer that was kept."""
        if name in self._held:
            return self._held[name]
        layer, path = self._files[name]
        return self.method.load(path, layer, layer.read(self.dense).to(self.device), self.damp)

    def settle(self) -> None:
        """Have layers in memory share what pruning to several ratios can share."""
        self._held = {name: self.method.settled(x) for name, x in self._held.items()}

    def prune(self, ratios: Mapping[str, float]) -> dict[str, PrunedLayer]:
        """Prune layers to ratios above 0; those in memory at once, so that what can run together does."""
        wanted = {name: ratio for name, ratio in ratios.items() if ratio > 0 and name in self}
        if self._folder is None:
            return self._prune(wanted, wanted)
        found: dict[str, PrunedLayer] = {}
        for name in wanted:
            found.update(self._prune([name], wanted))
        return found

    def _prune(self, names: Iterable[str], ratios: Mapping[str, float]) -> dict[str, PrunedLayer]:
        layers = [self.get(name) for name in names]
        own = [ratios[x.layer.name] for x in layers]
        results = self.method.prune(layers, own, max_scratch=self.max_scratch)
        return {x.layer.name: result for x, result in zip(layers, results, strict=True)}
