"""Any classifier as the function that attribution methods call: positional arguments in, scores [B, classes] out."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from spade_xai.models.answers import with_batch
from spade_xai.models.copies import unwrap

Score = Callable[[Any], Tensor]
"""Maps a model's outputs to one number per input, [B]."""


class Forward(nn.Module):
    """The model as captum wants it: the input and what is split with it in, scores [B, classes] out."""

    def __init__(
        self,
        model: nn.Module,
        kwargs: dict[str, Any],
        count: int,
        score: Score | None = None,
        position: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.model, self.score = model, score
        batched = {k for k, v in kwargs.items() if _is_batched(v, count)}
        self.split = {k: v for k, v in kwargs.items() if k in batched}
        self.fixed = {k: v for k, v in kwargs.items() if k not in batched}
        self.position, self.checked = position, False

    def forward(self, x: Tensor, *extra: Any) -> Tensor:
        """Return the scores; x may be overwritten by the model, so it gets a copy."""
        values = list(extra)
        position = values.pop() if self.position is not None else None
        split = dict(zip(self.split, values, strict=True))
        outputs = self.model(x.clone(), **self.fixed, **split)
        if self.score is not None:
            return _one_each(self.score(outputs), len(x))
        logits = unwrap(outputs)
        if not self.checked:  # once, as it waits for the device
            _check_position(logits, self.position)
            self.checked = True
        return _classes(logits, len(x), position)

    def extra(self, part: slice) -> tuple[Any, ...]:
        """The further arguments of some of the inputs."""
        split = tuple(v[part] for v in self.split.values())
        return split if self.position is None else (*split, self.position[part])


def _is_batched(value: Any, count: int) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == count


def _one_each(score: object, count: int) -> Tensor:
    """The results of a callable target as one column of scores."""
    if isinstance(score, Tensor) and score.is_floating_point() and score.numel() == count:
        return score.reshape(count, 1)
    what = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
    raise ValueError(
        f"attribute: target must return one floating-point number per input, [{count}], got {what}"
    )


def _check_position(logits: Tensor, position: Tensor | None) -> None:
    if position is None:
        return
    if logits.ndim != 3:
        shape = tuple(logits.shape)
        raise ValueError(f"attribute: position needs outputs [B, T, classes], got shape {shape}")
    length = logits.shape[1]
    wrong = (position < -length) | (position >= length)
    if bool(wrong.any()):
        raise ValueError(
            f"attribute: position must be in [-{length}, {length - 1}], got {position[wrong][0].item()}"
        )


def _classes(logits: Tensor, count: int, position: Tensor | None) -> Tensor:
    """Logits [B, classes] from what a model gives: one logit [B], a batch of one squeezed, or one per position."""
    if position is not None:
        return logits[torch.arange(count, device=logits.device), position.to(logits.device)]
    return with_batch(logits, count)


def targets(forward: Forward, inputs: Tensor, target: Any, batch_size: int) -> Tensor:
    """The class of each input as a tensor [B]; 0 of the one score that a callable target gives."""
    parts = list(slices(len(inputs), batch_size if target is None else 1))
    with torch.no_grad():
        outputs = [
            forward(inputs[p], *forward.extra(p)) for p in (parts if target is None else parts[:1])
        ]
    if outputs[0].ndim != 2:
        shape = tuple(outputs[0].shape)
        hint = "; position= chooses one of T" if outputs[0].ndim == 3 else ""
        raise ValueError(
            f"attribute: model must give logits [B, classes], got shape {shape}{hint}; "
            "a function as target may take any outputs"
        )
    if forward.score is not None:
        return torch.zeros(len(inputs), dtype=torch.long, device=inputs.device)
    if target is None:
        return torch.cat(outputs).argmax(1)
    return _checked(target, len(inputs), outputs[0].shape[1], inputs.device)


def _checked(target: Any, count: int, classes: int, device: torch.device) -> Tensor:
    try:
        wanted = torch.as_tensor(target, device=device)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"attribute: target must be an int or {count} ints, got {target!r}"
        ) from None
    if wanted.ndim == 0:
        wanted = wanted.expand(count)
    if wanted.shape != (count,) or wanted.is_floating_point():
        raise ValueError(
            f"attribute: target must be an int or {count} ints, "
            f"got shape {tuple(wanted.shape)} of {wanted.dtype}"
        )
    if not bool(((wanted >= 0) & (wanted < classes)).all()):
        bad = wanted[(wanted < 0) | (wanted >= classes)][0].item()
        raise ValueError(f"attribute: target must be in [0, {classes - 1}], got {bad}")
    return wanted.long()


def chosen_position(position: Any, count: int, device: torch.device) -> Tensor | None:
    """The position of each input as a tensor [B], or None."""
    if position is None:
        return None
    where = torch.as_tensor(position, device=device)
    if where.dtype not in (torch.int64, torch.int32) or where.shape not in ((), (count,)):
        raise ValueError(
            f"attribute: position must be an int or {count} ints, "
            f"got shape {tuple(where.shape)} of {where.dtype}"
        )
    return where.long().expand(count)


def slices(count: int, size: int) -> Iterator[slice]:
    """Cut range(count) into slices of at most size."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
