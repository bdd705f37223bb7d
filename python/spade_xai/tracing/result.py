"""A trace: the sparse model of one sample, what was pruned, and how close it is to the dense model."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spade_xai.models.copies import duplicate
from spade_xai.models.inputs import Inputs, call, check_count, first_tensor, move, rebatch
from spade_xai.models.layers import Layer
from spade_xai.tracing.augment import Augmentation, augmented, vary


@dataclass(frozen=True)
class LayerReport:
    """What happened to one layer.

    Attributes:
        name: Of the layer.
        rows: Outputs.
        cols: Inputs of one output (of one group).
        sparsity_asked: Ratio asked for.
        sparsity_got: Share of weights that are 0 now.
        loss: ||(W - W') X||^2 over the augmentations.
        relative_loss: loss / ||W X||^2.
        damp: Damping used, relative to the mean diagonal of the Hessian; 0 where nothing was pruned.
        seconds: Pruning time; of a batch of samples, an equal share.
        status: "pruned"; "damped": pruned with more damping than asked for; "dense": sparsity 0 asked for;
            "failed": left dense, as no damping made its Hessian positive definite; "unused": left dense, as the
            forward pass does not use it; "unsupported": left dense, as it is no layer that can be pruned.
        reason: Why a layer is left dense that no sparsity of 0 was asked for, and what can be done; otherwise empty.
    """

    name: str
    rows: int
    cols: int
    sparsity_asked: float
    sparsity_got: float
    loss: float
    relative_loss: float
    damp: float
    seconds: float
    status: str
    reason: str = ""


@dataclass(frozen=True)
class Packed:
    """Sparse weights [groups, rows, cols] as one bit a weight and the kept values.

    Attributes:
        shape: Of the weights.
        bits: Mask of kept weights, 8 a byte.
        values: Kept weights in row-major order.
    """

    shape: tuple[int, ...]
    bits: Tensor
    values: Tensor

    @classmethod
    def of(cls, weights: Tensor) -> "Packed":
        """Pack weights, where they are, into CPU memory; a weight is kept if it is not 0."""
        flat = weights.detach().flatten()
        mask = flat != 0
        bits = torch.from_numpy(np.packbits(mask.numpy())) if mask.is_cpu else pack_bits(mask).cpu()
        values = flat[mask]  # a copy
        return cls(tuple(weights.shape), bits, values.cpu())

    def mask(self) -> Tensor:
        """Kept weights, bool in the shape of the weights."""
        count = int(np.prod(self.shape))
        flat = np.unpackbits(self.bits.numpy(), count=count)
        return torch.from_numpy(flat).bool().reshape(self.shape)

    def weights(self) -> Tensor:
        """The weights."""
        out = torch.zeros(self.shape, dtype=self.values.dtype)
        out[self.mask()] = self.values
        return out


def pack_bits(mask: Tensor) -> Tensor:
    """np.packbits on the mask's device: [n] bool as [ceil(n / 8)] uint8, first entries in the highest bits."""
    padded = torch.nn.functional.pad(mask.to(torch.uint8), (0, -len(mask) % 8)).view(-1, 8)
    places = torch.arange(7, -1, -1, dtype=torch.uint8, device=mask.device)  # no copy to wait for
    return (padded << places).sum(1, dtype=torch.uint8)


@dataclass(frozen=True)
class Agreement:
    """How close sparse outputs are to dense ones.

    Attributes:
        label: Share of outputs with the same class of largest logit.
        cosine: Mean cosine of the logits after taking off their mean over classes.
        error: ||sparse - dense|| / ||dense|| of the logits, over all outputs.
        count: Outputs.
    """

    label: float
    cosine: float
    error: float
    count: int


@dataclass(frozen=True)
class Fidelity:
    """Agreement of the sparse with the dense model on the sample and on its augmentations."""

    sample: Agreement
    augmentations: Agreement


@dataclass
class Source:
    """What a trace was made from."""

    inputs: Inputs
    augment: Augmentation | None
    augmentations: int
    seed: int


@dataclass(eq=False)
class Trace:
    """A model pruned for one sample.

    Attributes:
        dense: The model it was made from; not modified.
        layers: Report of each layer in order of execution.
        settings: How it was made.
        timings: Seconds of the stages "augment", "forward", "hessian", "prune"; of a batch of samples, an equal
            share of the pruning.
    """

    dense: nn.Module
    layers: list[LayerReport]
    settings: dict[str, Any]
    timings: dict[str, float]
    _found: dict[str, Layer] = field(repr=False)
    _packed: dict[str, Packed] = field(repr=False)
    _source: Source | None = field(default=None, repr=False)

    @cached_property
    def model(self) -> nn.Module:
        """The sparse model, in eval mode: a copy of the dense one with the pruned weights."""
        return sparse_copy(
            self.dense, [(self._found[n], p.weights()) for n, p in self._packed.items()]
        )

    def masks(self) -> dict[str, Tensor]:
        """Kept weights of each pruned layer, bool in the shape of its weight."""
        return {n: self._found[n].shaped(p.mask()) for n, p in self._packed.items()}

    def agreement(self, other: "Trace") -> dict[str, float]:
        """Overlap of the masks with those of another trace, for each layer pruned in both.

        |A and B| / sqrt(|A| |B|) of the kept weights: 1 for equal masks; for random ones, the density (0.01 at
        sparsity 0.99). It is the mean dot product of masks over the density, as published.

        Raises:
            ValueError: A layer's shapes differ, or no layer was pruned in both.

        Source: appendix K of the paper's first version.
        """
        if not isinstance(other, Trace):
            raise TypeError(f"Trace.agreement: other must be a Trace, got {type(other).__name__}")
        shared = [name for name in self._packed if name in other._packed]
        if not shared:
            raise ValueError("Trace.agreement: other must have pruned a layer that this one did")
        result = {}
        for name in shared:
            a, b = self._packed[name], other._packed[name]
            if a.shape != b.shape:
                raise ValueError(
                    f"Trace.agreement: layer {name} must have shape {a.shape}, got {b.shape}"
                )
            product = len(a.values) * len(b.values)
            both = np.unpackbits(a.bits.numpy() & b.bits.numpy()).sum()
            result[name] = float(both) / product**0.5 if product else float(a.bits.equal(b.bits))
        return result

    def fidelity(
        self,
        sample: Any = None,
        *,
        augment: str | Augmentation | None = "auto",
        augmentations: int | None = None,
        seed: int = 0,
        batch_size: int = 64,
    ) -> Fidelity:
        """Compare the sparse model's outputs with the dense model's.

        Args:
            sample: Inputs; None takes those the trace was made for, with their augmentations.
            augment: For a given sample, as in trace.
            augmentations: How many; None takes as many as the trace was made of (64 for a given sample).
            seed: For a given sample: of its augmentations.
            batch_size: Inputs in one pass.

        Raises:
            ValueError: No sample given to a trace that was read from a file; a count below 1; logits that
                are not finite.
        """
        function = "Trace.fidelity"
        check_count(function, "batch_size", batch_size)
        if augmentations is not None:
            check_count(function, "augmentations", augmentations)
        source = self._source
        if sample is not None:
            source = Source(*vary(function, sample, augment), 64, seed)
        if source is None:
            raise ValueError(f"{function}: sample must be given for a trace read from a file")
        count = source.augmentations if augmentations is None else augmentations
        parts = augmented(function, source.inputs, source.augment, count, source.seed)
        dense, sparse = duplicate(self.dense), self.model
        with torch.no_grad():
            return Fidelity(
                _agreement(dense, sparse, [source.inputs]),
                _agreement(dense, sparse, rebatch(parts, batch_size)),
            )

    def save(self, path: Any) -> None:
        """Write masks, kept weights and reports as safetensors: to a temporary file beside path, then renamed.

        The file also holds a digest of each of the dense model's tensors, by which load_trace knows the model.
        """
        from spade_xai.tracing.file import save_trace

        save_trace(self, path)


def sparse_copy(dense: nn.Module, weights: list[tuple[Layer, Tensor]]) -> nn.Module:
    """A copy of the model in eval mode with other weights in some layers; it shares no tensor with the model."""
    sparse = duplicate(dense, share=False)
    for layer, weight in weights:
        layer.write(sparse, weight)
    return sparse


def _agreement(dense: nn.Module, sparse: nn.Module, batches: Any) -> Agreement:
    same = cosine = difference = norm = 0.0
    count = 0
    for batch in batches:
        a, b = (_logits(m, batch) for m in (dense, sparse))
        if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
            raise ValueError("Trace.fidelity: outputs must be finite, got NaN or Inf logits")
        same += float((a.argmax(-1) == b.argmax(-1)).sum())
        difference += float((a - b).square().sum())
        norm += float(a.square().sum())
        x, y = (v - v.mean(-1, keepdim=True) for v in (a, b))
        cosine += float(torch.cosine_similarity(x, y, dim=-1).sum())
        count += len(a)
    return Agreement(same / count, cosine / count, (difference / max(norm, 1e-300)) ** 0.5, count)


def _logits(model: nn.Module, batch: Inputs) -> Tensor:
    """The model's outputs, classes last, as float64 [N, classes]."""
    logits = call(model, move(batch, model))
    count = len(first_tensor(batch))
    if logits.ndim < 2 or len(logits) != count:
        raise ValueError(
            f"Trace.fidelity: model must give logits [B, classes], got shape {tuple(logits.shape)} "
            f"for a batch of {count}"
        )
    return logits.double().flatten(0, -2)
