"""What the report shows of one explanation, as its template takes it: verdict, answers, maps, layers and times."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from spade_xai.attribution.methods import RECORDS
from spade_xai.reports import heatmap
from spade_xai.reports.answers import class_name, share
from spade_xai.reports.explain import DENSE, Explained, Explanation
from spade_xai.reports.page import heat, outline, photograph
from spade_xai.tracing.fidelity import Fidelity
from spade_xai.tracing.layer_report import LayerReport

UNKNOWN = "Bright pixels have large values."
"""How to read maps of a method that this package does not know."""


def card(
    explanation: Explanation,
    classes: Sequence[str] | None = None,
    mask: Tensor | None = None,
    introduction: str = "",
) -> dict[str, Any]:
    """The values of `card.html`.

    Args:
        explanation: What to show.
        classes: Names of the model's classes.
        mask: Ground truth bool [H, W], outlined on every picture; None: none.
        introduction: A sentence below the name.
    """
    outlined = mask is not None and bool(mask.any())
    return {
        **common(explanation, classes),
        "introduction": introduction,
        "photograph": photograph(explanation.image),
        "ratio": f"{explanation.image.shape[2]} / {explanation.image.shape[1]}",
        "outline": outline(mask) if mask is not None and outlined else None,
        "methods": [
            {"name": spaced(method), "views": _views(explanation, method, classes)}
            for method in explanation.maps
        ],
    }


def common(explanation: Explained, classes: Sequence[str] | None) -> dict[str, Any]:
    """What cards of images and of texts share: verdicts, answers, agreement, layers and times."""
    stages: list[str] = []
    for seconds in explanation.seconds.values():
        stages += [stage for stage in seconds if stage not in stages]
    return {
        "name": explanation.name,
        "says": says(explanation, classes),
        "verdicts": [verdict(tracer, f, classes) for tracer, f in explanation.fidelity.items()],
        "explained": class_name(classes, explanation.target),
        "answered": class_name(classes, explanation.prediction),
        "answers": [
            {
                "title": title(column),
                "rows": [
                    {
                        "name": class_name(classes, answer.index),
                        "probability": answer.probability,
                        "marked": answer.index in (explanation.target, explanation.label),
                    }
                    for answer in found
                ],
            }
            for column, found in explanation.answers.items()
        ],
        "equal": [
            f"{spaced(method).capitalize()} is left out: its maps equal those of {spaced(other)}."
            for method, other in explanation.equal.items()
        ],
        "fidelity": explanation.fidelity,
        "stages": stages,
        "seconds": {title(column): s for column, s in explanation.seconds.items()},
        "layers": {tracer: _bars(layers) for tracer, layers in explanation.layers.items()},
        "chart": max((len(layers) for layers in explanation.layers.values()), default=0),
    }


def title(column: str) -> str:
    """What a column is called."""
    return "whole network" if column == DENSE else column


def spaced(name: str) -> str:
    """A method's name in words."""
    return name.replace("_", " ")


def says(explanation: Explained, classes: Sequence[str] | None) -> str:
    """What the whole network answers, and what the user says, in a sentence."""
    answer, label = class_name(classes, explanation.prediction), explanation.label
    found = explanation.answers.get(DENSE)
    probability = f" {share(found[0].probability)}" if found else ""
    if label is None:
        return f"Answers {answer}{probability}."
    if label == explanation.prediction:
        return f"Says {answer}{probability}, as you do."
    yours = share(explanation.label_probability[DENSE])
    return f"Says {answer}{probability}, you say {class_name(classes, label)} {yours}."


@dataclass(frozen=True)
class Spoken:
    """The verdict on a trace: what it answers, a word on it, whether that is the right one, and why not."""

    text: str
    word: str
    faithful: bool
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.text}: {self.word}."


def verdict(tracer: str, fidelity: Fidelity, classes: Sequence[str] | None) -> Spoken:
    """What a trace answers, and whether that is what the whole network does."""
    found = fidelity.verdict
    if found is None:
        return Spoken(f"The {tracer} trace", "not judged", True, ())
    answer, dense = (class_name(classes, k) for k in (found.answer, found.dense_answer))
    told = found.told()
    reasons = [f"it answers {answer} and not {dense}" if r == told else r for r in found.reasons]
    text = f"The {tracer} trace answers {answer} {share(found.probability)}"
    word = "faithful" if found.faithful else "not faithful"
    return Spoken(text, word, found.faithful, tuple(reasons))


def _views(
    explanation: Explanation, method: str, classes: Sequence[str] | None
) -> list[dict[str, Any]]:
    """Panels for the target; where a label is given, also for the label, and for their difference."""
    record = RECORDS.get(method)
    maps = explanation.maps[method]
    signed = heatmap.is_signed(method, maps[DENSE])
    read = UNKNOWN if record is None else record.read
    target = class_name(classes, explanation.target)
    views = [_view(f"for {target}", maps, signed, read)]
    other = explanation.label_maps.get(method)
    if other is not None and explanation.label is not None:
        label = class_name(classes, explanation.label)
        views.append(_view(f"for {label}", other, signed, read))
        views.append(_contrast(maps, other, (label, target)))
    return views


def _contrast(
    maps: dict[str, Tensor], other: dict[str, Tensor], names: tuple[str, str]
) -> dict[str, Any]:
    """The maps of two classes on one scale, the second's less the first's."""
    groups = []
    for column in maps:
        limit = max(heatmap.limit_of(maps[column]), heatmap.limit_of(other[column]))
        change, ends = heatmap.difference(
            heatmap.scaled(maps[column], limit), heatmap.scaled(other[column], limit)
        )
        panel = {"title": f"{title(column)}, ±{share(ends)}", "source": heat(change, True)}
        groups.append({"column": column, "panels": [panel]})
    read = f"Red: the map for {names[1]} is larger there; blue: the map for {names[0]} is."
    return {
        "name": "difference of both",
        "signed": True,
        "read": read,
        "groups": groups,
        "classes": names,
    }


def _view(name: str, maps: dict[str, Tensor], signed: bool, read: str) -> dict[str, Any]:
    """One group per column: the map, and after the first group its difference to the whole network's."""
    shown = {c: heatmap.scaled(values) for c, values in maps.items()}
    groups = []
    for column, values in shown.items():
        panels = [{"title": title(column), "source": heat(values, signed)}]
        if column != DENSE:
            change, limit = heatmap.difference(values, shown[DENSE])
            what = f"{column} - whole network, ±{share(limit)}"
            panels.append({"title": what, "source": heat(change, True)})
        groups.append({"column": column, "panels": panels})
    return {"name": name, "signed": signed, "read": read, "groups": groups, "classes": None}


def _bars(layers: Sequence[LayerReport]) -> list[dict[str, Any]]:
    return [
        {"layer": layer, "percent": round(100 * layer.sparsity_got, 1), "left": bool(layer.reason)}
        for layer in layers
    ]
