"""What a classifier answers: its most probable classes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spade_xai.models.copies import duplicate
from spade_xai.models.inputs import Inputs, call, device_of, map_tensors

SHOWN = 5
"""How many answers are kept."""


@dataclass(frozen=True)
class Answer:
    """One class and its probability."""

    index: int
    probability: float


def answers_of(model: nn.Module, x: Inputs, count: int = SHOWN) -> list[Answer]:
    """The most probable classes of one input [1, ...]; of a model with one logit, class 0 by its sigmoid.

    Args:
        model: Classifier of logits [1, classes]. Not modified.
        x: As the model takes it.
        count: How many at most.
    """
    found = _probabilities(model, x)
    values, places = found.topk(min(count, len(found)))
    return [Answer(k, p) for k, p in zip(places.tolist(), values.tolist(), strict=True)]


def probability_of(model: nn.Module, x: Inputs, index: int) -> float:
    """The probability of one class for one input [1, ...].

    Raises:
        ValueError: The model has no such class.
    """
    found = _probabilities(model, x)
    if index >= len(found):
        raise ValueError(f"label must be in [0, {len(found) - 1}], got {index}")
    return float(found[index])


def class_name(classes: Sequence[str] | None, index: int) -> str:
    """The name of a class, or its number."""
    return classes[index] if classes is not None and index < len(classes) else f"class {index}"


def share(probability: float) -> str:
    """A probability as reports write it: .82, or 1.0 and 0 where it rounds to those."""
    text = f"{probability:.2f}"
    return {"1.00": "1.0", "0.00": "< .01"}.get(text, text.removeprefix("0"))


def _probabilities(model: nn.Module, x: Inputs) -> Tensor:
    with torch.no_grad():
        there = map_tensors(x, lambda t: t.to(device_of(model)))
        logits = call(duplicate(model), there).double().flatten()
    return logits.sigmoid() if len(logits) == 1 else logits.softmax(0)
