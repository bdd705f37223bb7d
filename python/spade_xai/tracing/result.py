"""A trace: the sparse model of one sample, what was pruned, and how close it is to the dense model."""

import os
import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from spade_xai.models.copies import duplicate
from spade_xai.models.inputs import check_count, device_of
from spade_xai.models.layers import Layer
from spade_xai.models.modes import outside_inference_mode
from spade_xai.tracing.augment import Augmentation, vary
from spade_xai.tracing.copies import sparse_copy, working_copy
from spade_xai.tracing.faithful import FaithfulSearch
from spade_xai.tracing.fidelity import Fidelity, compare
from spade_xai.tracing.file import read_trace, save_trace
from spade_xai.tracing.layer_report import LayerReport, left_report, pruned_report
from spade_xai.tracing.packed import Packed
from spade_xai.tracing.prepared import PreparedLayers
from spade_xai.tracing.pruning.method import PrunedLayer
from spade_xai.tracing.sample import TracedSample, default_batch_size
from spade_xai.tracing.schedule import FAITHFUL, Sparsity, resolve_sparsity
from spade_xai.tracing.trial import Trial
from spade_xai.tracing.verdict import Probe, Verdict
from spade_xai.tracing.view import as_html, figure_of_trace, image_of, in_lines

if TYPE_CHECKING:
    from spade_xai.reports.figure import Picture


