"""A model as a function of what one of its layers gives: how token ids and inner layers are explained."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from spade_xai.models.copies import find_module


class AtLayer(nn.Module):
    """The model with the outputs of one layer given from outside; it still gets its real input.

    Token ids are explained at their embedding: the model reads the ids for all else (the last token, positions), and
    other ids that it looks up in the same embedding are looked up.

    Args:
        model: A copy; the layer in it is replaced.
        name: Name of the layer.
        lookup: The layer is the embedding of the input.
    """

    def __init__(self, model: nn.Module, name: str, lookup: bool) -> None:
        super().__init__()
        layer = find_module(model, name)
        if layer is None:
            option = "embedding" if lookup else "layer"
            raise ValueError(f"attribute: {option} must name a layer of the model, got {name!r}")
        self.name, self.feed = name, _Feed(layer, lookup)
        for parent in list(model.modules()):
            for key, child in list(parent._modules.items()):
                if child is layer and parent is not self.feed:
                    parent._modules[key] = self.feed
        self.model = self.feed if layer is model else model

    def forward(self, value: Tensor, *, at_input: Tensor, **kwargs: Any) -> Any:
        """Run the model on its input with these outputs of the layer."""
        x = at_input.clone()
        self.feed.value, self.feed.input = value, x
        try:
            return self.model(x, **kwargs)
        finally:
            self.feed.value = self.feed.input = None

    def read(self, x: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """The layer's outputs on x."""
        if self.feed.lookup:
            return self.feed.layer(x)
        self.feed.seen = []
        self.model(x.clone(), **kwargs)
        seen, self.feed.seen = self.feed.seen, None
        if len(seen) != 1 or not isinstance(seen[0], Tensor) or len(seen[0]) != len(x):
            what = f"{len(seen)} calls" if len(seen) != 1 else type(seen[0]).__name__
            if len(seen) == 1 and isinstance(seen[0], Tensor):
                what = f"outputs {tuple(seen[0].shape)}"
            raise ValueError(
                f"attribute: layer must run once per pass and give a tensor [B, ...], got {what} of {self.name!r}"
            )
        return seen[0]


class _Feed(nn.Module):
    """Stands for a layer, and returns the value it was given."""

    def __init__(self, layer: nn.Module, lookup: bool) -> None:
        super().__init__()
        self.layer, self.lookup = layer, lookup
        self.value: Tensor | None = None
        self.input: Tensor | None = None
        self.seen: list[Any] | None = None
        self.several = False  # whether the layer gives a tuple, whose first entry is explained

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.value is None:
            out = self.layer(*args, **kwargs)
            self.several = isinstance(out, tuple)
            if self.seen is not None:
                self.seen.append(out[0] if self.several else out)
            return out
        if not self.lookup:
            return (self.value, *self.layer(*args, **kwargs)[1:]) if self.several else self.value
        ids = next(iter((*args, *kwargs.values())))
        if not _same_ids(ids, self.input):
            return self.layer(*args, **kwargs)
        return self.value.reshape(*ids.shape, self.value.shape[-1])

    def __getattr__(self, name: str) -> Any:
        """Attributes of the layer, such as an embedding's weight."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)


def _same_ids(ids: Any, expected: Tensor | None) -> bool:
    if expected is None or not isinstance(ids, Tensor) or ids.numel() != expected.numel():
        return False
    if ids.data_ptr() == expected.data_ptr():
        return True
    return torch.equal(ids.reshape(-1), expected.reshape(-1))


def embedding_name(model: nn.Module, embedding: str | None) -> str:
    """The name of the embedding layer of token ids."""
    if embedding is not None:
        return embedding
    get = getattr(model, "get_input_embeddings", None)
    layer = get() if callable(get) else None
    for name, module in _named(model):
        if module is layer:
            return name
    raise ValueError(
        "attribute: embedding must name the embedding layer where x holds token ids, got None"
    )


def _named(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    yield from ((str(name), module) for name, module in model.named_modules())
