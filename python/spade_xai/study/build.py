"""Build a study: choose images, find regions, visualise neurons without and with SPADE, assign tasks, write the pages.

Source: section 4.2.2 and appendix K of the paper.
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from spade_xai.models.preprocessing import Preprocessing
from spade_xai.progress import Progress
from spade_xai.study.assignment import GAP, assign
from spade_xai.study.folder import Study, Task
from spade_xai.study.options import StudyOptions
from spade_xai.study.page import write_site
from spade_xai.study.part import Candidate, Part, PartMaker, digest
from spade_xai.tracing.file import fingerprint


def build_study(
    folder: Path,
    model: nn.Module,
    count: int,
    read: Callable[[int], Candidate | None],
    options: StudyOptions,
    *,
    preprocessing: Preprocessing | None = None,
    classes: Sequence[str] | None = None,
    tracer: str = "SPADE",
    library: str = "npm",
    consent: str | None = None,
    contact: str | None = None,
    about: Mapping[str, Any] | None = None,
    progress: Progress = True,
    report: Callable[[str], object] = lambda line: None,
    **trace_options: Any,
) -> Study:
    """Make a folder that `study serve` serves and any jsPsych host takes.

    Args:
        folder: Made if it is not there; what an interrupted build left is used again.
        model: Classifier. Not modified.
        count: The number of candidates.
        read: Gives a candidate by its number; None for one that cannot be read.
        options: What the study is like.
        preprocessing: Whose mean and std make the model's inputs of images in [0, 1].
        classes: Names of classes, for the experimenter; raters never see them.
        tracer: The pruning method of the SPADE condition, a name in TRACERS.
        library: Where jsPsych comes from, as in `library_files`.
        consent: Text of the consent page; None: the one that ships.
        contact: Whom raters can ask.
        about: Further settings that study.json tells, and that images are made again for if they change: among them
            what trace_options has that is neither text nor number, such as a schedule, under the same name.
        progress: True for bars, or callback(stage, done, total).
        report: Called with a line as each step ends.
        **trace_options: Further arguments of `trace`.

    Raises:
        ValueError: Fewer than two images are left, or an option is out of its range.
    """
    known = preprocessing or Preprocessing()
    settings = {
        **asdict(options),
        "tracer": tracer,
        "trace": _told(trace_options, about or {}),
        **(about or {}),
        "weights": digest(json.dumps(fingerprint(model)).encode()),
    }
    maker = PartMaker(
        folder, model, options, known, classes, tracer, trace_options, settings, progress
    )
    left_out = {"right answer": 0, "regions overlap": 0, "cannot be read": 0}
    order = list(range(count))
    random.Random(f"images {options.seed}").shuffle(order)
    parts: list[Part] = []
    turns: list[int] = []
    for k in order:
        if len(parts) == options.count:
            break
        candidate = read(k)
        if candidate is None:
            left_out["cannot be read"] += 1
            continue
        if not turns:
            turns = [0, 1]
            random.Random(f"neurons {options.seed} {len(parts)}").shuffle(turns)
        made = maker.make(candidate, turns[-1])
        if made.left_out is not None:
            left_out[made.left_out] += 1
            report(f"{candidate.name}: left out: {made.left_out}")
            continue
        turns.pop()
        parts.append(made)
        report(f"{candidate.name}: image {len(parts)} of the study")
    if len(parts) < 2:
        told = ", ".join(f"{n} {reason}" for reason, n in left_out.items())
        raise ValueError(
            f"build_study: a study needs two images, got {len(parts)} of {count} ({told}); a smaller --region makes "
            "regions overlap less often"
        )
    study = _assembled(parts, options, settings, left_out)
    files = write_site(folder, study, library=library, consent=consent, contact=contact)
    study = replace(study, files=files)
    study.write(folder)
    return study


def _assembled(
    parts: list[Part], options: StudyOptions, settings: dict[str, Any], left_out: dict[str, int]
) -> Study:
    tasks: list[Task] = []
    cells = []
    for k, part in enumerate(parts):
        of_image = []
        for name, pattern in part.patterns.items():
            neuron, condition = name.split(" ")
            text = f"{options.seed} {part.key} {name}"
            task = Task(digest(text.encode())[:12], k, int(neuron), condition, pattern)
            of_image.append(len(tasks))
            tasks.append(task)
        cells.append(of_image)
    most = len(parts) - len(parts) % 2
    count = min(32, most) if options.tasks is None else options.tasks
    repeats = options.repeats
    if repeats is None:
        repeats = max(0, min(round(count / 10), count - GAP))
    lists = assign(cells, tasks=count, repeats=repeats, seed=options.seed)
    return Study(
        options.title, settings, [p.image for p in parts if p.image], tasks, lists, left_out
    )


def _told(trace_options: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `trace` as JSON takes them."""
    told = {}
    for name, value in trace_options.items():
        plain = value is None or isinstance(value, str | int | float | list)
        if not plain and name not in about:
            raise ValueError(
                f"build_study: about must tell {name} in words, got none for {value!r}"
            )
        if plain:
            told[name] = value
    return told
