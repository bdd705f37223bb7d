"""Figures H.3 to H.5: sparsities that were tuned for each saliency method, and the scores along the tuning."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spade_ext.files import read_json
from spade_xai.reports.figure import figure_of
from spade_xai.reports.tables import Table
from spade_xai.reproduce.result import of_table
from spade_xai.reproduce.table import PublishedTable
from spade_xai.tracing.schedule import SPARSITY_FORMAT

Files = dict[str, dict[str, dict[str, Any]]]
"""What `spade-xai tune` wrote: column -> method -> content of the file."""

Drawn = tuple[dict[str, Any], list[Table], list[Figure]]
"""The result as JSON takes it, its tables and its pictures."""


def tuned_figure(table: PublishedTable, folder: Path | None) -> Drawn:
    """The figure of what was tuned, by COLUMN/METHOD.json in a folder.

    The place of a layer is 0 for the first and 1 for the last, in order of execution.

    Raises:
        ValueError: There is no such folder or file, a file is damaged, or the networks of a column differ.
    """
    if folder is None:
        raise ValueError("reproduce: --tuned must be given for this figure, got none")
    files = _read(folder)
    rows, shown, figure = _KINDS[table.kind](files)
    result = {
        **of_table(table),
        "network": f"that of the sparsities in {folder}",
        "tuned": {column: list(by_method) for column, by_method in files.items()},
        "rows": rows,
    }
    return result, [shown], [figure]


def _read(folder: Path) -> Files:
    found: Files = {}
    for file in sorted(folder.glob("*/*.json")):
        content = read_json("reproduce", file, SPARSITY_FORMAT)
        found.setdefault(file.parent.name, {})[file.stem] = content
    if not found:
        raise ValueError(f"reproduce: --tuned must hold COLUMN/METHOD.json, got none in {folder}")
    for column, by_method in found.items():
        layers = {tuple(content["sparsity"]) for content in by_method.values()}
        if len(layers) > 1:
            raise ValueError(f"reproduce: files in {folder / column} must be of the same layers")
    return found


def _average(files: Files) -> tuple[list[dict[str, Any]], Table, Figure]:
    """H.3: mean over methods, and how far methods differ."""
    rows, figure = [], figure_of(5.2, 3.4)
    axis = figure.subplots()
    for column, by_method in files.items():
        ratios = [list(content["sparsity"].values()) for content in by_method.values()]
        layers = list(next(iter(by_method.values()))["sparsity"])
        means = [statistics.fmean(of_layer) for of_layer in zip(*ratios, strict=True)]
        spread = [
            statistics.stdev(of_layer) if len(of_layer) > 1 else 0.0
            for of_layer in zip(*ratios, strict=True)
        ]
        x = _places(len(layers))
        (line,) = axis.plot(x, means, label=f"{column}, {len(ratios)} methods")
        low = [m - s for m, s in zip(means, spread, strict=True)]
        high = [m + s for m, s in zip(means, spread, strict=True)]
        axis.fill_between(x, low, high, alpha=0.2, color=line.get_color())
        rows += [
            {"row": layer, "column": column, "n": len(ratios), "mean": m, "deviation": s}
            for layer, m, s in zip(layers, means, spread, strict=True)
        ]
    _labelled(axis, "mean of tuned sparsities")
    cells = [
        [r["row"], r["column"], f"{r['mean']:.3f}", f"{r['deviation']:.3f}", str(r["n"])]
        for r in rows
    ]
    shown: Table = {
        "title": "Tuned sparsity of each layer, mean over saliency methods",
        "head": ["layer", "column", "mean", "deviation", "methods"],
        "rows": cells,
        "note": "Deviation is the standard deviation over methods; shaded in the picture.",
    }
    return rows, shown, figure


def _by_method(files: Files) -> tuple[list[dict[str, Any]], Table, Figure]:
    """H.4: one line per method."""
    figure = figure_of(5.2 * len(files), 3.4)
    rows, names = [], [f"{c}, {m}" for c, by_method in files.items() for m in by_method]
    of_layer: dict[str, dict[str, float]] = {}
    panels = figure.subplots(1, len(files), squeeze=False)[0]
    for axis, (column, by_method) in zip(panels, files.items(), strict=True):
        for method, content in by_method.items():
            ratios = content["sparsity"]
            axis.step(_places(len(ratios)), list(ratios.values()), where="mid", label=method)
            for layer, ratio in ratios.items():
                rows.append({"row": layer, "column": column, "method": method, "sparsity": ratio})
                of_layer.setdefault(layer, {})[f"{column}, {method}"] = ratio
        axis.set_title(column)
        _labelled(axis, "tuned sparsity")
    cells = [
        [layer, *("" if name not in own else f"{own[name]:g}" for name in names)]
        for layer, own in of_layer.items()
    ]
    shown: Table = {
        "title": "Tuned sparsity of each layer by saliency method",
        "head": ["layer", *names],
        "rows": cells,
        "note": "A blank layer was not tuned.",
    }
    return rows, shown, figure


def _along(files: Files) -> tuple[list[dict[str, Any]], Table, Figure]:
    """H.5: the mean score of each ratio of each group of layers, mean over methods, later groups as chosen."""
    figure = figure_of(5.2 * len(files), 3.4)
    rows: list[dict[str, Any]] = []
    panels = figure.subplots(1, len(files), squeeze=False)[0]
    for axis, (column, by_method) in zip(panels, files.items(), strict=True):
        scores: dict[tuple[tuple[str, ...], float], list[float]] = {}
        for content in by_method.values():
            for tried in content["history"]:
                key = tuple(tried["group"]), tried["ratio"]
                scores.setdefault(key, []).append(tried["mean"])
        groups = list(dict.fromkeys(group for group, _ in reversed(scores)))
        for ratio in sorted({ratio for _, ratio in scores}):
            places = dict(zip(groups, _places(len(groups)), strict=True))
            found = {g: scores[g, ratio] for g in groups if (g, ratio) in scores}
            means = [statistics.fmean(of_group) for of_group in found.values()]
            axis.plot([places[g] for g in found], means, marker="o", ms=3, label=f"{ratio:g}")
            rows += [
                {
                    "row": _name(group), "column": column, "ratio": ratio,
                    "n": len(of_group), "mean": mean,
                }
                for (group, of_group), mean in zip(found.items(), means, strict=True)
            ]  # fmt: skip
        axis.set_title(column)
        _labelled(axis, "score of the tuning")
    ratios = sorted({r["ratio"] for r in rows})
    means_of = {(r["row"], r["column"], r["ratio"]): f"{r['mean']:.4f}" for r in rows}
    lines = dict.fromkeys((r["row"], r["column"]) for r in rows)
    cells = [[*line, *(means_of.get((*line, ratio), "") for ratio in ratios)] for line in lines]
    shown: Table = {
        "title": "Score along the tuning, mean over saliency methods",
        "head": ["layers", "column", *(f"sparsity {ratio:g}" for ratio in ratios)],
        "rows": cells,
        "note": "Layers are tuned from the last to the first: later ones are as chosen, earlier ones dense.",
    }
    return rows, shown, figure


_KINDS: Mapping[str, Callable[[Files], tuple[list[dict[str, Any]], Table, Figure]]] = {
    "ratios": _average,
    "ratios by method": _by_method,
    "tuning": _along,
}
KINDS = tuple(_KINDS)


def _places(count: int) -> list[float]:
    return [k / max(count - 1, 1) for k in range(count)]


def _name(group: Sequence[str]) -> str:
    return group[0] if len(group) == 1 else f"{group[0]} to {group[-1]}"


def _labelled(axis: Axes, text: str) -> None:
    axis.set_xlabel("place of the layer: 0 first, 1 last")
    axis.set_ylabel(text)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
