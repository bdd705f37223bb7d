"""Records of what was scored, a part at a time: the dense model's maps, each tracer's, those of further networks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from torch import nn

from spade_xai.reports.controls import partners
from spade_xai.reports.scores import Sample, Scorer, Scores, Work

Records = dict[str, list[dict[str, Any]]]
"""Part ("dense" or a tracer) -> record of each sample."""

Controls = dict[str, list[Scores]]
"""Tracer -> scores of each sample after pruning for another one."""

Guests = Callable[[Sequence[int]], Sequence[tuple[int, Sample]]]
"""Takes the answers of the samples; gives further samples, each with the place of the one whose trace they get."""

Networks = Mapping[str, Callable[[int], nn.Module]]
"""Part -> takes the place of a sample; gives the network whose maps of the sample are scored."""


class Store(Protocol):
    """Records that were made before; see `records_of`."""

    def known(self, part: str, work: Work) -> dict[str, Any] | None:
        """The record of a part of a sample, if it is there."""

    def keep(self, part: str, work: Work, record: dict[str, Any]) -> None:
        """Note a record."""


def records_of(
    scoring: Scorer,
    samples: Sequence[Any],
    tracers: Sequence[str],
    controls: Sequence[str],
    store: Store | None = None,
    say: Callable[[str], object] | None = None,
    guests: Guests | None = None,
    networks: Networks | None = None,
) -> Records:
    """Records of every sample by part; those in the store are not made again.

    Args:
        scoring: How maps are made and scored.
        samples: Read when they are needed, more than once.
        tracers: Names in `explain.TRACERS`.
        controls: As in `evaluate`.
        store: Where records come from and go to as they are made; None: nowhere.
        say: Called with each part as it begins.
        guests: Further samples that the controls' traces are tried on, after those of each sample's partner.
        networks: Further parts, whose maps are those of another network than the sample's trace.
    """
    networks = networks or {}
    result: Records = {}
    after: list[int] = []
    further: list[list[Any]] = [[] for _ in samples]
    for part in ("dense", *tracers, *networks):
        if say is not None:
            say(part)
        controlled = part in controls
        found: dict[int, dict[str, Any]] = {}
        read: dict[int, Work] = {}

        def missing(
            part: str = part,
            controlled: bool = controlled,
            partner: Sequence[int] = after,
            found: dict[int, dict[str, Any]] = found,
            read: dict[int, Work] = read,
        ) -> Iterator[Work]:
            for index in range(len(samples)):
                following = []
                if controlled:
                    following = [samples[k] for k in partner[index : index + 1]] + further[index]
                work = Work(index, samples[index], following)
                record = None if store is None else store.known(part, work)
                if record is None:
                    read[index] = work
                    yield work
                else:
                    found[index] = record

        if part == "dense":
            made: Iterator[tuple[int, dict[str, Any]]] = (
                (work.place, scoring.dense(work.place, work.sample)) for work in missing()
            )
        elif part in networks:
            network_of = networks[part]
            made = (
                (work.place, scoring.of(network_of(work.place), work.sample)) for work in missing()
            )
        else:
            made = scoring.traced(part, missing())
        for index, record in made:
            found[index], work = record, read.pop(index)
            if store is not None:
                store.keep(part, work, record)
        result[part] = [found[index] for index in range(len(samples))]
        if part == "dense":
            answers = [record["answer"] for record in result[part]]
            after = partners(answers) if len(samples) > 1 else []
            for place, sample in () if guests is None else guests(answers):
                further[place].append(sample)
    return result
