"""Sparsities of a table's columns, as text: those of commands, and one block or the head alone."""

from collections.abc import Sequence

from spade_xai.commands.options import parse_sparsity
from spade_xai.models.layers import fitting
from spade_xai.tracing import schedule
from spade_xai.tracing.schedule import Schedule, Sparsity, find_blocks


def column_sparsity(text: str) -> Sparsity:
    """What text stands for: as --sparsity, "block:PLACE:RATIO" (-1 is the last block) or "head:RATIO"."""
    kind, _, rest = text.partition(":")
    if kind == "block":
        place, _, ratio = rest.partition(":")
        return one_block(int(place), float(ratio))
    if kind == "head":
        return head(float(rest))
    return parse_sparsity(text)


def one_block(place: int, ratio: float) -> Schedule:
    """One ratio in one block of the network, nothing elsewhere: -1 is the last block, -2 the one before it."""

    def assign(names: Sequence[str]) -> dict[str, float]:
        blocks = find_blocks(names)
        if -place > len(blocks):
            raise ValueError(
                f"reproduce: block {place} must be among the {len(blocks)} blocks of the network"
            )
        return dict.fromkeys(fitting(names, blocks[place]), ratio)

    return assign


def head(ratio: float) -> Schedule:
    """One ratio in the last layer, nothing elsewhere."""

    def assign(names: Sequence[str]) -> dict[str, float]:
        return schedule.patterns({names[-1]: ratio})(names)

    return assign
