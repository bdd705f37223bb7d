"""What the report shows of one explained text, as its template takes it: words with colours, and the rest of a card."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from spade_xai.attribution.methods import RECORDS
from spade_xai.reports import heatmap
from spade_xai.reports.answers import class_name, share
from spade_xai.reports.card import common, spaced, title
from spade_xai.reports.explain import DENSE
from spade_xai.reports.text_explain import TextExplanation

SHORT = 90
"""Letters of a text that head its card."""


def text_card(explanation: TextExplanation, classes: Sequence[str] | None = None) -> dict[str, Any]:
    """The values of `texts.html`.

    Args:
        explanation: What to show.
        classes: Names of the model's classes.
    """
    text = " ".join(explanation.text.split())
    return {
        **common(explanation, classes),
        "short": text if len(text) <= SHORT else text[:SHORT].rsplit(" ", 1)[0] + " ...",
        "methods": [
            {"name": spaced(method), "views": _views(explanation, method, classes)}
            for method in explanation.maps
        ],
    }


def _views(
    explanation: TextExplanation, method: str, classes: Sequence[str] | None
) -> list[dict[str, Any]]:
    signed = RECORDS[method].tokens != "magnitude"
    targets = [(explanation.target, explanation.maps[method])]
    if explanation.label is not None and method in explanation.label_maps:
        targets.append((explanation.label, explanation.label_maps[method]))
    return [
        {
            "name": f"for {class_name(classes, target)}",
            "signed": signed,
            "lines": _lines(explanation, maps),
        }
        for target, maps in targets
    ]


def _lines(explanation: TextExplanation, maps: dict[str, Tensor]) -> list[dict[str, Any]]:
    """The text once per column, and after the whole network's once per difference to it."""
    shown = {c: heatmap.scaled(explanation.of_words(values)) for c, values in maps.items()}
    lines = []
    for column, values in shown.items():
        lines.append(
            {"title": title(column), "parts": _parts(explanation, values), "change": False}
        )
        if column != DENSE:
            change, limit = heatmap.difference(values, shown[DENSE])
            what = f"{column} - whole network, ±{share(limit)}"
            lines.append({"title": what, "parts": _parts(explanation, change), "change": True})
    return lines


def _parts(explanation: TextExplanation, values: Tensor) -> list[dict[str, Any]]:
    """The text cut at its words, each with a value in [-1, 1]; what lies between words has none."""
    text, place = explanation.text, 0
    parts: list[dict[str, Any]] = []
    for word, value in zip(explanation.words, values.tolist(), strict=True):
        if word.start > place:
            parts.append({"text": text[place : word.start], "value": None})
        start = max(word.start, place)
        parts.append({"text": text[start : word.end], "value": round(value, 3)})
        place = max(place, word.end)
    if place < len(text):
        parts.append({"text": text[place:], "value": None})
    return [part for part in parts if part["text"]]
