"""Text of the documents' tables: Markdown, times with their units, and what a result was measured on."""

from typing import Any


def device(data: dict[str, Any]) -> str:
    """What a result file was measured on, in short."""
    machine = data["machine"]
    return f"{machine['threads']} CPU threads" if machine["device"] == "cpu" else machine["device"]


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, the first column to the left."""
    ruler = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ruler, *rows]) + "\n"


def seconds(value: float) -> str:
    """Three digits and a unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"
    return f"{value / 1e-6:.3g} µs"
