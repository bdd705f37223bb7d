"""Docstrings are plain text: backticks mean code, bars are magnitudes, |x|, and tables are those of Markdown."""

import re
from typing import Any

from sphinx.application import Sphinx

CODE = re.compile(r"`+([^`]+)`+")
SPECIAL = re.compile(r"[*|]|(?<=\w)_(?!\w)")  # emphasis, substitutions, references


def mark_up(line: str) -> str:
    """The line as reStructuredText."""
    parts = CODE.split(line)  # text and code by turns
    parts[::2] = [SPECIAL.sub(r"\\\g<0>", text) for text in parts[::2]]
    parts[1::2] = [f"``{code}``" for code in parts[1::2]]
    return "".join(parts)


def marked_up(lines: list[str]) -> list[str]:
    """The lines as reStructuredText, each Markdown table as a list table; examples are left as they are."""
    result: list[str] = []
    inside = example = False
    for line in lines:
        indent, row = line[: len(line) - len(line.lstrip())], line.strip()
        example = row.startswith(">>>") or (example and bool(row))
        if example:
            result.append(line)
            continue
        if not (row.startswith("| ") and row.endswith("|")) and not row.startswith("|---"):
            inside = False
            result.append(mark_up(line))
            continue
        if not inside:
            result += ["", f"{indent}.. list-table::", f"{indent}   :header-rows: 1", ""]
            inside = True
        if not row.startswith("|---"):
            cells = [cell.strip() for cell in row.strip("|").split(" | ")]
            marks = ["* -", *["  -"] * (len(cells) - 1)]
            result += [f"{indent}   {m} {mark_up(c)}" for m, c in zip(marks, cells, strict=True)]
    return result


def process(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Mark up a docstring in place."""
    lines[:] = marked_up(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    """Work on docstrings before napoleon does."""
    app.connect("autodoc-process-docstring", process, priority=400)
    return {"parallel_read_safe": True}
