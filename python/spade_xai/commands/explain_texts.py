"""spade-xai explain on texts: words coloured by relevance in the dense and in the pruned models."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_type_hints

import torch
import typer

from spade_ext.files import read_json, write_json
from spade_xai.commands import options as o
from spade_xai.commands.output import (
    end,
    finite,
    print_fidelity,
    print_inputs,
    print_json,
    ready_folder,
    reporter,
)
from spade_xai.commands.texts import TextAsked
from spade_xai.commands.volume import say
from spade_xai.reports.answers import class_name
from spade_xai.reports.card import says, verdict
from spade_xai.reports.maps_file import plain
from spade_xai.reports.plain import from_plain
from spade_xai.reports.report import GrowingReport
from spade_xai.reports.text_card import text_card
from spade_xai.reports.text_explain import TextExplanation, explain_text

FORMAT = "spade_xai.TextExplanation.1"


def explain_texts(
    asked: TextAsked,
    *,
    class_names: Path | None,
    target: str | None,
    label: str | None,
    out: Path,
    as_json: bool,
    progress: bool | None,
) -> None:
    """Explain each text; what an earlier run of the same command finished is kept."""
    methods = asked.chosen()
    given = asked.load(class_names, target, label)
    settings = {
        "command": "explain texts", "tracers": asked.tracers, "target": given.target, "label": given.label,
    }  # fmt: skip
    files = asked.files(given, settings, class_names)
    report, names = out / "report.html", given.names
    places = [out / f"{name}.json" for name in names]
    files.check([report, *places])
    ready_folder(out)
    arguments = given.trace_arguments(asked.pruning, o.parse_sparsity(asked.ratio))
    title = f"Why this answer? {asked.inputs.model}"
    page = GrowingReport(
        report, title, given.classes, len(names), given.notes(), "texts.html", "texts"
    )
    entries: list[dict[str, Any]] = []
    bars = reporter(progress)
    for number, (name, place) in enumerate(zip(names, places, strict=True), 1):
        say(f"text {number} of {len(names)}: {name}")
        text, encoded = given.texts[number - 1].text, given.encoded[number - 1]
        key = files.key(f"{name} {json.dumps(text)}", [*encoded.tokens])
        found = _finished(place, key)
        if found is None:
            found = explain_text(
                given.model, name, text, encoded, pad=given.tokenizer.pad, target=given.target,
                label=given.label, methods=methods, tracers=asked.tracers, baseline=asked.texts.baseline.value,
                progress=bars, **arguments,
            )  # fmt: skip
            _write(place, found, key)
        page.add_card(text_card(found, given.classes))
        entries.append({**found.summary(), "file": str(place)})
        if not as_json:
            if len(entries) == 1:
                print_inputs(given)
            _print(found, given.classes)
    page.close()
    if as_json:
        print_json({"notes": given.notes(), "report": str(report), "texts": entries})
    else:
        typer.echo(f"report: {report}")
    end(given)


def _write(path: Path, found: TextExplanation, key: str) -> None:
    """Write an explanation, with the key of its run."""
    values = {f.name: getattr(found, f.name) for f in fields(found)}
    maps = {name: _lists(values.pop(name)) for name in ("maps", "label_maps")}
    value = {"run": key, **maps, "notes": {name: plain(v) for name, v in values.items()}}
    write_json(path, FORMAT, finite(value))


def _finished(path: Path, key: str) -> TextExplanation | None:
    """The explanation in a file, if a run of the same settings wrote it for the same text."""
    try:
        saved = read_json("explain", path, FORMAT)
        if saved.get("run") != key:
            return None
        hints = get_type_hints(TextExplanation)
        values: dict[str, Any] = {
            name: from_plain(hints[name], v) for name, v in saved["notes"].items()
        }
        values |= {name: _tensors(saved[name]) for name in ("maps", "label_maps")}
        return TextExplanation(**values)
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # missing, damaged or another kind
        return None


def _lists(maps: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, dict[str, list[float]]]:
    return {m: {c: v.tolist() for c, v in columns.items()} for m, columns in maps.items()}


def _tensors(maps: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, torch.Tensor]]:
    return {m: {c: torch.tensor(v) for c, v in columns.items()} for m, columns in maps.items()}


def _print(result: TextExplanation, classes: Sequence[str] | None) -> None:
    explained = class_name(classes, result.target)
    typer.echo(f"{result.name}: {says(result, classes)} Explained: {explained}.")
    for tracer, fidelity in result.fidelity.items():
        typer.echo(f"  {verdict(tracer, fidelity, classes)}")
        print_fidelity(f"  {tracer}: ", asdict(fidelity), "text")
    for method, columns in result.maps.items():
        for column, values in columns.items():
            of_words = result.of_words(values)
            order = of_words.argsort(descending=True, stable=True)[:3].tolist()
            words = (result.text[result.words[k].start : result.words[k].end] for k in order)
            typer.echo(f"  {method}, {column}: most for the class: {', '.join(words)}")