@dataclass(eq=False)
class Trace:
    """A model pruned for one sample.

    Attributes:
        dense: The model it was made from; not modified.
        layers: Report of each layer in order of execution.
        settings: How it was made.
        timings: Seconds of the stages "augment", "forward", "hessian", "prune", "fidelity"; of a batch of samples, an
            equal share.
        verdict: Whether it answers as the dense model does; None of a trace from an older file.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spade_xai import trace
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> image = torch.rand(1, 3, 4, 4)
        >>> result = trace(model, image, sparsity=0.5, augmentations=64, progress=False)
        >>> logits = result.model(image)  # a plain module, pruned
        >>> result.masks()["1"].shape  # which weights are kept
        torch.Size([16, 48])
        >>> sparser = result.at(0.75)  # from the same elimination
        >>> sparser.layers[0].sparsity_got
        0.75
        >>> answers_alike = sparser.faithful
    """

    dense: nn.Module
    layers: list[LayerReport]
    settings: dict[str, Any]
    timings: dict[str, float]
    verdict: Verdict | None
    _found: dict[str, Layer] = field(repr=False)
    _packed: dict[str, Packed] = field(repr=False)
    _forward: dict[str, Any] | None = field(default=None, repr=False)
    _source: TracedSample | None = field(default=None, repr=False)
    _prepared: PreparedLayers | None = field(default=None, repr=False)

    @property
    def faithful(self) -> bool:
        """Whether the trace answers as the dense model does, on the sample and near it; see fidelity."""
        return self.verdict is None or self.verdict.faithful

    @cached_property
    def model(self) -> nn.Module:
        """The sparse model, in eval mode: a copy of the dense one with the pruned weights."""
        return sparse_copy(
            self.dense, [(self._found[n], p.weights()) for n, p in self._packed.items()]
        )

    def masks(self) -> dict[str, Tensor]:
        """Kept weights of each pruned layer, bool in the shape of its weight, as torch.nn.utils.prune takes them.

        Of the projections of an attention that lie in one parameter, each has the shape of its part.
        """
        return {n: self._found[n].shaped(p.mask()) for n, p in self._packed.items()}

    def at(self, sparsity: Sparsity) -> "Trace":
        """The trace at any other sparsity, from the same Hessians and eliminations.

        Args:
            sparsity: As in `trace`.

        Raises:
            ValueError: The trace does not hold its eliminations: it comes from trace_many, from a file, or from a
                sequential run.
        """
        function = "Trace.at"
        kept, source = self._prepared, self._source
        if kept is None or source is None:
            raise ValueError(
                f"{function}: the trace must come from spade_xai.trace(), without sequential=True; "
                "others do not keep what another sparsity is made from"
            )
        start = time.perf_counter()
        layers = [layer for name, layer in self._found.items() if name in kept]
        with outside_inference_mode(), torch.no_grad():
            dense = working_copy(function, self.dense, kept.device)
            packed: dict[str, Packed]
            results: dict[str, PrunedLayer]
            if sparsity == FAITHFUL:
                trial = Trial(function, dense, layers, source)
                found = FaithfulSearch(function, dense, layers, kept, trial).run()
                ratios, results, packed, verdict = (
                    found.ratios, found.results, found.packed, found.verdict,
                )  # fmt: skip
            else:
                ratios = resolve_sparsity(function, sparsity, layers, list(self._found.values()))
                results = kept.prune(ratios)
                packed = {
                    name: Packed.of(x.weights)
                    for name, x in results.items()
                    if x.weights is not None
                }
                verdict = Probe(function, dense, source).judge(
                    sparse_copy(dense, [(self._found[n], p.weights()) for n, p in packed.items()])
                )
        seconds = (time.perf_counter() - start) / max(1, len(results))
        reports = []
        for old in self.layers:
            name = old.name
            if name in results:
                report = pruned_report(
                    self._found[name], ratios[name], results[name], packed.get(name), dense,
                    kept.damp, seconds,
                )  # fmt: skip
            elif name in ratios:
                report = left_report(self._found[name], ratios[name], "dense", dense)
            else:
                report = old
            reports.append(report)
        return replace(
            self, layers=reports, verdict=verdict, _packed=packed, timings=dict(self.timings)
        )

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
        batch_size: int | None = None,
    ) -> Fidelity:
        """Compare the sparse model's outputs with the dense model's.

        The result's `faithful` says whether the trace answers as the dense model does: it must give the sample the
        same class with at least half of the probability, and so for three quarters of eight inputs near it (noise,
        shifts by a few pixels, mild crops) that the dense model answers as the sample itself.

        Args:
            sample: Inputs; None takes those the trace was made for, with their augmentations.
            augment: For a given sample, as in trace.
            augmentations: How many; None takes as many as the trace was made of (64 for a given sample).
            seed: For a given sample: of its augmentations.
            batch_size: Inputs in one pass; None: as many as `trace` takes by default.

        Raises:
            ValueError: No sample given to a trace that was read from a file; a count below 1; logits that
                are not finite or do not fit the batch.
        """
        function = "Trace.fidelity"
        if batch_size is not None:
            check_count(function, "batch_size", batch_size)
        if augmentations is not None:
            check_count(function, "augmentations", augmentations)
        source = self._source
        if sample is not None:
            source = TracedSample(*vary(function, sample, augment), 64, seed)
        if source is None:
            raise ValueError(f"{function}: sample must be given for a trace read from a file")
        count = source.augmentations if augmentations is None else augmentations
        size = batch_size or default_batch_size(source.inputs, device_of(self.model))
        source = replace(source, batch_size=size)
        return compare(duplicate(self.dense), self.model, source, count)

    def plot(self, method: str = "saliency", target: int | None = None) -> "Picture":
        """Draw the sparsity of each layer, and of an image the maps of the dense and of the sparse model.

        Args:
            method: A saliency method, a name in METHODS.
            target: The class to explain; None: the dense model's answer.

        Returns:
            A figure of matplotlib. Notebooks show it, and `savefig` writes it. A trace read from a file, or of another
            sample than an image, has the sparsities alone.
        """
        image = image_of(self._source)
        return figure_of_trace(self.dense, self.model, self.layers, image, method, target)

    def __repr__(self) -> str:
        return "\n".join(in_lines(self.settings, self.layers, self.verdict, self.timings))

    def _repr_html_(self) -> str:
        lines = in_lines(self.settings, self.layers, self.verdict, self.timings)
        return as_html(lines, self.layers)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write masks, kept weights and reports as safetensors: to a temporary file beside path, then renamed.

        The file also holds a digest of each of the dense model's tensors, and its outputs for an input that is drawn
        between the least and greatest value of the sample: by these load_trace knows the model.
        """
        save_trace(self, path)


def load_trace(path: str | os.PathLike[str], model: nn.Module) -> Trace:
    """Read a trace that was saved, for the model it was made from.

    Args:
        path: The path of the file.
        model: The dense model, with the same weights. Not modified.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not a trace, damaged, or made from another model: the first tensor that differs is named, or that
            the forward pass is another (an activation, a stride).

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spade_xai import load_trace, trace
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> image = torch.rand(1, 3, 4, 4)
        >>> trace(model, image, sparsity=0.5, augmentations=64, progress=False).save("image.safetensors")
        >>> again = load_trace("image.safetensors", model)
        >>> again.layers[0].sparsity_got
        0.5
    """
    return Trace(model, *read_trace("load_trace", path, model))
