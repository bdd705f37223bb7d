"""How close a sparse model's outputs are to the dense model's."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from spade_xai.models.inputs import Inputs
from spade_xai.tracing.sample import TracedSample
from spade_xai.tracing.verdict import Probe, Verdict, logits_of

FUNCTION = "Trace.fidelity"


@dataclass(frozen=True)
class Agreement:
    """How close sparse outputs are to dense ones.

    Attributes:
        label: Share of outputs with the same class of largest logit; of a single logit, with the same sign.
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
    """Agreement of the sparse with the dense model on the sample and on its augmentations, and the verdict.

    Attributes:
        sample: On the sample.
        augmentations: On its augmentations.
        verdict: Whether the trace answers as the dense model does, on the sample and near it; None: not asked.
    """

    sample: Agreement
    augmentations: Agreement
    verdict: Verdict | None = None

    @property
    def faithful(self) -> bool:
        """Whether the trace answers as the dense model does."""
        return self.verdict is None or self.verdict.faithful

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it does not; empty if it does."""
        return () if self.verdict is None else self.verdict.reasons


def spoken(fidelity: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict of a fidelity's `asdict`, as commands print it: answer, probability, faithful and reasons."""
    verdict = fidelity.get("verdict")
    if verdict is None:
        return {"answer": None, "probability": None, "faithful": None, "reasons": []}
    return {name: verdict[name] for name in ("answer", "probability", "faithful", "reasons")}


def compare(dense: nn.Module, sparse: nn.Module, sample: TracedSample, count: int) -> Fidelity:
    """Run both models on the sample, on inputs near it and on `count` of its augmentations."""
    with torch.no_grad():
        return Fidelity(
            _agreement(dense, sparse, [sample.inputs]),
            _agreement(dense, sparse, sample.batches(FUNCTION, count)),
            Probe(FUNCTION, dense, sample).judge(sparse),
        )


def _agreement(dense: nn.Module, sparse: nn.Module, batches: Iterable[Inputs]) -> Agreement:
    same = cosine = difference = norm = 0.0
    count = 0
    for batch in batches:
        a, b = (logits_of(FUNCTION, m, batch) for m in (dense, sparse))
        if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
            raise ValueError(f"{FUNCTION}: outputs must be finite, got NaN or Inf logits")
        same += float((a.argmax(-1) == b.argmax(-1)).sum())
        difference += float((a - b).square().sum())
        norm += float(a.square().sum())
        x, y = (v - v.mean(-1, keepdim=True) for v in (a, b))
        cosine += float(torch.cosine_similarity(x, y, dim=-1).sum())
        count += len(a)
    return Agreement(same / count, cosine / count, (difference / max(norm, 1e-300)) ** 0.5, count)
