"""An evaluation as rows, one per image and figure: what a shard's file holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from spade_xai.reports.evaluate import Evaluation
from spade_xai.reports.tables import OTHER

SCORE, DIFFERENCE, OTHERS = "score", "difference to dense", "own minus other image"
FIDELITY, FAITHFUL, SECONDS, SKIPPED = "fidelity", "faithful", "seconds", "skipped"


@dataclass
class Rows:
    """Columns of equal length, a row per image and figure.

    Attributes:
        image: The name of the image; empty for times.
        folder: The name of its folder: the class in sets that have a folder per class.
        answer: The class that the dense model answers, which a planted picture's patch decides; -1 for none.
        kind: What the value is: a score, its difference to the dense model's map of the same image, the score of the
            own trace minus that of another image's, a measure of a trace's fidelity, whether a trace is faithful (1 or
            0), or the seconds of a stage for all images. An image that was skipped has a row that says why.
        metric: "auroc", ...; the measure of fidelity, the stage, or why the image was skipped.
        method: Name of the saliency method, or "average", the mean of the image's scores over the methods.
        map: "dense", a tracer, or a control.
        value: The figure.
        faithful: Whether the map is of a faithful trace; None for maps of no trace.
    """

    image: list[str] = field(default_factory=list)
    folder: list[str] = field(default_factory=list)
    answer: list[int] = field(default_factory=list)
    kind: list[str] = field(default_factory=list)
    metric: list[str] = field(default_factory=list)
    method: list[str] = field(default_factory=list)
    map: list[str] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    faithful: list[bool | None] = field(default_factory=list)

    def columns(self) -> dict[str, list[Any]]:
        """The columns by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def put(self, kind: str, value: float, **cells: Any) -> None:
        """Append a row; cells that are not given are empty."""
        row = {
            "image": "", "folder": "", "answer": -1, "metric": "", "method": "", "map": "", "faithful": None,
        }  # fmt: skip
        for name, cell in {**row, "kind": kind, "value": float(value), **cells}.items():
            getattr(self, name).append(cell)


def rows_of(
    found: Evaluation,
    images: Sequence[str],
    folders: Sequence[str],
    answers: Sequence[int],
    skipped: Mapping[str, str],
) -> Rows:
    """The rows of an evaluation of images of one kind, with masks or without.

    Args:
        found: Of the images.
        images: Their names.
        folders: The names of their folders.
        answers: What the dense model answers.
        skipped: Why others were skipped, by name.
    """
    rows = Rows()
    about = [
        {"image": image, "folder": folder, "answer": answer}
        for image, folder, answer in zip(images, folders, answers, strict=True)
    ]
    for metric in found.scores:
        for column in found.columns(metric):
            faithful: Sequence[bool | None] = found.faithful[metric].get(
                column, [None] * len(about)
            )
            for method in found.methods(metric):
                own = found.values(metric, method, column)
                differences = own - found.values(metric, method, "dense")
                figures = {SCORE: (column, own), DIFFERENCE: (column, differences)}
                if column.endswith(OTHER):
                    tracer = column.removesuffix(OTHER)
                    figures[OTHERS] = tracer, found.values(metric, method, tracer) - own
                for kind, (name, values) in figures.items():
                    for cells, value, flag in zip(about, values.tolist(), faithful, strict=True):
                        rows.put(
                            kind, value, metric=metric, method=method, map=name, faithful=flag, **cells
                        )  # fmt: skip
    for tracer, fidelities in found.fidelity.items():
        for cells, fidelity in zip(about, fidelities, strict=True):
            rows.put(FAITHFUL, fidelity.faithful, map=tracer, **cells)
            for measure in ("label", "cosine", "error"):
                for inputs in ("sample", "augmentations"):
                    value = getattr(getattr(fidelity, inputs), measure)
                    rows.put(FIDELITY, value, metric=f"{measure}, {inputs}", map=tracer, **cells)
    for stage, seconds in found.seconds.items():
        rows.put(SECONDS, seconds, metric=stage)
    for name, reason in skipped.items():
        rows.put(SKIPPED, 0.0, image=name, metric=reason)
    return rows
