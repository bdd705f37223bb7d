"""Networks of several labels: a table is run once per label that pictures explain, and the scores are put together."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from spade_xai.models.inputs import device_of
from spade_xai.models.one_label import one_label
from spade_xai.reports.evaluate import Evaluation
from spade_xai.reproduce.run import TableRun
from spade_xai.reproduce.subject import Made, Settings, Subject
from spade_xai.reproduce.table import PublishedTable
from spade_xai.trojans.planted import Planted

MULTI_LABEL = "celeba"
"""The data set of tables whose pictures have several labels."""


def check_kind(table: PublishedTable, planted: Planted) -> None:
    """Refuse a table of classes for a network of labels, and the other way round.

    Raises:
        ValueError: They do not go together.
    """
    if (table.data == MULTI_LABEL) == (planted.labels is not None):
        return
    if planted.labels is None:
        raise ValueError(
            f"reproduce: --planted must hold a network of several labels per picture for {table.title}, got one of "
            "classes: `spade-xai plant celeba` makes one"
        )
    raise ValueError(
        f"reproduce: --planted must hold a network of classes for {table.title}, got one that gives each picture "
        f"{len(planted.labels)} labels: tables 5celeba, 7celeba, 8celeba and 16 take it"
    )


def run_by_label(
    table: PublishedTable, subject: Subject, settings: Settings, say: Callable[[str], object]
) -> tuple[Subject, Made]:
    """The subject with its pictures sorted by label, and what the runs of all labels gave together.

    Raises:
        ValueError: A label has a single picture, for which there is no other's trace as control.
    """
    if subject.planted.labels is None:
        return subject, TableRun(table, subject, settings, say).run()
    labels = sorted({p.explained for p in subject.pictures if p.explained is not None})
    parts = [_part(subject, label) for label in labels]
    made = []
    for part, label in zip(parts, labels, strict=True):
        say(f"label {subject.planted.labels[label]}: {len(part.pictures)} pictures")
        out = settings.out / f"label-{label}"
        made.append(TableRun(table, part, replace(settings, out=out), say).run())
    pictures = [picture for part in parts for picture in part.pictures]
    return replace(subject, pictures=pictures), together(made)


def _part(subject: Subject, label: int) -> Subject:
    """The pictures that explain a label, and the network as a classifier of it."""
    planted, given = subject.planted, subject.given
    places = [k for k, picture in enumerate(subject.pictures) if picture.explained == label]
    if len(places) < 2:
        raise ValueError(
            "reproduce: each label that is explained must have two pictures, each the other's control, got 1 of "
            f"{(planted.labels or [])[label]}: a larger --limit here, or a larger --tries of `plant`, gives more"
        )
    example = given.example().to(device_of(given.model))
    return replace(
        subject,
        planted=replace(
            planted, backdoors=[{**b, "target": b["target"][label]} for b in planted.backdoors]
        ),
        given=replace(
            given,
            model=one_label(given.model, label, example),
            paths=[given.paths[k] for k in places],
            masks=[given.masks[k] for k in places],
        ),
        pictures=[subject.pictures[k] for k in places],
    )


def together(made: Sequence[Made]) -> Made:
    """What several runs of one table gave, one after the other."""
    first = made[0]
    scores = {
        metric: {
            method: {
                column: torch.cat([one.evaluation.scores[metric][method][column] for one in made])
                for column in columns
            }
            for method, columns in by_method.items()
        }
        for metric, by_method in first.evaluation.scores.items()
    }
    seconds: dict[str, float] = {}
    for one in made:
        for stage, value in one.evaluation.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + value
    return Made(
        Evaluation(scores, {}, seconds),
        {
            column: [flag for one in made for flag in one.faithful[column]]
            for column in first.faithful
        },
        first.left_out,
        first.sparsity,
        [answer for one in made for answer in one.answered],
        list(dict.fromkeys(note for one in made for note in one.notes)),
    )
