"""The PNG grid of an explanation."""

from collections.abc import Sequence
from typing import Any

from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from spade_xai.reports import heatmap
from spade_xai.reports.card import says, spaced, title, verdict
from spade_xai.reports.explain import DENSE, Explanation
from spade_xai.reports.figure import BAD, Picture, figure_of

SIDE = 1.9  # inches of a picture


def grid(
    explanation: Explanation, mask: Tensor | None = None, classes: Sequence[str] | None = None
) -> Picture:
    """One row per method: the photograph, the whole network's map, each trace's map, and the difference of both.

    Maps lie over the photograph, scaled as in the report.

    Args:
        explanation: What to show.
        mask: Ground truth bool [H, W], outlined on every picture; None: none.
        classes: Names of the model's classes.
    """
    methods, columns = list(explanation.maps), list(explanation.maps[next(iter(explanation.maps))])
    titles = ["photograph", title(columns[0])]
    for column in columns[1:]:
        titles += [column, f"{column} - whole"]
    figure = figure_of(SIDE * len(titles) + 0.3, SIDE * len(methods) + 0.9)
    axes = figure.subplots(len(methods), len(titles), squeeze=False)
    for row, method in zip(axes, methods, strict=True):
        maps = explanation.maps[method]
        signed = heatmap.is_signed(method, maps[DENSE])
        shown = {c: heatmap.scaled(values) for c, values in maps.items()}
        panels = [(shown[DENSE], signed)]
        for column in columns[1:]:
            panels += [
                (shown[column], signed),
                (heatmap.difference(shown[column], shown[DENSE])[0], True),
            ]
        row[0].imshow(explanation.image.permute(1, 2, 0).clamp(0, 1).cpu().numpy())
        row[0].set_ylabel(spaced(method), fontsize=9)
        for axis, (values, signs) in zip(row[1:], panels, strict=True):
            axis.imshow(heatmap.overlaid(explanation.image, values, signs))
        _bar(figure, row[-1], signed)
        for axis in row:
            if mask is not None and bool(mask.any()):
                axis.contour(mask.cpu().numpy(), levels=[0.5], colors="white", linewidths=1)
            axis.set_xticks([])
            axis.set_yticks([])
    for axis, text in zip(axes[0], titles, strict=True):
        axis.set_title(text, fontsize=9)
    lines = [says(explanation, classes)]
    verdicts = [verdict(tracer, f, classes) for tracer, f in explanation.fidelity.items()]
    lines += [str(spoken) for spoken in verdicts]
    good = all(spoken.faithful for spoken in verdicts)
    figure.suptitle(" ".join(lines), fontsize=10, wrap=True, color="black" if good else BAD)
    return figure


def _bar(figure: Figure, axis: Any, signed: bool) -> None:
    """The colour bar of a row of maps."""
    norm = Normalize(-1 if signed else 0, 1)
    names = (heatmap.MAGNITUDES, heatmap.SIGNS)
    bar = figure.colorbar(ScalarMappable(norm, names[signed]), ax=axis, fraction=0.046, pad=0.04)
    ticks = {-1.0: "against", 0.0: "0", 1.0: "for"} if signed else {0.0: "0", 1.0: "much"}
    bar.set_ticks(list(ticks), labels=list(ticks.values()), fontsize=7)
    bar.outline.set_visible(False)
