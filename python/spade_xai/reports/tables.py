"""Tables of an evaluation: from its record, which is JSON, to text, Markdown and the report's HTML."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TypedDict

from torch import Tensor
from typing_extensions import NotRequired

from spade_xai.measures import metrics
from spade_xai.reports.evaluate import AVERAGE, Evaluation

TITLES = {
    "auroc": "AUROC of the patch's pixels",
    "pointing_game": "Pointing game: share of maps whose highest pixel lies on the patch",
    "insertion": "Insertion on clean images",
    "deletion": "Deletion on clean images (less is better)",
    "dffot": "DFFOT: share of texts whose answer flips without the token that the map names first",
    "dfmit": "DFMIT: share of a text's tokens to remove, by falling value, until the answer flips (less is better)",
}

BETTER = {
    "auroc": "Higher is better, and 0.5 is chance. Edges and random maps know nothing of the network: a map that does "
    "not beat them shows nothing.",
    "pointing_game": "Higher is better; chance is the patch's share of the image.",
    "insertion": "Higher is better: the pixels that the map names first convince the whole network sooner.",
    "dffot": "Higher is better. Random maps know nothing of the network: a map that does not beat them shows nothing.",
    "dfmit": "Lower is better; a text whose answer never flips counts 1.",
}
LOWER = ("deletion", "dfmit")
"""Metrics of which less is better."""
CHANCE = "Less than two standard errors may be chance."
GAINS = f"Above 0 is better than the whole network's map. {CHANCE}"
LOSSES = f"Below 0 is better than the whole network's map. {CHANCE}"
AGREEMENT = "Labels and cosines near 1 and errors near 0 are better."

OTHER = (
    ", other image"  # ends the names of maps after pruning for another image than the one explained
)


class Table(TypedDict):
    """What `report.html` takes; the note says what is better and what was left out."""

    title: str
    head: list[str]
    rows: list[list[str]]
    note: NotRequired[str]


def record(evaluation: Evaluation) -> dict[str, Any]:
    """All figures of an evaluation as JSON takes them, each with n and standard error."""
    agreement: dict[str, dict[str, Any]] = {}
    for tracer, found in evaluation.fidelity.items():
        agreement[tracer] = {
            f"{measure}, {inputs}": asdict(
                metrics.mean([getattr(getattr(f, inputs), measure) for f in found])
            )
            for measure in ("label", "cosine", "error")
            for inputs in ("sample", "augmentations")
        }
    control = [
        {
            "metric": metric,
            "method": method,
            "map": column.removesuffix(OTHER),
            **asdict(metrics.paired(*_values(evaluation, metric, method, column))),
        }
        for metric in evaluation.scores
        for column in evaluation.columns(metric)
        if column.endswith(OTHER)
        for method in evaluation.methods(metric)
    ]
    faithful = {
        tracer: asdict(metrics.mean([float(f.faithful) for f in found]))
        for tracer, found in evaluation.fidelity.items()
        if found
    }
    return {
        "scores": evaluation.rows(),
        "faithful": faithful,
        "scores_of_faithful": evaluation.rows_of_faithful(),
        "own_minus_other_image": control,
        "fidelity": agreement,
        "seconds": dict(evaluation.seconds),
        "traces": evaluation.traces,
    }


def tables(found: Mapping[str, Any]) -> list[Table]:
    """The tables of a `record`: means, paired differences, fidelity, time."""
    result = []
    for metric in dict.fromkeys(row["metric"] for row in found["scores"]):
        result += [_means(found, metric), _differences(found, metric)]
    if any(share["mean"] < 1 for share in found.get("faithful", {}).values()):
        result.append(_faithful(found))
    return [*result, _fidelity(found), _times(found)]


def _faithful(found: Mapping[str, Any]) -> Table:
    """Average over methods of all traces, and of the faithful ones alone."""
    average = [row for row in found["scores_of_faithful"] if row["method"] == AVERAGE]
    whole = {(r["metric"], r["map"]): r for r in found["scores"] if r["method"] == AVERAGE}
    rows = []
    for row in average:
        every = whole[row["metric"], row["map"]]
        cells = [
            _cell(r["difference_to_dense"], r["difference_standard_error"], sign="+")
            for r in (every, row)
        ]
        rows.append([row["map"], row["metric"], f"{row['n']} of {every['n']}", *cells])
    return {
        "title": "Faithful traces: difference to dense, average over methods, of all and of the faithful alone",
        "head": ["trace", "metric", "faithful", "all", "faithful alone"],
        "rows": rows,
        "note": GAINS,
    }


def _means(found: Mapping[str, Any], metric: str) -> Table:
    rows, maps, methods, equal = _select(found, metric)
    cells = [
        [m, *(_cell(rows[m, c]["mean"], rows[m, c]["standard_error"]) for c in maps)]
        for m in methods
    ]
    title = f"{TITLES.get(metric, metric)}: mean and standard error, n = {_n(rows)}"
    note = " ".join([BETTER.get(metric, ""), *equal]).strip()
    return {"title": title, "head": ["method", *maps], "rows": cells, "note": note}


def _differences(found: Mapping[str, Any], metric: str) -> Table:
    rows, maps, methods, _ = _select(found, metric)
    control = {
        (r["method"], r["map"]): r for r in found["own_minus_other_image"] if r["metric"] == metric
    }
    others = [c for c in maps if c != "dense"]
    controlled = list(dict.fromkeys(column for _, column in control))
    cells = []
    for m in methods:
        gains = (rows[m, c] for c in others)
        line = [(g["difference_to_dense"], g["difference_standard_error"]) for g in gains]
        own = (control[m, c] for c in controlled)
        line += [(g["mean"], g["standard_error"]) for g in own]
        cells.append([m, *(_cell(*pair, sign="+") for pair in line)])
    head = [*others, *(f"{c} - other image" for c in controlled)]
    title = f"{TITLES.get(metric, metric)}: paired differences to dense and standard error, n = {_n(rows)}"
    less = metric in LOWER
    note = LOSSES if less else GAINS
    if controlled:
        side = "below" if less else "above"
        note += f" The columns of another image's trace: {side} 0, pruning for the image itself matters."
    return {"title": title, "head": ["method", *head], "rows": cells, "note": note}


def _fidelity(found: Mapping[str, Any]) -> Table:
    names = {
        "label, sample": "label, image",
        "label, augmentations": "label, augmented",
        "cosine, sample": "cosine, image",
        "cosine, augmentations": "cosine, augmented",
        "error, sample": "error, image",
        "error, augmentations": "error, augmented",
    }
    rows = [
        [tracer, *(_cell(values[k]["mean"], values[k]["standard_error"]) for k in names)]
        for tracer, values in found["fidelity"].items()
    ]
    n = next(iter(next(iter(found["fidelity"].values())).values()))["n"]
    return {
        "title": "Fidelity to the dense model (same label; cosine and relative error of the logits): "
        f"mean and standard error, n = {n}",
        "head": ["trace", *names.values()],
        "rows": rows,
        "note": AGREEMENT,
    }


def _times(found: Mapping[str, Any]) -> Table:
    rows = [
        [stage, f"{seconds:.1f}", f"{seconds / found['traces']:.2f}"]
        for stage, seconds in found["seconds"].items()
    ]
    return {
        "title": f"Time over {found['traces']} images",
        "head": ["stage", "seconds", "seconds per image"],
        "rows": rows,
    }


def verdicts(found: Mapping[str, Any], metric: str) -> list[str]:
    """One sentence per trace on its average difference to the dense model, and to another image's trace."""
    rows, maps, _, _ = _select(found, metric)
    gains = {
        f"{column} - dense": (row["difference_to_dense"], row["difference_standard_error"])
        for column in maps
        if column in found["fidelity"]
        for row in [rows[AVERAGE, column]]
    }
    for row in found["own_minus_other_image"]:
        if (row["metric"], row["method"]) == (metric, AVERAGE):
            gains[f"{row['map']} - {row['map']}{OTHER}"] = row["mean"], row["standard_error"]
    return [
        f"{TITLES.get(metric, metric)}, average over methods: {what} = {_cell(*gain, sign='+')} "
        f"(n = {_n(rows)}), {_told(*gain)}."
        for what, gain in gains.items()
    ]


