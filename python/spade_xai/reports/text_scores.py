"""Scores of the maps of one text: how much of it has to go, by falling relevance, until the answer flips."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spade_xai.attribution.tokens import token_map
from spade_xai.measures.text import dffot, dfmit
from spade_xai.models.answers import class_logits, labels
from spade_xai.models.copies import duplicate
from spade_xai.models.inputs import device_of
from spade_xai.models.tokens import Tokens
from spade_xai.reports.scores import Scorer

FLIPS = {"dffot": dffot, "dfmit": dfmit}
"""What scores a map of a text."""


@dataclass(frozen=True)
class TextScoring(Scorer):
    """How maps of texts are made and scored, on the dense model and for its answer.

    Attributes:
        pad: Id of the padding.
        baseline: As in `token_map`.
    """

    pad: int = 0
    baseline: str = "pad"

    def dense(self, index: int, sample: Tokens) -> dict[str, Any]:
        """Scores of the dense model's maps and of random ones, as JSON takes them."""
        seconds: dict[str, float] = {}
        scores = self._scores(self.model, sample, seconds)
        start = time.perf_counter()
        generator = torch.Generator().manual_seed(self.seed + self.first + index)
        noise = self._score(torch.rand(sample.ids.shape[1], generator=generator), sample)
        seconds["metrics"] += time.perf_counter() - start
        answer = label_of(self.model, sample)
        return {"scores": scores, "random": noise, "answer": answer, "seconds": seconds}

    def _answer(self, sample: Tokens) -> int:
        return answer_of(self.model, sample)

    def _map(self, model: nn.Module, sample: Tokens, label: int, method: str) -> Tensor:
        return token_map(
            model, sample, label, method, pad=self.pad, baseline=self.baseline, seed=self.seed
        )

    def _score(self, found: Tensor, sample: Tokens) -> dict[str, float]:
        """Scores of a map [T] by metric."""
        tokens = sample.to(device_of(self.model))
        scores = found[None].to(tokens.ids.device)
        return {
            name: float(
                measure(self.model, tokens.ids, scores, tokens.free, mask=tokens.mask, pad=self.pad)
            )
            for name, measure in FLIPS.items()
        }


def answer_of(model: nn.Module, tokens: Tokens) -> int:
    """The class that a model answers for a text; of a model with one logit its one class, 0."""
    logits = _logits(model, tokens)
    return 0 if logits.shape[1] == 1 else int(labels(logits))


def label_of(model: nn.Module, tokens: Tokens) -> int:
    """The label that a model gives a text; of a model with one logit 1 where it is above 0."""
    return int(labels(_logits(model, tokens)))


def _logits(model: nn.Module, tokens: Tokens) -> Tensor:
    with torch.no_grad():
        output = duplicate(model)(**tokens.to(device_of(model)).x)
    return class_logits("answer_of", output, 1)
