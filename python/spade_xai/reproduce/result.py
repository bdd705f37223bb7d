"""What a run of a table is as JSON, and as tables with the published figures beside ours."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from spade_xai.measures import metrics
from spade_xai.measures.metrics import Estimate
from spade_xai.reports.evaluate import AVERAGE
from spade_xai.reports.explain import DENSE
from spade_xai.reports.tables import LOWER, OTHER, Table
from spade_xai.reproduce.subject import Made, Subject
from spade_xai.reproduce.table import PublishedTable
from spade_xai.trojans.planted import Planted

CONTROLS = ("edges", "random")


def result_of(table: PublishedTable, subject: Subject, made: Made) -> dict[str, Any]:
    """Everything as JSON takes it; scores in percent, each with n and standard error."""
    found = made.evaluation
    groups: dict[str, list[int]] = {}
    for k, picture in enumerate(subject.pictures):
        if picture.backdoor is not None:
            groups.setdefault(picture.backdoor, []).append(k)
    rows, by_backdoor, control = [], [], []
    for metric in found.scores:
        for column in found.columns(metric):
            for method in found.methods(metric):
                mean, gain = found.mean(metric, method, column), found.gain(metric, method, column)
                rows.append(row_of(table, metric, method, column, mean, gain))
                if column.endswith(OTHER):
                    own = found.values(metric, method, column.removesuffix(OTHER))
                    paired = metrics.paired(own, found.values(metric, method, column))
                    control.append(
                        {
                            "metric": metric, "row": method, "column": column.removesuffix(OTHER),
                            **_estimate(paired, "difference"),
                        }
                    )  # fmt: skip
            for backdoor, places in groups.items():
                at = torch.tensor(places)
                own, dense = (found.values(metric, AVERAGE, c)[at] for c in (column, DENSE))
                by_backdoor.append(
                    row_of(
                        table,
                        metric,
                        backdoor,
                        column,
                        metrics.mean(own),
                        metrics.paired(own, dense),
                    )
                )
    answered = [a for a in made.answered if a is not None]
    return {
        **described(table, subject.planted),
        "pictures": len(subject.pictures),
        "answered_as_planted": {"yes": sum(answered), "of": len(answered)},
        "rows": rows,
        "by_backdoor": by_backdoor,
        "own_minus_other_image": control,
        "faithful": {
            c: {"yes": sum(flags), "of": len(flags)} for c, flags in made.faithful.items()
        },
        "sparsity": made.sparsity,
        "left_out": made.left_out,
        "notes": made.notes,
        "seconds": dict(found.seconds),
    }


def described(table: PublishedTable, planted: Planted) -> dict[str, Any]:
    """What every result with pictures says of table and network; entries of scores are empty."""
    return {
        **of_table(table),
        "network": planted.title,
        # the architecture; the weights cannot be, as the paper's were not published
        "paper_architecture": not planted.bundled and planted.model == table.model,
        "paper_pictures": table.count or None,
        "answered_as_planted": {"yes": 0, "of": 0},
        "sparsity": {},
        "left_out": {},
        "notes": [],
    }


def of_table(table: PublishedTable) -> dict[str, Any]:
    """What every result says of its table."""
    return {
        "table": table.name,
        "title": table.title,
        "source": table.source,
        "paper_network": f"{table.model} on {table.data}",
        "differs": list(table.differs),
    }


def row_of(
    table: PublishedTable, metric: str, row: str, column: str, mean: Estimate, gain: Estimate
) -> dict[str, Any]:
    """A row of a result, in percent, with the published figure if there is one."""
    figures = table.published.get(metric)
    name = "Dense" if column == DENSE else column
    published = None if figures is None else figures.figure(row, name)
    dense = None if figures is None else figures.figure(row, "Dense")
    return {
        "metric": metric,
        "row": row,
        "column": name,
        "n": mean.n,
        **_estimate(mean, "mean"),
        **_estimate(gain, "difference"),
        "published": published,
        "published_difference": None
        if published is None or dense is None
        else round(published - dense, 4),
    }


def _estimate(found: Estimate, name: str) -> dict[str, float]:
    error = "standard_error" if name == "mean" else f"{name}_standard_error"
    return {name: 100 * found.mean, error: 100 * found.standard_error}


def tables_of(result: Mapping[str, Any], table: PublishedTable) -> list[Table]:
    """The tables of a result: ours beside the paper's, differences, controls, rows by backdoor."""
    found: list[Table] = []
    kind = "backdoor" if table.by_backdoor else "method"
    columns = ["Dense", *(c.name for c in table.columns if c.name not in result["left_out"])]
    for metric in table.metrics:
        rows = [r for r in result["rows"] if r["metric"] == metric]
        backdoors = [r for r in result["by_backdoor"] if r["metric"] == metric]
        main = rows
        if table.by_backdoor:
            main = [*backdoors, *(r for r in rows if r["row"] == AVERAGE)]
        what = f"{metric.replace('_', ' ')}, percent, n = {result['pictures']} pictures"
        found.append(beside(f"{what}: ours, and the paper's", main, columns, kind))
        found.append(differences(what, main, columns[1:], result, metric, kind))
        found.append(controls(what, rows))
        if backdoors and not table.by_backdoor:
            found.append(
                beside(f"{what}: by backdoor, average over methods", backdoors, columns, "backdoor")
            )
    if result["faithful"]:
        found.append(faithful_table(result))
    return found


