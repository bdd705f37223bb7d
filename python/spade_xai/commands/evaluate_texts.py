"""spade-xai evaluate on texts: by how few words, taken away by falling relevance, the answer flips."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from spade_ext.files import write_json
from spade_xai.commands import options as o
from spade_xai.commands.output import (
    end,
    finite,
    print_inputs,
    print_json,
    ready_folder,
    reporter,
)
from spade_xai.commands.records import RecordFiles, record_key
from spade_xai.commands.texts import TextAsked, TextInputs
from spade_xai.commands.volume import say
from spade_xai.measures import metrics
from spade_xai.progress import Progress
from spade_xai.reports import tables
from spade_xai.reports.evaluate import Evaluation
from spade_xai.reports.explain import DENSE
from spade_xai.reports.page import write_page
from spade_xai.reports.records import Records, records_of
from spade_xai.reports.report import html
from spade_xai.reports.text_scores import TextScoring

FORMAT = "spade_xai.TextEvaluation.1"


def evaluate_texts(
    asked: TextAsked, *, out: Path | None, as_json: bool, progress: bool | None
) -> None:
    """Score maps of texts by DFFOT and DFMIT; what an earlier run of the same command finished is kept."""
    methods, names = asked.chosen(), asked.tracers
    given = asked.load()
    store = None
    if out is not None:
        store = _store(asked, given, out)

    def part_begins(part: str) -> None:
        what = "maps of the whole network" if part == DENSE else part
        say(f"{what}: {len(given.texts)} texts")

    scoring = text_scoring(
        given, methods, asked.texts.baseline.value, asked.pruning.seed, reporter(progress),
        given.trace_arguments(asked.pruning, o.parse_sparsity(asked.ratio)),
    )  # fmt: skip
    samples = [encoded.tokens for encoded in given.encoded]
    records = records_of(scoring, samples, names, names[:1], store, part_begins)
    found = Evaluation({}, {name: [] for name in names})
    found.add(records, methods)
    plain = tables.record(found)
    shown = tables.of_texts(tables.tables(plain))
    record = {**tables.of_texts(plain), "accuracy": accuracy(given, records)}
    notes = [*given.notes(), *accuracy_told(record["accuracy"])]
    if out is not None:
        title = f"SPADE: {asked.inputs.model}"
        write_page(out / "report.html", html([], title=title, tables=shown, notes=notes))
        about = {"notes": notes, "texts": given.names}
        write_json(out / "scores.json", FORMAT, finite({**about, **record}))
    if as_json:
        print_json({"notes": notes, **record})
    else:
        print_inputs(given)
        for line in accuracy_told(record["accuracy"]):
            typer.echo(line)
        for table in shown:
            typer.echo(tables.text(table) + "\n")
    end(given)


def text_scoring(
    given: TextInputs,
    methods: Sequence[str],
    baseline: str,
    seed: int,
    progress: Progress,
    arguments: Mapping[str, Any],
) -> TextScoring:
    """How maps of the texts are made and scored, with the arguments of `trace_many`."""
    options = {k: v for k, v in arguments.items() if k != "seed"}
    return TextScoring(
        given.model, methods, seed, False, progress, options, pad=given.tokenizer.pad, baseline=baseline
    )  # fmt: skip


def accuracy(given: TextInputs, records: Records) -> dict[str, float] | None:
    """How often the dense model answers the class that the file says; None where it says none."""
    right = [
        float(record["answer"] == text.label)
        for record, text in zip(records[DENSE], given.texts, strict=True)
        if text.label is not None
    ]
    if not right:
        return None
    found = metrics.mean(right)
    return {"mean": found.mean, "standard_error": found.standard_error, "n": found.n}


def accuracy_told(found: Mapping[str, float] | None) -> list[str]:
    """The accuracy as a line; none where it is not known."""
    if found is None:
        return []
    mean, error = found["mean"], found["standard_error"]
    return [
        f"accuracy of the whole network: {mean:.3f} ± {error:.3f} (n = {found['n']}); one that is low says that the "
        "classes of the file and of the model differ"
    ]


def _store(asked: TextAsked, given: TextInputs, out: Path) -> RecordFiles:
    """Records of each text and part, in files of a folder that is made."""
    files = asked.files(given, {"command": "evaluate texts"})
    names = given.names

    def path(part: str, place: int) -> Path:
        return out / "samples" / f"{names[place]}.{part}.json"

    every = [path(part, k) for part in (DENSE, *asked.tracers) for k in range(len(names))]
    files.check([out / "report.html", out / "scores.json", *every])
    ready_folder(out / "samples")
    return RecordFiles(path, record_key(files))
