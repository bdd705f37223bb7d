"""Answers of raters with what they mean: from `study serve`, and from the files of other hosts."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spade_xai.study.folder import ANSWERS, Study
from spade_xai.study.store import CHOICES, MOST_MILLISECONDS, RawAnswer, Store

FORMAT = "spade_xai.Answers.1"
OUTCOMES = ("agree", "disagree", "undecided")


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        rater: The rater's random id.
        image: The place of the image in the study.
        task: The task's id.
        condition: "dense" or "SPADE".
        neuron: 0 or 1; see `StudyImage`.
        choice: What was pressed: "left", "right", "both" or "neither".
        outcome: "agree" with Score-CAM, "disagree", or "undecided" (both, neither).
        seconds: From the task's appearance to the choice.
        position: Its place among the rater's tasks.
        repeat: Whether the rater had the task before.
    """

    rater: str
    image: int
    task: str
    condition: str
    neuron: int
    choice: str
    outcome: str
    seconds: float
    position: int
    repeat: bool


def read_answers(folder: Path, study: Study, files: Sequence[Path] = ()) -> list[Answer]:
    """The answers to a study.

    Args:
        folder: Of the study.
        study: The study.
        files: JSON files of answers that raters downloaded or a jsPsych host kept; each holds one rater's, or a list.

    Raises:
        ValueError: A file is no such file, of another study, or has a rater who is there already with other answers.
    """
    raw: list[RawAnswer] = []
    if (folder / ANSWERS).is_file():
        store = Store(folder / ANSWERS, study)
        raw = store.answers()
        store.close()
    for path in files:
        raw += _of_file(path, study)
    kept: dict[tuple[str, int], RawAnswer] = {}
    for answer in raw:
        known = kept.setdefault((answer.rater, answer.position), answer)
        if known != answer:
            raise ValueError(
                f"read_answers: rater {answer.rater} has two answers to task {answer.position}"
            )
    return [meaning(study, answer) for answer in kept.values()]


def meaning(study: Study, raw: RawAnswer) -> Answer:
    """What an answer means."""
    slot = study.lists[raw.list][raw.position]
    task = study.tasks[slot.task]
    outcome = "undecided"
    if raw.choice in ("left", "right"):
        outcome = "agree" if (raw.choice == "left") == slot.target_left else "disagree"
    return Answer(
        raw.rater, task.image, task.id, task.condition, task.neuron, raw.choice, outcome,
        raw.milliseconds / 1000, raw.position, slot.repeat,
    )  # fmt: skip


def _of_file(path: Path, study: Study) -> Iterable[RawAnswer]:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"read_answers: {path} must be JSON: {error}") from None
    for entry in value if isinstance(value, list) else [value]:
        if not isinstance(entry, dict) or entry.get("format") != FORMAT:
            raise ValueError(f"read_answers: {path} must hold answers of the format {FORMAT}")
        if entry.get("study") != study.id:
            raise ValueError(
                f"read_answers: {path} holds answers to study {entry.get('study')}, not to {study.id}"
            )
        try:
            yield from [_raw(entry, k, answer, study) for k, answer in enumerate(entry["answers"])]
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise ValueError(f"read_answers: {path} is damaged: {error!r}") from None


def _raw(entry: dict[str, Any], position: int, answer: dict[str, Any], study: Study) -> RawAnswer:
    number, time = entry["list"], answer["milliseconds"]
    slot = study.lists[number][position]
    if answer["position"] != position or answer["task"] != study.tasks[slot.task].id or number < 0:
        raise ValueError(f"answer {position} is not to the task of its list")
    if answer["choice"] not in CHOICES or not 0 <= time <= MOST_MILLISECONDS:
        raise ValueError(f"answer {position} is none that the page gives")
    return RawAnswer(str(entry["rater"]), number, position, answer["choice"], int(time))
