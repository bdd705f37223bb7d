"""Pictures and pages of explanations: a PNG grid per image, and one HTML file with everything inside."""

import base64
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from spade_ext.files import write_bytes
from spade_xai.reports.explain import Explanation, class_name, unit_range
from spade_xai.tracing.fidelity import Fidelity
from spade_xai.tracing.layer_report import LayerReport

PICTURE_FORMAT, PAGE_FORMAT = "spade_xai.Picture.1", "spade_xai.Page.1"


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write to a temporary name in path's folder, then rename: path never holds half a file."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(target, data)


def write_page(path: str | Path, page: str) -> None:
    """Write an HTML page, whole or not at all, with its format and a digest in its second line."""
    first, _, rest = page.partition("\n")
    digest = hashlib.blake2b(page.encode(), digest_size=16).hexdigest()
    write_atomically(path, f"{first}\n<!-- {PAGE_FORMAT} {digest} -->\n{rest}".encode())


def grid(
    explanation: Explanation, mask: Tensor | None = None, classes: Sequence[str] | None = None
) -> Figure:
    """One row per method: the input, the dense map, and the map of each trace.

    Maps are scaled by their largest magnitude. Those with signs are blue against and red for the target.

    Args:
        explanation: What to show.
        mask: Ground truth bool [H, W], outlined on the input; None: none.
        classes: Names of the model's classes, for what unfaithful traces answer.
    """
    methods = list(explanation.maps)
    columns = list(explanation.maps[methods[0]])
    figure = figure_of(1.6 * (1 + len(columns)), 1.6 * len(methods) + 0.3)
    axes = figure.subplots(len(methods), 1 + len(columns), squeeze=False)
    picture = explanation.image.permute(1, 2, 0).clamp(0, 1).cpu().numpy()
    for row, method in zip(axes, methods, strict=True):
        row[0].imshow(picture)
        if mask is not None and bool(mask.any()):
            row[0].contour(mask.cpu().numpy(), levels=[0.5], colors="white", linewidths=1)
        row[0].set_ylabel(method.replace("_", "\n"), fontsize=8)
        for axis, column in zip(row[1:], columns, strict=True):
            values, signed = unit_range(explanation.maps[method][column].float())
            colors = {"cmap": "seismic", "vmin": -1} if signed else {"cmap": "inferno", "vmin": 0}
            axis.imshow(values.cpu().numpy(), vmax=1, **colors)
    for axis, title in zip(axes[0], ["input", *columns], strict=True):
        fidelity = explanation.fidelity.get(title)
        if fidelity is not None and not fidelity.faithful and fidelity.verdict is not None:
            title = (
                f"{title}: not faithful,\nanswers {class_name(classes, fidelity.verdict.answer)}"
            )
            axis.set_title(title, fontsize=7, color="red")
        else:
            axis.set_title(title, fontsize=9)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    return figure


def sparsity_chart(layers: Mapping[str, Sequence[LayerReport]]) -> Figure:
    """Share of zero weights of each layer in order of execution, one line per trace."""
    names = [layer.name for layer in next(iter(layers.values()))]
    figure = figure_of(max(5.0, 0.22 * len(names) + 1.5), 3.2)
    axis = figure.subplots()
    for tracer, reports in layers.items():
        axis.plot(
            range(len(reports)),
            [layer.sparsity_got for layer in reports],
            marker="o",
            ms=3,
            label=tracer,
        )
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
    axis.set_ylim(-0.02, 1.02)
    axis.set_ylabel("share of zero weights")
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
    return figure


def png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as a PNG file, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(
        buffer, format="png", dpi=dpi, metadata={"Software": None, "Source": PICTURE_FORMAT}
    )
    return buffer.getvalue()


def html(
    explanations: Iterable[Explanation],
    *,
    title: str = "SPADE",
    classes: Sequence[str] | None = None,
    masks: Mapping[str, Tensor] | None = None,
    tables: Sequence[Mapping[str, Any]] = (),
    notes: Sequence[str] = (),
) -> str:
    """A page that needs no other file and no network.

    Args:
        explanations: Shown one after the other.
        title: The title of the page.
        classes: Names of the model's classes.
        masks: Ground truth of images, by name.
        tables: Shown first, each {"title", "head": [...], "rows": [[...], ...]}.
        notes: Sentences below the tables.
    """
    source = (
        resources.files("spade_xai.reports").joinpath("report.html").read_text(encoding="utf-8")
    )
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    sections = [_section(e, classes, (masks or {}).get(e.name)) for e in explanations]
    return environment.from_string(source).render(
        title=title, sections=sections, tables=tables, notes=notes
    )


def _section(
    explanation: Explanation, classes: Sequence[str] | None, mask: Tensor | None
) -> dict[str, Any]:
    stages: list[str] = []
    for seconds in explanation.seconds.values():
        stages += [stage for stage in seconds if stage not in stages]
    return {
        "name": explanation.name,
        "target": class_name(classes, explanation.target),
        "prediction": class_name(classes, explanation.prediction),
        "grid": embedded(grid(explanation, mask, classes)),
        "chart": embedded(sparsity_chart(explanation.layers)) if explanation.layers else None,
        "fidelity": explanation.fidelity,
        "badges": {tracer: badge(f, classes) for tracer, f in explanation.fidelity.items()},
        "stages": stages,
        "seconds": explanation.seconds,
        "layers": explanation.layers,
    }


def badge(fidelity: Fidelity, classes: Sequence[str] | None) -> str | None:
    """What an unfaithful trace answers; None of a faithful one."""
    if fidelity.faithful or fidelity.verdict is None:
        return None
    verdict = fidelity.verdict
    answer = class_name(classes, verdict.answer)
    return f"not faithful: the trace answers {answer} ({verdict.probability:.0%})"


def embedded(figure: Figure) -> str:
    """The figure as the source of an <img>."""
    return "data:image/png;base64," + base64.b64encode(png(figure)).decode()


def figure_of(width: float, height: float) -> Figure:
    """A figure with a canvas of its own: pyplot's global state is not touched."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
