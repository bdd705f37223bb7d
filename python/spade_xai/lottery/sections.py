"""Parts of a report: sections, tables, and the words for figures."""

from dataclasses import dataclass, field
from typing import Any

from spade_xai.lottery import figures as fg


@dataclass
class Table:
    """A table of text."""

    title: str
    head: list[str]
    rows: list[list[str]]
    name: str = ""


@dataclass
class Section:
    """One question.

    Attributes:
        title: The question.
        says: Sentences, the conclusion first.
        images: {"source": data URL, "text": what it shows}.
        tables: Folded below.
        concepts: The table of concepts by class and ticket, shown open; None: none.
    """

    title: str
    says: list[str]
    images: list[dict[str, str]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    concepts: dict[str, Any] | None = None


def picture(figure: Any, text: str) -> dict[str, str]:
    """A figure inside the page."""
    return {"source": fg.embedded(figure), "text": text}


def number(value: dict[str, Any] | None, digits: int = 3) -> str:
    """Mean ± standard error (n)."""
    if value is None or value.get("mean") is None:
        return "-"
    error = value.get("standard_error")
    spread = "" if error is None else f" ± {error:.{digits}f}"
    return f"{value['mean']:.{digits}f}{spread} (n = {value['n']})"


def verdict(value: dict[str, Any]) -> str:
    """Whether a paired difference is more than twice its standard error."""
    error = value.get("standard_error")
    if value.get("mean") is None or error is None:
        return "which one sample cannot tell from none"
    if abs(value["mean"]) <= 2 * error:
        return "which is within two standard errors of none"
    return "which is more than two standard errors from none"


def last_number(record: dict[str, Any], arm: str) -> int:
    """Number of the sparsest ticket of an arm."""
    return max(t["number"] for t in record["tickets"] if t["arm"] == arm)


def main_arms(record: dict[str, Any]) -> list[str]:
    """Arms that find their own tickets, without those that train given masks with a penalty."""
    return [
        arm
        for arm in record["arms"]
        if not any("penalty" in t for t in record["tickets"] if t["arm"] == arm)
    ]


def row_of(
    record: dict[str, Any], kind: str, arm: str, ticket: int, measure: str
) -> dict[str, Any]:
    """The row of an arm, ticket and measure; without a mean where there is none."""
    for row in record[kind]:
        if (row["arm"], row["number"], row["measure"]) == (arm, ticket, measure):
            return row
    return {"mean": None, "n": 0}
