"""Random variants of a text over its token ids: synonyms, insertion, swap and deletion."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from spade_ext.checks import check_finite, check_int, check_range, check_tensor
from spade_xai.models.inputs import Inputs

Neighbours = Callable[[int], Sequence[int]]
"""The synonyms of a token, none if it has none."""

OPERATIONS = ("replace", "insert", "swap", "delete")


class TextAugment:
    """Easy data augmentation over token ids; each variant is made by one operation drawn at random.

    With l tokens that are not special and n = max(1, floor(alpha l)):

    | operation | what |
    |---|---|
    | replace | n tokens that have synonyms are each replaced by one of them |
    | insert | n times a synonym of a random token is put at a random place |
    | swap | n times two tokens change places |
    | delete | each token goes with probability alpha; one stays |

    Source: Wei, Zou, "EDA" (EMNLP 2019), as in appendix D.3 of the paper.

    Args:
        neighbours: Synonyms of a token: a table, or a function such as `nearest(embedding)`. Without any, replace
            and insert leave the text as it is.
        special: Ids that stay where they are, such as those that start, end and pad a text.
        pad: Id that fills rows up to the longest variant; required for insert and delete.
        alpha: Share of the tokens that an operation changes.
        operations: Which to draw from.
        max_length: Longest text that the model takes; insertions beyond it are not made. None: no limit.

    Example:
        >>> import torch
        >>> from spade_xai import TextAugment
        >>> augment = TextAugment({5: [6, 7]}, special=[1, 2], operations=["replace"])
        >>> tokens = torch.tensor([[1, 3, 5, 2]])
        >>> augment(tokens)[0, 2] in (6, 7)
        True
    """

    draws_each = True
    """Each variant has draws of its own; see ImageAugment."""

    def __init__(
        self,
        neighbours: Mapping[int, Sequence[int]] | Neighbours | None = None,
        *,
        special: Iterable[int] = (),
        pad: int = 0,
        alpha: float = 0.1,
        operations: Sequence[str] = OPERATIONS,
        max_length: int | None = None,
    ) -> None:
        function = "TextAugment"
        if isinstance(operations, str) or not isinstance(operations, Sequence):
            raise TypeError(f"{function}: operations must be a list of names, got {operations!r}")
        for operation in operations:
            if operation not in OPERATIONS:
                raise ValueError(
                    f"TextAugment: operations are {', '.join(OPERATIONS)}, got {operation!r}"
                )
        if not operations:
            raise ValueError("TextAugment: operations must name at least one, got none")
        check_range(function, "alpha", alpha, 0.0, 1.0)
        if max_length is not None:
            check_int(function, "max_length", max_length, 1)
        if not (neighbours is None or callable(neighbours) or isinstance(neighbours, Mapping)):
            raise TypeError(
                f"{function}: neighbours must be a table or a function, got {type(neighbours).__name__}"
            )
        self.neighbours: Neighbours = (
            neighbours if callable(neighbours) else _from_table(neighbours or {})
        )
        self.special = frozenset(_ids(function, "special", special))
        self.pad = check_int(function, "pad", pad, 0)
        self.alpha = alpha
        self.operations = tuple(operations)
        self.max_length = max_length

    def __repr__(self) -> str:
        return f"TextAugment({list(self.operations)}, alpha={self.alpha})"

    def __call__(self, inputs: Inputs) -> Inputs:
        """Vary each text at random by Python's global generator.

        Args:
            inputs: Token ids [B, T], or a dict with "input_ids" and, as a tokenizer gives them, "attention_mask" and
                other tensors [B, T] that go with the tokens. Not modified.

        Returns:
            The same with T + n columns (up to max_length), padded; the attention mask is 0 at padding.
        """
        fields = inputs if isinstance(inputs, dict) else {"input_ids": inputs}
        ids = fields.get("input_ids")
        if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.is_floating_point():
            raise ValueError("TextAugment: inputs must be or hold input_ids, integers [B, T]")
        mask = fields.get("attention_mask")
        if mask is not None and not (isinstance(mask, Tensor) and mask.shape == ids.shape):
            got = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
            raise ValueError(
                f"TextAugment: attention_mask must have the shape {tuple(ids.shape)} of input_ids, got {got}"
            )
        present = ids != self.pad if mask is None else mask.bool()
        # Of each row: its tokens and their columns.
        both = torch.stack([ids.long(), present.to(ids.device).long()]).tolist()  # the only wait
        columns = [[i for i, here in enumerate(row) if here] for row in both[1]]
        lists = [[row[i] for i in kept] for row, kept in zip(both[0], columns, strict=True)]
        longest = max((len(row) for row in lists), default=0)
        width = longest + self._changes(longest)
        most = self.max_length
        if most is not None:
            if longest > most:
                raise ValueError(
                    f"TextAugment: max_length must be at least the {longest} tokens of the sample, got {most}"
                )
            width = min(width, most)
        # Of each variant: for every place, which place of the sample it came from, and its token.
        varied = [self._vary(row, width) for row in lists]
        tokens = _padded([[token for _, token in row] for row in varied], width, self.pad)
        places = [[kept[i] for i, _ in row] for row, kept in zip(varied, columns, strict=True)]
        source = _padded(places, width, -1)
        out = {}
        for name, value in fields.items():
            if not (isinstance(value, Tensor) and value.shape == ids.shape):
                out[name] = value
            elif name == "input_ids":
                out[name] = tokens.to(value.dtype).to(value.device, non_blocking=True)
            else:
                at = source.to(value.device, non_blocking=True)
                out[name] = value.gather(1, at.clamp_min(0)).masked_fill(at < 0, 0)
        return out if isinstance(inputs, dict) else out["input_ids"]

    def _changes(self, count: int) -> int:
        return max(1, int(self.alpha * count))

    def _vary(self, tokens: list[int], width: int) -> list[tuple[int, int]]:
        row = list(enumerate(tokens))
        free = [i for i, token in enumerate(tokens) if token not in self.special]
        if not free:
            return row
        changes = self._changes(len(free))
        operation = random.choice(self.operations)
        if operation == "replace":
            usable = [i for i in free if self.neighbours(tokens[i])]
            for i in random.sample(usable, min(changes, len(usable))):
                row[i] = (i, random.choice(list(self.neighbours(tokens[i]))))
        elif operation == "insert":
            usable = [i for i in free if self.neighbours(tokens[i])]
            for _ in range(min(changes, width - len(row)) if usable else 0):
                source = random.choice(usable)
                synonym = random.choice(list(self.neighbours(tokens[source])))
                at = random.choice([k for k, (i, _) in enumerate(row) if i in free])
                row.insert(at, (source, synonym))
        elif operation == "swap":
            for _ in range(changes if len(free) > 1 else 0):
                a, b = random.sample(free, 2)
                row[a], row[b] = (row[a][0], row[b][1]), (row[b][0], row[a][1])
        else:
            gone = {i for i in free if random.random() < self.alpha}
            if len(gone) == len(free):
                gone.discard(random.choice(free))
            row = [entry for entry in row if entry[0] not in gone]
        return row


def _padded(rows: list[list[int]], width: int, filler: int) -> Tensor:
    """The rows as [rows, width]."""
    full = [row + [filler] * (width - len(row)) for row in rows]
    return torch.tensor(full, dtype=torch.long).reshape(len(rows), width)


def _ids(function: str, name: str, values: Iterable[int]) -> list[int]:
    """The token ids in values."""
    if not isinstance(values, Iterable):
        raise TypeError(f"{function}: {name} must hold token ids, got {type(values).__name__}")
    return [check_int(function, name, value, 0) for value in values]


def _from_table(table: Mapping[int, Sequence[int]]) -> Neighbours:
    return lambda token: _ids("TextAugment", "neighbours", table.get(token, ()))


def nearest(
    embedding: Tensor, count: int = 8, *, exclude: Iterable[int] = (), least: float = 0.0
) -> Neighbours:
    """Synonyms by embedding: the tokens of greatest cosine.

    Args:
        embedding: [vocabulary, size], such as `model.get_input_embeddings().weight`. Not modified.
        count: Synonyms of a token.
        exclude: Ids that are nobody's synonym, such as special ones.
        least: Smallest cosine, in [-1, 1].

    Raises:
        TypeError, ValueError: An argument is not as above; the function that is returned: a token out of range.
    """
    function = "nearest"
    check_tensor(function, "embedding", embedding)
    if embedding.ndim != 2:
        raise ValueError(
            f"{function}: embedding must have shape [vocabulary, size], got {tuple(embedding.shape)}"
        )
    check_finite(function, "embedding", embedding.detach())
    check_int(function, "count", count, 1)
    check_range(function, "least", least, -1.0, 1.0)
    most = len(embedding) - 1
    exclude = {
        check_int(function, "exclude", i, 0, most) for i in _ids(function, "exclude", exclude)
    }
    unit = torch.nn.functional.normalize(embedding.detach().float(), dim=1)
    barred = torch.tensor(sorted(exclude), dtype=torch.long, device=unit.device)
    known: dict[int, list[int]] = {}

    def synonyms(token: int) -> list[int]:
        check_int(function, "token", token, 0, most)
        if token not in known:
            cosine = unit @ unit[token]
            cosine.index_fill_(0, barred, -2)
            cosine[token].fill_(-2)
            best = cosine.topk(min(count, len(cosine)))
            near = best.indices.where(best.values >= least, -1).tolist()  # the only wait
            known[token] = [i for i in near if i >= 0]
        return known[token]

    return synonyms
