"""Texts as token ids, by the tokenizer of a model of transformers."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spade_xai.models.weights import ModelError, first_line

KIND = "transformers:"


class Tokens(NamedTuple):
    """One text as a model takes it.

    Attributes:
        ids: Token ids, int64 [1, T].
        mask: Attention mask, int64 [1, T]: 1 everywhere.
        kinds: Token types [1, T], of models that have them; else None.
        free: Which tokens are of the text, bool [1, T]: the others are special, such as [CLS] and [SEP].
    """

    ids: Tensor
    mask: Tensor
    kinds: Tensor | None
    free: Tensor

    @property
    def x(self) -> dict[str, Tensor]:
        """The arguments of the model."""
        return {"input_ids": self.ids, **self.further}

    @property
    def further(self) -> dict[str, Tensor]:
        """The arguments of the model beside the ids."""
        kinds = {} if self.kinds is None else {"token_type_ids": self.kinds}
        return {"attention_mask": self.mask, **kinds}

    def to(self, device: torch.device) -> "Tokens":
        """The same on a device."""
        return Tokens(*(None if t is None else t.to(device) for t in self))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Word:
    """A word of a text.

    Attributes:
        start: Where it begins in the text.
        end: Where it ends.
        tokens: Places of its tokens.
    """

    start: int
    end: int
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Encoded:
    """A text with its tokens.

    Attributes:
        tokens: What the model takes.
        pieces: The tokens as text.
        words: The words, in order.
        cut: Whether the text was longer than the model takes, so that its end is missing.
    """

    tokens: Tokens
    pieces: tuple[str, ...]
    words: tuple[Word, ...]
    cut: bool


class Tokenizer:
    """The tokenizer of a model of transformers, which knows how long its texts may be.

    Args:
        spec: As in `load_model`: `transformers:FOLDER`, a folder that holds model and tokenizer, or with pretrained a
            name of the hub.
        model: What `load_model` gave.
        pretrained: As in `load_model`.

    Attributes:
        tokenizer: The tokenizer of transformers.
        pad: Id of the padding token.
        special: Ids of all special tokens.
        most: The most tokens of a text; None: no limit is known.

    Raises:
        ModelError: The model is of another library, or its tokenizer is missing or cannot be used.
    """

    def __init__(self, spec: str, model: nn.Module, *, pretrained: bool = False) -> None:
        self.tokenizer = _loaded(spec, pretrained)
        if not getattr(self.tokenizer, "is_fast", False):
            raise ModelError(
                f"Tokenizer: {spec} must have a fast tokenizer, which says where each token stands in the text"
            )
        if self.tokenizer.pad_token_id is None:
            raise ModelError(f"Tokenizer: {spec} must have a padding token, got none")
        self.pad = int(self.tokenizer.pad_token_id)
        self.special = frozenset(int(i) for i in self.tokenizer.all_special_ids)
        self.most = _longest(self.tokenizer, model)
        taken = inspect.signature(model.forward).parameters
        self.has_kinds = "token_type_ids" in self.tokenizer.model_input_names and (
            "token_type_ids" in taken
        )
        rows = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
        if len(self.tokenizer) > rows:
            raise ModelError(
                f"Tokenizer: the tokenizer of {spec} must have at most the model's {rows} tokens, "
                f"got {len(self.tokenizer)}: it is of another model"
            )

    def __call__(self, text: str) -> Encoded:
        """The tokens of a text, cut to what the model takes.

        Raises:
            ValueError: It has no token but special ones.
        """
        found = self.tokenizer(
            text, truncation=self.most is not None, max_length=self.most, return_tensors="pt",
            return_offsets_mapping=True, return_special_tokens_mask=True,
        )  # fmt: skip
        ids = found["input_ids"]
        free = ~found["special_tokens_mask"].bool()
        if not free.any():
            raise ValueError(f"Tokenizer: text must have a token, got {text[:40]!r}")
        kinds = found.get("token_type_ids") if self.has_kinds else None
        tokens = Tokens(ids, found["attention_mask"], kinds, free)
        spans = found["offset_mapping"][0].tolist()
        words = _words(text, found.word_ids(0), spans, free[0].tolist())
        pieces = tuple(self.tokenizer.convert_ids_to_tokens(ids[0].tolist()))
        whole = self.most is None or ids.shape[1] < self.most
        cut = not whole and len(self.tokenizer(text)["input_ids"]) > ids.shape[1]
        return Encoded(tokens, pieces, words, cut)


def _loaded(spec: str, pretrained: bool) -> Any:
    if not spec.startswith(KIND):
        raise ModelError(
            f"Tokenizer: texts need a model of transformers, whose tokenizer reads them: {KIND}FOLDER, got {spec!r}"
        )
    name = spec.removeprefix(KIND)
    local = Path(name).is_dir()
    if not (local or pretrained):
        raise ModelError(
            f"Tokenizer: {spec} must be a folder that holds model and tokenizer, or a name of the hub with --pretrained"
        )
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(
            name, local_files_only=local, trust_remote_code=False
        )
    except Exception as error:  # damaged files raise nearly everything
        raise ModelError(
            f"Tokenizer: cannot read the tokenizer in {name}: {first_line(error)}"
        ) from None


def _longest(tokenizer: Any, model: nn.Module) -> int | None:
    """The most tokens: what the tokenizer says and what the positions of the model allow."""
    limits = [n for n in (tokenizer.model_max_length,) if isinstance(n, int) and n < 10**9]
    positions = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        for (
            name,
            module,
        ) in model.named_modules():  # RoBERTa counts positions from behind the padding's
            if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
                positions -= 0 if module.padding_idx is None else module.padding_idx + 1
                break
        limits.append(positions)
    return min(limits, default=None)


def _words(
    text: str,
    numbers: Sequence[int | None],
    spans: Sequence[Sequence[int]],
    free: Sequence[bool],
) -> tuple[Word, ...]:
    """Tokens that follow each other and are of one word, as the tokenizer numbers words; spaces before it are left."""
    groups: list[tuple[int | None, list[int]]] = []
    for place, (number, own) in enumerate(zip(numbers, free, strict=True)):
        if not own:
            continue
        if groups and number is not None and groups[-1][0] == number:
            groups[-1][1].append(place)
        else:
            groups.append((number, [place]))
    words = []
    for _, places in groups:
        start, end = spans[places[0]][0], spans[places[-1]][1]
        found = text[start:end]
        words.append(Word(start + len(found) - len(found.lstrip()), end, tuple(places)))
    return tuple(words)
