"""The report of a study: Table 4 with intervals, agreement, raters, images; HTML, CSV and JSON."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from spade_ext.files import write_json
from spade_xai.reports.figure import embedded, figure_of
from spade_xai.reports.page import write_atomically, write_page
from spade_xai.study.agreement import RaterSummary, agreement, raters
from spade_xai.study.answers import Answer
from spade_xai.study.assignment import CONDITIONS
from spade_xai.study.folder import Study
from spade_xai.study.intervals import Interval
from spade_xai.study.table import TITLES, Row, table

FORMAT = "spade_xai.StudyReport.1"
FILES = ("report.html", "table4.csv", "answers.csv", "raters.csv", "report.json")
FEW_RATERS = 8  # below this many, intervals of a bootstrap over raters are not to be trusted
NOTES = (
    "Agreement means: the rater chose the region of the class whose neuron was visualised, by Score-CAM on the whole "
    "network. It is not known to be what the network really looked at.",
    "Intervals are at 95 %, by a bootstrap over raters, over images and over single answers (Cameron, Gelbach and "
    "Miller, 2011), with Student's t on one degree of freedom fewer than there are raters or images, whichever are "
    "fewer. Difference: with SPADE minus without. Repeated tasks do not count.",
    "Krippendorff's alpha is of the outcomes agree, disagree and undecided, over tasks that several raters had: 1 if "
    "all say the same, 0 as by chance. Few raters have the same task, so that it is uncertain in small studies.",
    "The paper's column is of other images, of a ResNet50, and of other raters: it is there to compare sizes.",
)


@dataclass(frozen=True)
class Report:
    """All that a report says.

    Attributes:
        answers: The number of answers, without repetitions.
        table: Table 4.
        alpha: Krippendorff's alpha by condition, and of all.
        seconds: Median time per task by condition, and of all.
        raters: One summary per rater.
        consistent: How many repeated tasks got the same outcome.
        repeats: The number of repeated tasks.
    """

    answers: int
    table: list[Row]
    alpha: dict[str, float]
    seconds: dict[str, float]
    raters: list[RaterSummary]
    consistent: int
    repeats: int

    @property
    def success(self) -> Row:
        """Overall success."""
        return next(row for row in self.table if row.name == "success")


def make_report(answers: Sequence[Answer], *, draws: int = 2000, seed: int = 0) -> Report:
    """Compute the report of some answers.

    Args:
        answers: All answers.
        draws: The number of bootstrap draws.
        seed: Their seed.
    """
    summaries = raters(answers)
    return Report(
        answers=sum(not a.repeat for a in answers),
        table=table(answers, draws=draws, seed=seed),
        alpha={c or "all": agreement(answers, c) for c in (*CONDITIONS, None)},
        seconds={
            c or "all": _median([a.seconds for a in answers if c in (None, a.condition)])
            for c in (*CONDITIONS, None)
        },
        raters=summaries,
        consistent=sum(r.consistent for r in summaries),
        repeats=sum(r.repeats for r in summaries),
    )


def write_report(
    output: Path, study: Study, answers: Sequence[Answer], *, draws: int = 2000, seed: int = 0
) -> Report:
    """Compute the report of some answers, and write FILES.

    Args:
        output: The folder; made if it is not there.
        study: The study.
        answers: All answers.
        draws: The number of bootstrap draws.
        seed: Their seed.
    """
    report = make_report(answers, draws=draws, seed=seed)
    output.mkdir(parents=True, exist_ok=True)
    write_page(output / "report.html", _page(study, report))
    write_json(output / "report.json", FORMAT, _plain({"study": study.id, **asdict(report)}))
    write_atomically(output / "table4.csv", _csv(table_rows(report)))
    rows = [{**asdict(a), "image_name": study.images[a.image].name} for a in answers]
    write_atomically(output / "answers.csv", _csv(rows, list(Answer.__dataclass_fields__)))
    own = list(RaterSummary.__dataclass_fields__)
    write_atomically(output / "raters.csv", _csv([asdict(r) for r in report.raters], own))
    return report


def table_rows(report: Report) -> list[dict[str, Any]]:
    """Table 4 as rows of a CSV file, shares in [0, 1]."""
    rows = []
    for row in report.table:
        entry: dict[str, Any] = {"response": row.name}
        for name in ("dense", "spade", "difference"):
            interval: Interval = getattr(row, name)
            entry |= {
                name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high,
                f"{name}_n": interval.n,
            }  # fmt: skip
        entry |= {"paper_dense": row.published[0] / 100, "paper_spade": row.published[1] / 100}
        rows.append(entry)
    return rows


def percent(interval: Interval, sign: bool = False) -> str:
    """An estimate and its interval in percent; with a sign, in percentage points."""
    if math.isnan(interval.estimate):
        return "none"
    lead = "+" if sign else ""
    unit = "points" if sign else "%"
    text = f"{100 * interval.estimate:{lead}.1f} {unit}"
    if math.isnan(interval.low):
        return text
    low, high = interval.low, interval.high
    if not sign:
        low, high = max(low, 0.0), min(high, 1.0)
    return f"{text} ({100 * low:{lead}.1f} to {100 * high:{lead}.1f})"


def lead(report: Report) -> str:
    """The result in one sentence."""
    row = report.success
    if math.isnan(row.difference.estimate):
        return "There are no answers under both conditions yet."
    text = (
        f"{len(report.raters)} raters gave {report.answers} answers. They chose the region that Score-CAM marks for "
        f"the neuron in {percent(row.dense)} of the tasks without SPADE, and in {percent(row.spade)} with SPADE: "
        f"a difference of {percent(row.difference, True)}."
    )
    return text.replace("% (", "% (95 %: ", 1)


def warnings_of(study: Study, report: Report) -> list[str]:
    """What a reader must know before believing the table."""
    found = []
    if 0 < len(report.raters) < FEW_RATERS:
        found.append(
            f"{len(report.raters)} raters are too few for the intervals to be trusted: ask {FEW_RATERS} at least."
        )
    unfaithful = sum(not image.faithful for image in study.images)
    if unfaithful:
        found.append(
            f"The traces of {unfaithful} of {len(study.images)} images do not answer as the whole network does."
        )
    roles = {tuple(image.roles) for image in study.images}
    if roles == {("first", "second")}:
        found.append(
            "No labels were given: the two classes of an image are the two that the network finds most probable, not "
            "the right and the predicted one of a misclassified image as in the paper."
        )
    return found


def _page(study: Study, report: Report) -> str:
    source = resources.files("spade_xai.study").joinpath("report.html").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    rows = [
        [
            TITLES[row.name], percent(row.dense), percent(row.spade), percent(row.difference, True),
            f"{row.published[0]} / {row.published[1]} %",
        ]
        for row in report.table
    ]  # fmt: skip
    head = ["Response", "Without SPADE", "With SPADE", "Difference", "Paper"]
    more = [
        [name, _number(report.seconds[key], "{:.1f} s"), _number(report.alpha[key], "{:.2f}")]
        for key, name in (("dense", "Without SPADE"), ("SPADE", "With SPADE"), ("all", "All"))
    ]
    people = [
        [r.rater, str(r.tasks), _number(100 * r.success, "{:.0f} %"), _number(100 * r.decided, "{:.0f} %"),
         _number(100 * r.left, "{:.0f} %"), f"{r.seconds:.1f} s", f"{r.consistent} of {r.repeats}"]
        for r in report.raters
    ]  # fmt: skip
    settings = study.settings
    tables = [
        {"title": "Table 4", "head": head, "rows": rows, "notes": [
            "↑: more is better; ↓: less is better. In brackets: 95 % interval. Paper: without / with."]},
        {"title": "Time and agreement", "head": ["", "Median time per task", "Krippendorff's alpha"],
         "rows": more, "notes": [
            f"Of {report.repeats} tasks that came a second time, with the sides the other way round, "
            f"{report.consistent} got the same outcome."]},
        {"title": "Raters", "head": ["Code", "Tasks", "Success", "Decided", "Left", "Median time", "Consistent"],
         "rows": people, "notes": ["Left: the share of decisions for the left side. Far from 50 %, the rater may have "
                                   "pressed one side whatever was shown."]},
    ]  # fmt: skip
    built = (
        f"{len(study.images)} images, {len(study.tasks)} tasks, regions of "
        f"{100 * study.images[0].region_share:.0f} % of the picture. "
        f"Left out: {', '.join(f'{n} ({reason})' for reason, n in study.left_out.items()) or 'none'}. "
        f"{settings.get('tracer')} with {', '.join(f'{k} {v}' for k, v in sorted(settings.get('trace', {}).items()))}."
    )
    return environment.from_string(source).render(
        title=study.title, lead=lead(report), warnings=warnings_of(study, report), tables=tables,
        figure=_figure(report), methods=[*NOTES, built],
    )  # fmt: skip


def _figure(report: Report) -> str | None:
    shown = [
        row for row in report.table if row.name in ("undecided", "success", "agree when decided")
    ]
    if all(math.isnan(row.dense.estimate) for row in shown):
        return None
    figure = figure_of(6.6, 2.4)
    axis = figure.subplots()
    for k, row in enumerate(reversed(shown)):
        for interval, offset, color, label in (
            (row.dense, 0.14, "#5b6475", "without SPADE"), (row.spade, -0.14, "#b3420f", "with SPADE")
        ):  # fmt: skip
            reach = 0.0 if math.isnan(interval.error) else 100 * (interval.high - interval.estimate)
            axis.errorbar(
                100 * interval.estimate, k + offset, xerr=reach, fmt="o", color=color, capsize=3,
                label=label if k == 0 else None,
            )  # fmt: skip
    axis.set_yticks(
        range(len(shown)), [TITLES[row.name][:-2] for row in reversed(shown)], fontsize=9
    )
    axis.set_ylim(-0.5, len(shown) - 0.5)
    axis.set_xlim(0, 100)
    axis.set_xlabel("percent of answers", fontsize=9)
    axis.grid(axis="x", alpha=0.3)
    figure.legend(fontsize=8, loc="outside upper right", ncols=2)
    return embedded(figure)


def _csv(rows: Sequence[dict[str, Any]], head: Sequence[str] | None = None) -> bytes:
    names = list(rows[0]) if rows else list(head or ())
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: _cell(v) for k, v in row.items()} for row in rows)
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    # A spreadsheet takes text that begins so as a formula.
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@" else value


def _median(values: Iterable[float]) -> float:
    ordered = sorted(values)
    if not ordered:
        return math.nan
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _number(value: float, form: str) -> str:
    return "none" if math.isnan(value) else form.format(value)


def _plain(value: Any) -> Any:
    """NaN as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