def _told(mean: float, error: float) -> str:
    if not abs(mean) > 2 * error:
        return "not different from 0 by more than two standard errors"
    return f"{'above' if mean > 0 else 'below'} 0 by more than two standard errors"


def text(table: Table) -> str:
    """The table as aligned text."""
    lines = [table["head"], *table["rows"]]
    widths = [max(len(line[k]) for line in lines) for k in range(len(table["head"]))]
    body = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    ]
    note = [f"  {table['note']}"] if table.get("note") else []
    return "\n".join([table["title"], *(f"  {line}" for line in body), *note])


def markdown(table: Table) -> str:
    """The table in GitHub's Markdown, its title above it and its note below it."""
    rule = ["---"] + ["---:"] * (len(table["head"]) - 1)
    lines = [table["head"], rule, *table["rows"]]
    rows = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    note = f"\n\n{table['note']}" if table.get("note") else ""
    return f"**{table['title']}**\n\n{rows}{note}"


def _select(
    found: Mapping[str, Any], metric: str
) -> tuple[dict[tuple[str, str], Mapping[str, Any]], list[str], list[str], list[str]]:
    """Rows of a metric by (method, map), with the maps and the methods in order, and what was left out."""
    rows = {(r["method"], r["map"]): r for r in found["scores"] if r["metric"] == metric}
    twins = _twins(found)
    maps = list(dict.fromkeys(c for _, c in rows))
    methods = [m for m in dict.fromkeys(m for m, _ in rows) if m not in twins]
    equal = [f"{m} is left out: its scores equal those of {other}." for m, other in twins.items()]
    return rows, maps, methods, equal


def _twins(found: Mapping[str, Any]) -> dict[str, str]:
    """Methods whose scores all equal those of one before them, as guided backpropagation's do without a ReLU."""
    figures: dict[str, list[Any]] = {}
    for r in found["scores"]:
        if r["method"] != AVERAGE:
            own = [r["metric"], r["map"], r["mean"], r["standard_error"], r["difference_to_dense"]]
            figures.setdefault(r["method"], []).append(own)
    result: dict[str, str] = {}
    kept: list[str] = []
    for method, own in figures.items():
        other = next((m for m in kept if figures[m] == own), None)
        if other is None:
            kept.append(method)
        else:
            result[method] = other
    return result


def of_texts(value: Any) -> Any:
    """A record or tables of texts in place of images: the same with "text" for "image" and "picture" in each string."""
    if isinstance(value, str):
        return (
            value.replace("an image", "a text").replace("image", "text").replace("picture", "text")
        )
    if isinstance(value, dict):
        return {of_texts(key): of_texts(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [of_texts(entry) for entry in value]
    return value


def _values(evaluation: Evaluation, metric: str, method: str, column: str) -> tuple[Tensor, Tensor]:
    """Scores of maps after pruning for the image itself and for another one."""
    own = column.removesuffix(OTHER)
    return evaluation.values(metric, method, own), evaluation.values(metric, method, column)


def _n(rows: Mapping[Any, Mapping[str, Any]]) -> int:
    return int(next(iter(rows.values()))["n"])


def _cell(mean: float, error: float, sign: str = "") -> str:
    return f"{mean:{sign}.3f} ± {error:.3f}"
