"""A report of a run: one HTML page that needs no other file, and the same figures as CSV, JSON and Markdown."""

import csv
import io
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from spade_xai.lottery import concept_sections, map_sections, ticket_sections
from spade_xai.lottery import question_sections as qs
from spade_xai.lottery import sections as sc
from spade_xai.lottery.collect import collect
from spade_xai.lottery.folder import Run
from spade_xai.lottery.storage import finite, write_json, write_text

TABLES = (
    "tickets", "drift", "concepts", "banks", "stability", "shortcut", "regularize", "difficulty", "compare", "tcav",
)  # fmt: skip


def write_report(run: Run, out: Path) -> dict[str, Any]:
    """Write OUT.html (whatever name is given), OUT.json, OUT.md and one CSV per table beside it.

    Args:
        run: Whose stages to report on; those that were not run are left out.
        out: Path of the page.

    Returns:
        The record, as the JSON file holds it.
    """
    record = finite(collect(run))
    found = build_sections(record, run)
    title = f"Lottery tickets on {record['data']['kind']}"
    page = (
        _environment().from_string(_source()).render(title=title, lead=lead(record), sections=found)
    )
    write_text(out, page)
    base = out.with_suffix("")
    write_json(base.with_suffix(".json"), "report", record)
    write_text(base.with_suffix(".md"), _markdown(title, lead(record), found))
    for section in found:
        for table in section.tables:
            write_text(base.parent / f"{base.name}-{table.name}.csv", _csv(table))
    return record


def report_files(out: Path) -> list[Path]:
    """Every file that `write_report` may write for a page."""
    base = out.with_suffix("")
    tables = [base.parent / f"{base.name}-{name}.csv" for name in TABLES]
    return [out, base.with_suffix(".json"), base.with_suffix(".md"), *tables]


def build_sections(record: dict[str, Any], run: Run, *, pictures: bool = True) -> list[sc.Section]:
    """The sections of the stages that were run; the film strip of maps only with pictures."""
    found = [ticket_sections.accuracy(record)]
    if "drift" in record:
        found += [map_sections.film(record, run)] if pictures else []
        found.append(map_sections.drift(record))
    if "concepts" in record:
        found += [concept_sections.concepts(record), concept_sections.stability(record)]
    if record.get("shortcut"):
        found.append(ticket_sections.shortcut(record))
    if any(row["measure"] == "traced/answer_kept" for row in record.get("drift", [])):
        found.append(qs.traces(record))
    for name in ("regularize", "difficulty", "compare", "tcav"):
        if name in record:
            found.append(getattr(qs, name)(record))
    return found


def lead(record: dict[str, Any]) -> str:
    """What was done, in a few sentences."""
    pictures, training = record["pictures"], record["training"]
    return (
        f"Network {record['network']['spec']}, {len(record['classes'])} classes; "
        f"{pictures['train']} pictures to train, "
        f"{pictures['validation']} to choose weights by, {pictures['test']} to test. Each round removes some of the "
        f"living weights, sets the others back and trains for {training['epochs']} epochs. "
        f"Arms: {', '.join(record['arms'])}; seeds: {', '.join(map(str, record['seeds']))}. ± is one standard error."
    )


def _source() -> str:
    return resources.files("spade_xai.lottery").joinpath("report.html").read_text(encoding="utf-8")


def _environment() -> jinja2.Environment:
    return jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)


def _csv(table: sc.Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.head)
    writer.writerows(table.rows)
    return text.getvalue()


def _markdown(title: str, intro: str, sections: list[sc.Section]) -> str:
    lines = ["<!-- spade_xai.lottery.markdown.1 -->", "", f"# {title}", "", intro]
    for section in sections:
        lines += ["", f"## {section.title}", ""]
        lines += [line for text in section.says for line in (text, "")]
        if section.concepts is not None:
            head = ["class", *section.concepts["head"]]
            rows = [
                [row["name"], *[_cell(cell) for cell in row["cells"]]]
                for row in section.concepts["rows"]
            ]
            lines += _markdown_table(head, rows)
        for table in section.tables:
            lines += ["", f"### {table.title}", "", *_markdown_table(table.head, table.rows)]
    return "\n".join(lines) + "\n"


def _cell(cell: list[dict[str, Any]]) -> str:
    """Changed concepts bold, those no better than chance in brackets."""
    words = []
    for c in cell:
        word = c["name"] if c["known"] else f"({c['name']})"
        words.append(word if c["same"] else f"**{word}**")
    return ", ".join(words)


def _markdown_table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return lines + ["| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in rows]
