"""Whether a trace is faithful: whether it answers as the dense model does, on the sample and near it."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spade_xai.models.answers import with_batch
from spade_xai.models.inputs import Inputs, call, channels_last, first_tensor, move, take
from spade_xai.tracing.nearby import nearby
from spade_xai.tracing.sample import TracedSample

LEAST_KEPT = 0.75
"""Share of the inputs near the sample that must keep the dense model's answer."""

LEAST_PROBABILITY = 0.5
"""What must be left of the dense model's probability of its answer, on the sample and near it."""

LEAST_ROWS = 0.9
"""Share of a sample's rows that must keep their answers; of a single row, all."""


@dataclass(frozen=True)
class Verdict:
    """How a sparse model answers beside the dense one.

    Attributes:
        faithful: Whether it answers as the dense model does.
        reasons: Why it does not; empty if it does.
        dense_answer: Class of the dense model's largest logit for the sample (of its first row).
        dense_probability: That the dense model gives it.
        answer: Class of the sparse model's largest logit.
        probability: That the sparse model gives its own answer.
        probability_kept: Mean ratio of the sparse to the dense probability of the dense answer, over the rows.
        nearby_kept: Share of inputs near the sample with the dense model's answer, or with at least its probability; 1
            if there are none.
        nearby_count: How many inputs near the sample the dense model answers as the sample itself.
    """

    faithful: bool
    reasons: tuple[str, ...]
    dense_answer: int
    dense_probability: float
    answer: int
    probability: float
    probability_kept: float
    nearby_kept: float
    nearby_count: int

    def told(self) -> str:
        """The reason of a trace that gives its sample another class."""
        return other_answer(self.answer, self.dense_answer)


def other_answer(answer: int, dense_answer: int) -> str:
    """What is wrong with a trace that answers one class where the dense model answers another."""
    return f"it answers class {answer} where the dense model answers {dense_answer}"


