"""The report's plots as PNG, in matplotlib."""

import base64
import io
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator

from benchmarks.configurations import targets

matplotlib.use("Agg")


def png(figure: Figure) -> str:
    """A figure as a data URL."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def latency(rows: list[dict[str, Any]]) -> Figure:
    """Seconds per sample of each configuration beside the published figures, on a log scale."""
    figure = Figure(figsize=(9, 0.55 * len(rows) + 1.2))
    axes = figure.add_subplot()
    shown = set()
    for y, row in enumerate(reversed(rows)):
        full = row["mode"] == "full"
        parts = row["forward_hessian_seconds"], row["prune_save_seconds"]
        for height, part, colour, label in (
            (y + 0.17, parts[0], "tab:blue", "forward + Hessian"),
            (y - 0.17, parts[1], "tab:orange", "pruning + saving"),
        ):
            label = label if full else f"{label}, extrapolated"
            axes.barh(
                height, part, 0.32, color=colour, alpha=1 if full else 0.55,
                hatch=None if full else "//", label=None if label in shown else label,
            )  # fmt: skip
            shown.add(label)
        axes.plot(row["total_seconds"], y, "k|", ms=16, label=None if "total" in shown else "total")
        shown.add("total")
        for name in row["targets"]:
            axes.plot(
                targets()[name].seconds, y, "r*", ms=11,
                label=None if "published" in shown else "published, on a GPU",
            )  # fmt: skip
            shown.add("published")
    axes.set_yticks(range(len(rows)), [row["configuration"] for row in reversed(rows)])
    every = [row[k] for row in rows for k in ("forward_hessian_seconds", "prune_save_seconds")]
    axes.set_xscale("log")
    axes.set_xlim(left=min(every) / 3)
    axes.set_xlabel("seconds per sample")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08 - 1 / (len(rows) + 1)), ncols=3)
    return figure


def roofline(points: list[dict[str, Any]]) -> Figure:
    """GFLOP/s of each kernel over its flop per byte, under the machine's copy and SGEMM rates."""
    figure = Figure(figsize=(8.5, 5))
    axes = figure.add_subplot()
    for op in dict.fromkeys(p["op"] for p in points):
        some = [p for p in points if p["op"] == op]
        axes.plot(
            [p["flop"] / p["bytes"] for p in some], [p["gflops"] for p in some], "o", label=op
        )
    sgemm = float(np.median([p["sgemm_gflops"] for p in points]))
    copy = float(np.median([p["copy_gbs"] for p in points]))
    low, high = axes.get_xlim()
    x = np.geomspace(max(low, 0.1), max(high, 2 * sgemm / copy), 200)
    axes.plot(
        x, np.minimum(copy * x, sgemm), "k-",
        label=f"copy {copy:.0f} GB/s, SGEMM {sgemm:.0f} GFLOP/s",
    )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("flop per byte that must move")
    axes.set_ylabel("GFLOP/s")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def scaling(fits: list[dict[str, Any]]) -> Figure:
    """Time over one size of each op, with the fitted power."""
    columns = 4
    lines = -(-len(fits) // columns)
    figure = Figure(figsize=(3.1 * columns, 2.5 * lines), layout="constrained")
    for i, fit in enumerate(fits):
        axes = figure.add_subplot(lines, columns, i + 1)
        x, y = np.array(fit["values"]), np.array(fit["seconds"])
        axes.loglog(x, y, "o")
        if fit["exponent"] is not None:
            axes.loglog(x, fit["factor"] * x ** fit["exponent"], "-")
            axes.set_title(f"{fit['op']}\n{fit['variable']}^{fit['exponent']:.2f}", fontsize=9)
        axes.set_xlabel(fit["variable"], fontsize=8)
        axes.tick_params(labelsize=7)
        axes.minorticks_off()
        axes.set_xticks(x, [f"{v:.0f}" for v in x])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=6))
        axes.yaxis.set_major_formatter(EngFormatter("s"))
    return figure
