"""Pictures of a report: curves over living weights and the film strip of maps over tickets."""

import base64
import io
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from spade_xai.lottery.folder import Run
from spade_xai.lottery.gradcam import enlarged
from spade_xai.lottery.maps import maps_of

# Told apart by those who do not see red and green, on a light page and on a dark one.
COLORS = ("#2f7ed8", "#e07b00", "#1aa179", "#c44e9b", "#8a6fd1", "#9a8a00", "#d2453d", "#5f7a8a")

CONCEPTS_ONLY = ", concepts only"


def new_figure(width: float, height: float) -> Figure:
    """A figure with a canvas of its own: pyplot's global state is not touched."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def embedded(figure: Figure) -> str:
    """The figure as a data URL of a PNG on white."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=144, facecolor="white", metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


Series = dict[str, list[tuple[float, float, float]]]
"""Points (share of living weights, value, standard error) by name."""


def curves(
    series: Series, label: str, levels: dict[str, float] | None = None, title: str = ""
) -> Figure:
    """Lines over the share of living weights, from dense on the left to sparse, and levels to compare with."""
    figure = new_figure(5.2, 3.4)
    axis = figure.subplots()
    colors: dict[str, str] = {}
    for name, points in series.items():
        of = name.removesuffix(CONCEPTS_ONLY)
        color = colors.setdefault(of, COLORS[len(colors) % len(COLORS)])
        alive, values, errors = zip(*points, strict=True)
        axis.errorbar(
            alive, values, errors, marker="o", ms=3.5, lw=1.4, capsize=2, label=name, color=color,
            ls="-" if of == name else "--",
        )  # fmt: skip
    for style, (name, value) in zip(("--", ":", "-."), (levels or {}).items(), strict=False):
        axis.axhline(value, ls=style, color="#555", lw=1.1, label=name)
    axis.set_xscale("log")
    axis.invert_xaxis()
    axis.set_xlabel("share of weights alive")
    axis.set_xticks(ticks := [1, 0.5, 0.2, 0.1, 0.05, 0.02], [f"{t:.0%}" for t in ticks])
    axis.minorticks_off()
    shares = [p[0] for points in series.values() for p in points]
    axis.set_xlim(1.08, min([*shares, 0.9]) * 0.92)
    axis.set_ylabel(label)
    axis.set_title(title, fontsize=10)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7, ncols=2)
    return figure


def alive_of(record: dict[str, Any], arm: str, number: int) -> float:
    """Mean share of living weights of an arm's ticket."""
    found = [t["alive"] for t in record["tickets"] if t["arm"] == arm and t["number"] == number]
    return sum(found) / len(found)


def ticket_series(
    record: dict[str, Any], keys: dict[str, str], arms: Sequence[str], error: Callable[..., Any]
) -> Series:
    """Values of tickets, mean over seeds, of some keys by their names."""
    series: Series = {}
    for arm in arms:
        numbers = sorted({t["number"] for t in record["tickets"] if t["arm"] == arm})
        for key, name in keys.items():
            points = []
            for number in numbers:
                values = [
                    t[key]
                    for t in record["tickets"]
                    if t["arm"] == arm and t["number"] == number and t.get(key) is not None
                ]
                if values:
                    found = error(values)
                    points.append(
                        (
                            alive_of(record, arm, number),
                            found["mean"],
                            found["standard_error"] or 0.0,
                        )
                    )
            if points:
                series[f"{arm}{name}"] = points
    return series


def row_series(record: dict[str, Any], kind: str, measure: str, arms: Sequence[str]) -> Series:
    """Values of rows of stability or drift."""
    series: Series = {}
    for arm in arms:
        points = [
            (alive_of(record, arm, row["number"]), row["mean"], row["standard_error"] or 0.0)
            for row in record.get(kind, [])
            if row["arm"] == arm and row["measure"] == measure and row["mean"] is not None
        ]
        if points:
            series[arm] = points
    return series


def film_strip(run: Run, key: str, chosen: Sequence[int], arm_index: int = 0) -> Figure:
    """Rows of pictures, columns of tickets: the picture, then each ticket's map over it with its 0.75 outline."""
    arm = run.arms()[arm_index]
    numbers = arm.numbers()
    shown = [numbers[round(k * (len(numbers) - 1) / 7)] for k in range(8)]
    numbers = numbers if len(numbers) <= 8 else sorted(set(shown))
    size = run.network.size
    figure = new_figure(1.25 * (1 + len(numbers)), 1.3 * len(chosen) + 0.35)
    axes = figure.subplots(len(chosen), 1 + len(numbers), squeeze=False)
    maps = {k: enlarged(maps_of(arm, k, key)["maps"][list(chosen)], size) for k in numbers}
    for row, (line, index) in enumerate(zip(axes, chosen, strict=True)):
        picture = run.data.test.picture(index, size).permute(1, 2, 0).numpy()
        line[0].imshow(picture)
        line[0].set_ylabel(run.data.classes[int(run.data.test.labels[index])], fontsize=6)
        for axis, number in zip(line[1:], numbers, strict=True):
            heat = maps[number][row].numpy()
            axis.imshow(picture)
            axis.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.55)
            if float(heat.max()) > 0:
                axis.contour(heat, levels=[0.75], colors="white", linewidths=0.9)
    axes[0][0].set_title("picture", fontsize=8)
    for axis, number in zip(axes[0][1:], numbers, strict=True):
        alive = arm.ticket(number).alive
        axis.set_title("dense" if number == 0 else f"ticket {number}\n{alive:.0%}", fontsize=8)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    return figure


def default_pictures(run: Run, available: int, count: int = 4, position: int = 2) -> list[int]:
    """The third test picture of each of the first classes, as in the paper; its first where there are fewer."""
    chosen = []
    for y in range(len(run.data.classes)):
        own = (run.data.test.labels == y).nonzero()[:, 0]
        own = own[own < available]
        if len(own):
            chosen.append(int(own[min(position, len(own) - 1)]))
    return chosen[:count]
