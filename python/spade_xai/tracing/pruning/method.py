"""What a pruning method is: how it prepares a layer for one sample, prunes it to any sparsity, and what that takes."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from spade_ext.files import read_tensors, write_tensors
from spade_xai.models.layers import Layer

Report = Callable[[int, int], object]
"""Takes how much of a long elimination is done, and its total."""

FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class Prepared:
    """A layer of one sample, from which the method prunes it to any sparsity.

    Attributes:
        layer: The layer.
        weight: Its weights [G, R, D]. Not modified.
        hessian: [G, D, D] of the sample. Not modified.
        damp: Damping asked for, relative to the mean diagonal.
    """

    layer: Layer
    weight: Tensor
    hessian: Tensor
    damp: float

    @cached_property
    def whole(self) -> Tensor:
        """||W X||^2 over the augmentations, float64."""
        return layer_error(self.weight, self.hessian)


@dataclass(frozen=True)
class PrunedLayer:
    """A layer pruned for one sample.

    Attributes:
        weights: [groups, rows / groups, cols]; None if no damping made the Hessian positive definite, or it is out of
            the range of its dtype.
        damp: Damping that was used, the largest of the groups.
        loss: ||(W - W') X||^2 over the augmentations.
        relative_loss: loss / ||W X||^2.
    """

    weights: Tensor | None
    damp: float
    loss: float
    relative_loss: float


class PruningMethod(ABC):
    """How layers are pruned for a sample.

    A subclass is one file of this folder. Only prune_layer, or prune for layers that run together, and the bytes of
    pruning must be written; the rest has defaults that suit a method which needs nothing but weights and Hessians.

    Attributes:
        name: The name of the method, as `trace(method=...)` takes it.
        title: The paper's name of it, as commands and reports call it.
        aliases: Further names.
        place: In lists of all methods.
        samples_together: Whether several samples are pruned at once with gain, as trace_many does.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    place: ClassVar[int] = 100
    samples_together: ClassVar[bool] = False

    def prepare(
        self,
        layer: Layer,
        weight: Tensor,
        hessian: Tensor,
        damp: float,
        progress: Report | None = None,
        max_scratch: int | None = None,
    ) -> Prepared:
        """Do once what every sparsity needs.

        Args:
            layer: The layer.
            weight: [G, R, D]. Not modified.
            hessian: [G, D, D]. Not modified.
            damp: Damping relative to the mean diagonal.
            progress: Callback(done, total) of a long elimination.
            max_scratch: Bytes of scratch that a native call on a CUDA device may take; None: half of what is available.
        """
        return Prepared(layer, weight, hessian, damp)

    def prune(
        self,
        prepared: Sequence[Prepared],
        ratios: Sequence[float],
        progress: Report | None = None,
        max_scratch: int | None = None,
    ) -> list[PrunedLayer]:
        """Prune each of the prepared layers to its ratio in [0, 1].

        Args:
            prepared: Any layers and samples, those of a layer side by side. What can run together does.
            ratios: As many.
            progress: Callback(done, total).
            max_scratch: As in prepare.
        """
        results = []
        for i, (x, ratio) in enumerate(zip(prepared, ratios, strict=True)):
            results.append(self.prune_layer(x, ratio, max_scratch))
            if progress is not None:
                progress(i + 1, len(prepared))
        return results

    def prune_layer(
        self, prepared: Prepared, ratio: float, max_scratch: int | None = None
    ) -> PrunedLayer:
        """Prune one prepared layer to its ratio in [0, 1]."""
        raise NotImplementedError(
            f"{type(self).__name__}: neither prune_layer nor prune is written"
        )

    def losses(self, prepared: Prepared, ratios: Sequence[float]) -> list[float] | None:
        """||(W - W') X||^2 / ||W X||^2 at each ratio, where it is known without pruning; else None."""
        return None

    def settled(self, prepared: Prepared) -> Prepared:
        """The layer with what prunings to several ratios can share. Not called for a layer that is pruned once."""
        return prepared

    @abstractmethod
    def pruning_bytes(self, layer: Layer, samples: int) -> int:
        """Bytes that pruning a layer on the CPU for so many samples takes beside its Hessians."""

    @abstractmethod
    def cuda_pruning_bytes(self, layers: Sequence[Layer], samples: int) -> int:
        """As pruning_bytes, on CUDA and without the scratch memory of the native calls."""

    def operations(self, layer: Layer) -> float:
        """About how many operations pruning a layer takes, but for a factor: of a rough estimate of time.

        R D^2 for a sweep over the weights by a Hessian, and D^3 for its factor.
        """
        return float(layer.rows) * layer.cols**2 + float(layer.groups) * layer.cols**3

    def kept_bytes(self, layer: Layer) -> int:
        """Bytes of a prepared layer beside its weight and Hessian."""
        return 0

    def least_scratch(self, layer: Layer, device: torch.device) -> int:
        """Bytes of scratch that the native calls of a layer take on a CUDA device at least."""
        return 0

    @property
    def file_format(self) -> str:
        """Of the files that save writes."""
        return f"spade_xai.Prepared.{self.name}.1"

    def together(self, device: torch.device) -> bool:
        """Whether layers share launches on the device; if not, each frees its Hessians before the next."""
        return False

    def save(self, prepared: Prepared, path: str | os.PathLike[str]) -> None:
        """Write what load needs, whole or not at all."""
        write_tensors("tune", path, self.file_format, {"hessian": prepared.hessian})

    def load(
        self, path: str | os.PathLike[str], layer: Layer, weight: Tensor, damp: float
    ) -> Prepared:
        """Read what save wrote, for the same weight, onto its device."""
        tensors, _ = read_tensors("tune", path, self.file_format)
        return Prepared(layer, weight, tensors["hessian"].to(weight.device), damp)


def hessian_bytes(layer: Layer, itemsize: int = FLOAT32) -> int:
    """Bytes of a layer's Hessians."""
    return layer.groups * layer.cols**2 * itemsize


def all_finite(hessians: Sequence[Tensor]) -> list[bool]:
    """Whether finite inputs have overflowed no entry of each; the largest are on the diagonal."""
    finite = [h.diagonal(dim1=-2, dim2=-1).isfinite().all() for h in hessians]
    found: list[bool] = torch.stack(finite).tolist() if finite else []
    return found


def layer_losses(prepared: Prepared, pruned: Tensor) -> Tensor:
    """||(W - W') X||^2 and ||W X||^2 [2] float64."""
    error = prepared.weight.to(prepared.hessian.dtype) - pruned.to(prepared.hessian.dtype)
    return torch.stack([layer_error(error, prepared.hessian), prepared.whole])


def layer_error(difference: Tensor, hessian: Tensor) -> Tensor:
    """||D X||^2 float64 of a change D of the weights, by tr(D H D^T); scaled so that no H overflows."""
    mean = hessian.diagonal(dim1=-2, dim2=-1).mean(dtype=torch.float64)
    scale = torch.ldexp(torch.ones_like(mean), torch.frexp(mean)[1] // 2)
    d = difference.to(hessian.dtype) / scale
    return ((d @ hessian) * d).sum(dtype=torch.float64).clamp_min(0) * scale * scale


def pruned_layer(weights: Tensor, damp: float, losses: Sequence[float]) -> PrunedLayer:
    """The result with what layer_losses gave."""
    loss, whole = losses
    return PrunedLayer(weights, damp, loss, loss / whole if whole > 0 else 0.0)


def failed_layer(damp: float) -> PrunedLayer:
    """The result of a layer whose Hessian no damping makes positive definite."""
    return PrunedLayer(None, max(1.0, damp), 0.0, 0.0)