class Probe:
    """The dense model's answers on a sample and near it, which sparse models are compared with.

    Args:
        function: Named in errors.
        dense: Not modified.
        sample: That was traced.
    """

    def __init__(self, function: str, dense: nn.Module, sample: TracedSample) -> None:
        self.function, self.batch_size = function, sample.batch_size
        self.batches: list[Inputs] = [sample.inputs]
        close = nearby(function, sample)
        if close is not None:
            self.batches.append(close)
        self._ask(dense)

    def _ask(self, dense: nn.Module) -> None:
        self.dense = self.logits(dense)
        self.answers = [logits.argmax(-1) for logits in self.dense]

    def on(self, dense: nn.Module) -> "Probe":
        """A probe of another dense model, with the same inputs."""
        other = copy.copy(self)
        other._ask(dense)
        return other

    def logits(self, model: nn.Module) -> list[Tensor]:
        """Logits [rows, classes] float64 of the sample and, if there are inputs near it, of those."""
        return [self._of(model, batch) for batch in self.batches]

    def _of(self, model: nn.Module, batch: Inputs) -> Tensor:
        count = len(first_tensor(batch))
        with torch.no_grad():
            parts = [
                logits_of(self.function, model, take(batch, slice(k, k + self.batch_size)))
                for k in range(0, count, self.batch_size)
            ]
        return torch.cat(parts)

    def judge(self, sparse: nn.Module) -> Verdict:
        """Compare a sparse model's answers."""
        return self.compare(self.logits(sparse))

    def judge_roughly(self, sparse: nn.Module, error: float) -> Verdict | None:
        """The verdict, if no errors of the logits as large as `error` times the largest could turn it; else None.

        Every condition holds the sooner, the larger the logits of the dense answers. A sparse model that fails on the
        sample is asked no more.
        """
        found: list[Tensor] = []
        for batch in self.batches:
            found.append(self._of(sparse, batch))
            best = self.compare(self._raised(found, error))
            if not best.faithful:
                return best
        worst = self.compare(self._raised(found, -error))
        return self.compare(found) if worst.faithful else None

    def _raised(self, sparse: Sequence[Tensor], error: float) -> list[Tensor]:
        """Logits with those of the dense answers raised by a multiple of the largest."""
        raised = []
        for logits, answers in zip(sparse, self.answers, strict=False):
            most = logits.nan_to_num(0.0, 0.0, 0.0).abs().amax(-1, keepdim=True)
            raised.append(logits.scatter_add(-1, answers[:, None], error * most))
        return raised

    def compare(self, sparse: Sequence[Tensor]) -> Verdict:
        """Compare logits as from `logits`, or the first of them."""
        own, answers = self.dense[0], self.answers[0]
        reasons = []
        if not all(bool(logits.isfinite().all()) for logits in sparse):
            reasons.append("its outputs are not finite")
            sparse = [logits.nan_to_num() for logits in sparse]
        same = float((sparse[0].argmax(-1) == answers).double().mean())
        before, after = (_probabilities(x, answers) for x in (own, sparse[0]))
        left = float((after / before.clamp_min(1e-300)).mean())
        answer, dense_answer = int(sparse[0][0].argmax()), int(answers[0])
        if same < LEAST_ROWS:
            reasons.append(
                other_answer(answer, dense_answer)
                if len(answers) == 1
                else f"it gives {same:.0%} of the sample's rows the dense model's answer"
            )
        if left < LEAST_PROBABILITY:
            reasons.append(f"it leaves {left:.0%} of the answer's probability")
        kept, count = 1.0, 0
        if len(sparse) > 1:
            kept, count, close = self._near(sparse[1])
            if kept < LEAST_KEPT:
                reasons.append(
                    f"it keeps the answer of {kept:.0%} of {count} inputs near the sample"
                )
            if close < LEAST_PROBABILITY:
                reasons.append(f"it leaves {close:.0%} of the answer's probability near the sample")
        return Verdict(
            not reasons, tuple(reasons), dense_answer, float(before[0]), answer,
            float(sparse[0][0].softmax(-1)[answer]), left, kept, count,
        )  # fmt: skip

    def _near(self, sparse: Tensor) -> tuple[float, int, float]:
        """Share of kept answers, their number and what is left of their probability, where the dense one is equal."""
        answers = self.answers[0].repeat(-(-len(sparse) // len(self.answers[0])))[: len(sparse)]
        there = self.answers[1] == answers
        count = int(there.sum())
        if count == 0:
            return 1.0, 0, 1.0
        wanted = answers[there]
        before, after = (_probabilities(x[there], wanted) for x in (self.dense[1], sparse))
        # Between classes of like probability the first may change though the answer loses nothing.
        same = (sparse[there].argmax(-1) == wanted) | (after >= before)
        return float(same.double().mean()), count, float((after / before.clamp_min(1e-300)).mean())


def _probabilities(logits: Tensor, answers: Tensor) -> Tensor:
    return logits.softmax(-1).gather(-1, answers[:, None])[:, 0]


def logits_of(function: str, model: nn.Module, batch: Inputs) -> Tensor:
    """The model's outputs as float64 [rows, classes], classes last.

    A single logit z per input becomes the two logits (0, z), so that class 1 is its answer where z > 0. A batch of
    one whose forward pass drops that dimension gets it back.

    Raises:
        ValueError: The outputs do not fit the batch.
    """
    logits = call(model, channels_last(move(batch, model))).double()
    count = len(first_tensor(batch))
    logits = with_batch(logits, count)
    if logits.ndim < 2 or len(logits) != count:
        raise ValueError(
            f"{function}: model must give logits [B, classes], got shape {tuple(logits.shape)} "
            f"for a batch of {count}"
        )
    logits = logits.flatten(0, -2)
    return torch.cat([torch.zeros_like(logits), logits], -1) if logits.shape[-1] == 1 else logits
