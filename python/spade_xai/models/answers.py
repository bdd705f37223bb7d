"""What a classifier answers: its logits as [B, classes], its confidence in a class, its labels.

A model of one logit z is a classifier of two answers: its class 0 is "yes" with p = sigmoid(z), and its label is "yes"
where z > 0.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from spade_xai.models.copies import unwrap


def class_logits(function: str, output: object, count: int) -> Tensor:
    """The logits [B, classes] of a model's output for a batch of count inputs.

    Raises:
        TypeError: The output is no tensor and carries none as .logits.
        ValueError: Another shape.
    """
    logits = unwrap(output)
    shape = tuple(logits.shape)
    logits = with_batch(logits, count)
    if logits.ndim != 2 or len(logits) != count or not logits.shape[1]:
        raise ValueError(
            f"{function}: model must give logits [B, classes], got shape {shape} for a batch of {count}"
        )
    return logits


def with_batch(logits: Tensor, count: int) -> Tensor:
    """Logits with the dimensions that a forward pass squeezed away: one logit per input [B], or a batch of one."""
    if logits.ndim <= 1 and count == 1:
        return logits.reshape(1, -1)
    return logits[:, None] if logits.ndim == 1 else logits


def check_finite_logits(function: str, finite: Tensor) -> None:
    """Raise ValueError if a flag on the device says that logits were not finite; waits for the device."""
    if not finite:
        raise ValueError(f"{function}: model must give finite logits, got NaN or Inf")


def log_probabilities(logits: Tensor) -> Tensor:
    """Log p of each class, float64 [B, classes]: log-softmax, or log-sigmoid of one logit."""
    wide = logits.double()
    return F.logsigmoid(wide) if wide.shape[1] == 1 else wide.log_softmax(1)


def labels(logits: Tensor) -> Tensor:
    """The class of the largest logit, int64 [B]; of one logit, 1 where it is above 0."""
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)


def check_real(function: str, name: str, value: object) -> Tensor:
    """Return value if it is a tensor that measures can read: dense, with values, real.

    Raises:
        TypeError: It is not.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{function}: {name} must be a torch.Tensor, got {type(value).__name__}")
    what = None
    if value.is_meta:
        what = "one on the meta device, without values"
    elif value.layout is not torch.strided:
        what = f"layout {value.layout}"
    elif value.is_quantized or value.is_complex():
        what = str(value.dtype)
    if what is not None:
        raise TypeError(f"{function}: {name} must be a dense tensor of real numbers, got {what}")
    return value
