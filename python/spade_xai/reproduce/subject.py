"""What a table is run on and how, and what comes of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spade_xai.commands.inputs import Inputs
from spade_xai.models.forward_pass import outputs_of
from spade_xai.progress import Progress
from spade_xai.reports.evaluate import Evaluation
from spade_xai.reproduce.selection import Pool
from spade_xai.tracing.file import fingerprint
from spade_xai.trojans.planted import Picture, Planted
from spade_xai.tuning.identity import coarse, digest_of_text


@dataclass(frozen=True)
class Settings:
    """What replaces the paper's settings, and where records go.

    Attributes:
        out: The folder of the run.
        methods: Saliency methods.
        augmentations: For every traced column; None: as in the paper.
        sparsity: For every column that is not about a sparsity; None: the table's.
        tuned: Folder of tuned sparsities, COLUMN/METHOD.json; None: none.
        checkpoint: Weights of the network that a column "checkpoint" is of.
        seed: The seed of all random draws.
        trace: Further arguments of `trace`.
        progress: As in `trace`.
    """

    out: Path
    methods: Sequence[str]
    augmentations: int | None = None
    sparsity: str | None = None
    tuned: Path | None = None
    checkpoint: Path | None = None
    seed: int = 0
    trace: Mapping[str, Any] | None = None
    progress: Progress = False


@dataclass(frozen=True)
class Subject:
    """The network and the pictures that a table is made of.

    Attributes:
        planted: The index of their folder.
        folder: The folder.
        given: Model and pictures, as `evaluate` has them.
        pictures: What is known of each picture.
        pool: Further pictures, for columns that need some.
    """

    planted: Planted
    folder: Path
    given: Inputs
    pictures: Sequence[Picture]
    pool: Pool


@dataclass
class Made:
    """What a run gives.

    Attributes:
        evaluation: Scores of each picture by metric, method and column.
        faithful: Column -> of each trace whether it is faithful.
        left_out: Column -> why it is not there.
        sparsity: Column -> text of the sparsity of each method.
        answered: Whether the network answers each picture with the target of its backdoor; None: no patch.
        notes: Sentences for the reader.
    """

    evaluation: Evaluation
    faithful: dict[str, list[bool]]
    left_out: dict[str, str]
    sparsity: dict[str, dict[str, str]]
    answered: list[bool | None]
    notes: list[str]


def identity(subject: Subject) -> str:
    """The network and how its inputs are made, as text that differs where records do."""
    model = subject.given.model
    answers = coarse(outputs_of(model, subject.given.example()))
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    told = [fingerprint(model), kind, answers, str(subject.given.preprocessing)]
    return digest_of_text(json.dumps(told, sort_keys=True))


def told_options(settings: Settings) -> dict[str, str]:
    """Options of traces that records depend on."""
    given = settings.trace or {}
    return {name: str(given.get(name)) for name in ("layers", "forward_precision")}
