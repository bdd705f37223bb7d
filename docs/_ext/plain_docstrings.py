"""Docstrings are plain text: backticks mean code and bars are magnitudes, |x|, not substitutions."""

import re
from typing import Any

from sphinx.application import Sphinx

CODE = re.compile(r"`+([^`]+)`+")


def mark_up(line: str) -> str:
    """The line as reStructuredText; lines of examples are left as they are."""
    if line.lstrip().startswith((">>>", "...")):
        return line
    parts = CODE.split(line)  # text and code by turns
    parts[::2] = [text.replace("|", r"\|") for text in parts[::2]]
    parts[1::2] = [f"``{code}``" for code in parts[1::2]]
    return "".join(parts)


def process(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Mark up a docstring in place."""
    lines[:] = [mark_up(line) for line in lines]


def setup(app: Sphinx) -> dict[str, bool]:
    """Work on docstrings before napoleon does."""
    app.connect("autodoc-process-docstring", process, priority=400)
    return {"parallel_read_safe": True}