def beside(
    title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], kind: str
) -> Table:
    """Our figures and the published ones, a row per method, backdoor or data set."""
    of = {(r["row"], r["column"]): r for r in rows}
    head, cells = [kind], []
    published = {
        c for _, c in of if any(r["published"] is not None for r in rows if r["column"] == c)
    }
    for column in columns:
        head += [column, *([f"{column}, paper"] if column in published else [])]
    for name in dict.fromkeys(r["row"] for r in rows):
        line = [name]
        for column in columns:
            row = of[name, column]
            line.append(_cell(row["mean"], row["standard_error"]))
            if column in published:
                line.append(_figure(row["published"]))
        cells.append(line)
    note = "± is one standard error. A blank figure was not published for this row."
    return {"title": title, "head": head, "rows": cells, "note": note}


def differences(
    what: str,
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    result: Mapping[str, Any],
    metric: str,
    kind: str,
) -> Table:
    """Differences to the dense network's maps, and to those after pruning for another sample."""
    of = {(r["row"], r["column"]): r for r in rows}
    control = {
        (r["row"], r["column"]): r for r in result["own_minus_other_image"] if r["metric"] == metric
    }
    controlled = list(dict.fromkeys(c for _, c in control))
    head = [kind]
    for column in columns:
        head += [f"{column} - Dense", "paper"]
    head += [f"{column} - other image" for column in controlled]
    cells = []
    for name in dict.fromkeys(r["row"] for r in rows):
        line = [name]
        for column in columns:
            row = of[name, column]
            line.append(_cell(row["difference"], row["difference_standard_error"], "+"))
            line.append(_figure(row["published_difference"], "+"))
        for column in controlled:
            own = control.get((name, column))
            line.append(
                ""
                if own is None
                else _cell(own["difference"], own["difference_standard_error"], "+")
            )
        cells.append(line)
    return {
        "title": f"{what}: differences of the same pictures to the dense network's maps, and the paper's",
        "head": head,
        "rows": cells,
        "note": "Less than two standard errors may be chance. The last columns are differences to the maps after "
        f"pruning for another picture: {'below' if metric in LOWER else 'above'} 0, pruning for the picture itself "
        "matters.",
    }


def controls(what: str, rows: Sequence[Mapping[str, Any]], kind: str = "method") -> Table:
    """What knows nothing of the network or of the sample."""
    names = [c for c in dict.fromkeys(r["column"] for r in rows) if _is_control(c)]
    of = {(r["row"], r["column"]): r for r in rows}
    cells = [
        [name, *(_cell(of[name, c]["mean"], of[name, c]["standard_error"]) for c in names)]
        for name in dict.fromkeys(r["row"] for r in rows)
    ]
    blind = "Edges and random maps" if "edges" in names else "Random maps"
    return {
        "title": f"{what}: controls",
        "head": [kind, *names],
        "rows": cells,
        "note": f"{blind} know nothing of the network. Magnitude pruning knows nothing of the picture.",
    }


def _is_control(column: str) -> bool:
    return column in CONTROLS or column == "Magnitude" or column.endswith(OTHER)


def faithful_table(result: Mapping[str, Any]) -> Table:
    """How many traces are faithful."""
    rows = [[c, f"{found['yes']} of {found['of']}"] for c, found in result["faithful"].items()]
    return {
        "title": "Traces that answer as the dense network does",
        "head": ["trace", "faithful"],
        "rows": rows,
        "note": "The map of a trace that is not faithful does not explain the dense network's answer.",
    }


def sentences(result: Mapping[str, Any]) -> list[str]:
    """What the reader of a result must know, and why columns are left out."""
    lines = [f"Network: {result['network']}. The paper's: {result['paper_network']}."]
    if "pictures" not in result:
        return [*lines, *result.get("notes", ()), *result["differs"]]
    if not result["paper_architecture"]:
        lines.append(
            "This is another network than the paper's: figures are not to be compared one by one."
        )
    else:
        lines.append(
            "The architecture is the paper's; weights and test pictures are others, as the paper's were not published."
        )
    answered = result["answered_as_planted"]
    if answered["of"]:
        lines.append(
            f"The network answers {answered['yes']} of {answered['of']} pictures with the target of their patch."
        )
    of_paper = result["paper_pictures"]
    lines.append(
        f"{result['pictures']} pictures" + (f"; the paper had {of_paper}." if of_paper else ".")
    )
    for column, by_method in result["sparsity"].items():
        texts = list(dict.fromkeys(by_method.values()))
        lines.append(f"Sparsity of {column}: {', '.join(texts)}.")
    lines += [f"Left out: {column}: {why}." for column, why in result["left_out"].items()]
    return [*lines, *result["notes"], *result["differs"]]


def _cell(mean: float, error: float, sign: str = "") -> str:
    return f"{mean:{sign}.2f}" + (f" ± {error:.2f}" if error == error else "")


def _figure(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.2f}"
