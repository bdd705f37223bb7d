"""Any classifier as the function that attribution methods call: positional arguments in, logits out."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from spade_xai.models.copies import duplicate, unwrap
from spade_xai.models.prepare import is_prepared, prepare


class Forward(nn.Module):
    """The model as captum wants it: positional arguments in, logits out."""

    def __init__(self, model: nn.Module, kwargs: dict[str, Any], count: int) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(kwargs)
        self.kwargs = kwargs
        self.count = count

    def forward(self, x: Tensor, *extra: Any) -> Tensor:
        """Return the logits; x may be overwritten by the model, so it gets a copy."""
        return unwrap(self.model(x.clone(), **dict(zip(self.names, extra, strict=True))))

    def extra(self, part: slice) -> tuple[Any, ...]:
        """The further arguments of some of the inputs."""

        def cut(value: Any) -> Any:
            batched = isinstance(value, Tensor) and value.ndim > 0 and len(value) == self.count
            return value[part] if batched else value

        return tuple(cut(v) for v in self.kwargs.values())


class Embedded(nn.Module):
    """A model over token ids as a model over the embeddings of the tokens."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model = model
        self.embedding = model.get_submodule(name)
        self.feed = _Feed()
        model.set_submodule(name, self.feed)

    def forward(self, embedded: Tensor, **kwargs: Any) -> Any:
        """Run the model on tokens with these embeddings."""
        self.feed.value = embedded
        ids = torch.zeros(embedded.shape[:2], dtype=torch.long, device=embedded.device)
        try:
            return self.model(ids, **kwargs)
        finally:
            self.feed.value = None


class _Feed(nn.Module):
    """Stands for an embedding layer and returns the embeddings it was given."""

    value: Tensor | None = None

    def forward(self, ids: Tensor) -> Tensor | None:
        return self.value


def inputs_and_forward(
    model: nn.Module,
    x: Tensor,
    kwargs: dict[str, Any] | None,
    embedding: str | None,
    prepared: str | None,
) -> tuple[Tensor, "Forward"]:
    """The floating-point inputs to explain and the model that takes them."""
    kwargs = dict(kwargs or {})
    name = None if x.is_floating_point() else _embedding_name(model, embedding)
    if prepared is not None:
        fuse = prepared == "fused"
        if not is_prepared(model, fused=fuse):
            first = Forward(model, kwargs, len(x)).extra(slice(0, 1))
            example = dict(zip(kwargs, first, strict=True))
            model = prepare(model, x[:1], kwargs=example, fuse_batch_norm=fuse)
    if name is not None or any(m.training for m in model.modules()):
        model = duplicate(model)
    if name is None:
        return x.detach(), Forward(model, kwargs, len(x))
    embedded = Embedded(model, name)
    with torch.no_grad():
        vectors = embedded.embedding(x)
    return vectors, Forward(embedded, kwargs, len(x))


def _embedding_name(model: nn.Module, embedding: str | None) -> str:
    if embedding is not None:
        return embedding
    get = getattr(model, "get_input_embeddings", None)
    layer = get() if callable(get) else None
    for name, module in model.named_modules():
        if module is layer:
            return str(name)
    raise ValueError(
        "attribute: embedding must name the embedding layer where x holds token ids, got None"
    )


def targets(forward: Forward, x: Tensor, inputs: Tensor, target: Any, batch_size: int) -> Tensor:
    """The class of each input as a tensor [B]."""
    parts = list(slices(len(inputs), batch_size if target is None else 1))
    with torch.no_grad():
        outputs = [
            forward(inputs[p], *forward.extra(p)) for p in (parts if target is None else parts[:1])
        ]
    if outputs[0].ndim != 2:
        shape = tuple(outputs[0].shape)
        raise ValueError(f"attribute: model must give logits [B, classes], got shape {shape}")
    if target is None:
        return torch.cat(outputs).argmax(1)
    try:
        classes = torch.as_tensor(target, device=inputs.device)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"attribute: target must be an int or {len(inputs)} ints, got {target!r}"
        ) from None
    if classes.ndim == 0:
        classes = classes.expand(len(inputs))
    count = outputs[0].shape[1]
    if classes.shape != (len(inputs),) or classes.is_floating_point():
        raise ValueError(
            f"attribute: target must be an int or {len(inputs)} ints, "
            f"got shape {tuple(classes.shape)} of {classes.dtype}"
        )
    if not bool(((classes >= 0) & (classes < count)).all()):
        bad = classes[(classes < 0) | (classes >= count)][0].item()
        raise ValueError(f"attribute: target must be in [0, {count - 1}], got {bad}")
    return classes.long()


def slices(count: int, size: int) -> Iterator[slice]:
    """Cut range(count) into slices of at most size."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
