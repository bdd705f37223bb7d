"""The classes of a model: how many, their names, and the one that an option names."""

import difflib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from spade_xai.models.copies import unwrap
from spade_xai.models.weights import ModelError


def count_classes(model: nn.Module, image: Tensor, spec: str) -> int:
    """The number of the model's outputs for the image."""
    shape = tuple(image.shape[1:])
    try:
        with torch.no_grad():
            logits = unwrap(model(image))
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        if getattr(model, "main_input_name", None) == "input_ids":  # of transformers
            raise ModelError(
                f"{spec} reads texts, not images: `explain` and `evaluate` take files of texts"
            ) from error
        raise ModelError(
            f"{spec} cannot be run on an image of shape {shape} (--size changes it): {error}"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(f"{spec} must return logits [B, classes], got {got}")
    return logits.shape[1]


def read_class_names(
    file: Path | None, known: Sequence[str] | None, count: int
) -> list[str] | None:
    """The names in a file, one per line; without a file those that are known, if they are as many as the classes.

    Raises:
        ValueError: The file is not text or does not hold a name per class.
    """
    if file is None:
        return list(known) if known is not None and len(known) == count else None
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"--class-names {file} must be text in UTF-8: {error}") from None
    names = [name for name in names if name]
    if len(names) != count:
        raise ValueError(f"--class-names {file} must hold {count} names, got {len(names)}")
    return names


def class_of(
    option: str, text: str | None, classes: Sequence[str] | None, count: int
) -> int | None:
    """The class of a number, or of a name in any case; None of None."""
    if text is None:
        return None
    if text.isdecimal():
        if int(text) >= count:
            raise ValueError(f"{option} must be in [0, {count - 1}], got {text}")
        return int(text)
    known = {name.lower(): k for k, name in reversed(list(enumerate(classes or ())))}
    if text.lower() in known:
        return known[text.lower()]
    near = difflib.get_close_matches(text.lower(), known, 1)
    hint = f"did you mean {near[0]!r}?" if near else "give its number"
    what = "a class of the model" if known else "a number, as no names of classes are known"
    raise ValueError(f"{option} must be {what}, got {text!r}: {hint}")
