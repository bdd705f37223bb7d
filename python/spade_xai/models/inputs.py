"""A model's inputs as users hold them: a tensor, positional arguments, or keyword arguments, all of one batch."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spade_xai.models.answers import check_real
from spade_xai.models.copies import unwrap

Inputs = Any
"""A tensor, a tuple of positional arguments, or a dict of keyword arguments."""


def check_count(function: str, argument: str, value: object) -> None:
    """Raise ValueError if value is not an int of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{function}: {argument} must be an int of at least 1, got {value!r}")


def as_inputs(function: str, sample: Any) -> Inputs:
    """The sample as Inputs; lists become tuples and mappings (such as a tokenizer's output) dicts."""
    if isinstance(sample, Mapping):
        inputs: Inputs = dict(sample)
    elif isinstance(sample, (tuple, list)):
        inputs = tuple(sample)
    else:
        inputs = sample
    tensors = tensors_of(inputs)
    if not tensors or not isinstance(inputs, (Tensor, tuple, dict)):
        raise TypeError(
            f"{function}: sample must be a tensor, or a tuple or dict with one, got {type(sample).__name__}"
        )
    check_real(function, "sample", tensors[0])
    if any(t.ndim == 0 for t in tensors[:1]) or len(tensors[0]) == 0:
        raise ValueError(
            f"{function}: sample must be a batch [N >= 1, ...], got shape {tuple(tensors[0].shape)}"
        )
    return inputs


def tensors_of(inputs: Inputs) -> list[Tensor]:
    """All tensors of the inputs, in order."""
    if isinstance(inputs, Tensor):
        return [inputs]
    values = inputs.values() if isinstance(inputs, dict) else inputs
    return [v for v in values if isinstance(v, Tensor)] if isinstance(inputs, (dict, tuple)) else []


def first_tensor(inputs: Inputs) -> Tensor:
    """The first tensor; its first dimension is the batch."""
    return tensors_of(inputs)[0]


def map_tensors(inputs: Inputs, apply: Callable[[Tensor], Tensor]) -> Inputs:
    """The inputs with every tensor replaced."""
    if isinstance(inputs, Tensor):
        return apply(inputs)
    if isinstance(inputs, dict):
        return {k: apply(v) if isinstance(v, Tensor) else v for k, v in inputs.items()}
    return tuple(apply(v) if isinstance(v, Tensor) else v for v in inputs)


def take(inputs: Inputs, index: Tensor | slice) -> Inputs:
    """Some rows of the batch; tensors of another first dimension are not of the batch and stay."""
    size = len(first_tensor(inputs))
    return map_tensors(inputs, lambda t: t[index] if t.ndim and len(t) == size else t)


def _join(parts: list[Inputs]) -> Inputs:
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(parts)
    size = len(first_tensor(first))
    keys = list(first) if isinstance(first, dict) else list(range(len(first)))

    def join(key: Any) -> Any:
        value = first[key]
        batched = isinstance(value, Tensor) and value.ndim > 0 and len(value) == size
        return torch.cat([p[key] for p in parts]) if batched else value

    joined = [join(key) for key in keys]
    return dict(zip(keys, joined, strict=True)) if isinstance(first, dict) else tuple(joined)


def rebatch(parts: Iterable[Inputs], size: int) -> Iterator[Inputs]:
    """The rows of all parts in batches of size, the last one smaller."""
    held: list[Inputs] = []
    count = 0
    for part in parts:
        held.append(part)
        count += len(first_tensor(part))
        if count >= size:
            whole = _join(held)
            start = 0
            while count - start >= size:
                yield take(whole, slice(start, start + size))
                start += size
            held = [take(whole, slice(start, count))] if start < count else []
            count -= start
    if held:
        yield _join(held)


def move(inputs: Inputs, model: nn.Module) -> Inputs:
    """The inputs on the model's device, floating-point ones in its dtype."""
    like = next((p for p in model.parameters() if p.is_floating_point()), None)
    if like is None:
        return inputs
    device, dtype = like.device, like.dtype
    return map_tensors(
        inputs, lambda t: t.to(device, dtype if t.is_floating_point() else t.dtype, copy=False)
    )


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters are; the CPU if it has none."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def channels_last(inputs: Inputs) -> Inputs:
    """The inputs with images laid out channels last, the faster order of convolutions and their Hessians."""

    def lay(t: Tensor) -> Tensor:
        image = t.ndim == 4 and t.is_floating_point()
        return t.contiguous(memory_format=torch.channels_last) if image else t

    return map_tensors(inputs, lay)


def call(model: nn.Module, inputs: Inputs) -> Tensor:
    """The model's logits for copies of the inputs, which it may overwrite."""
    own = map_tensors(inputs, Tensor.clone)
    if isinstance(own, dict):
        return unwrap(model(**own))
    return unwrap(model(*own) if isinstance(own, tuple) else model(own))
