"""What a report says: one section a question, with its pictures, a sentence of conclusion and its tables."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from spade_xai.lottery import figures as fg
from spade_xai.lottery.collect import estimate
from spade_xai.lottery.folder import Run
from spade_xai.lottery.stability import MEASURES


@dataclass
class Table:
    """A table of text."""

    title: str
    head: list[str]
    rows: list[list[str]]
    name: str = ""


@dataclass
class Section:
    """One question.

    Attributes:
        title: The question.
        says: Sentences, the conclusion first.
        images: {"source": data URL, "text": what it shows}.
        tables: Folded below.
        concepts: The table of concepts by class and ticket, shown open; None: none.
    """

    title: str
    says: list[str]
    images: list[dict[str, str]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    concepts: dict[str, Any] | None = None


def picture(figure: Any, text: str) -> dict[str, str]:
    """A figure inside the page."""
    return {"source": fg.embedded(figure), "text": text}


def number(value: dict[str, Any] | None, digits: int = 3) -> str:
    """Mean ± standard error (n)."""
    if value is None or value.get("mean") is None:
        return "-"
    error = value.get("standard_error")
    spread = "" if error is None else f" ± {error:.{digits}f}"
    return f"{value['mean']:.{digits}f}{spread} (n = {value['n']})"


def verdict(value: dict[str, Any]) -> str:
    """Whether a paired difference is more than twice its standard error."""
    error = value.get("standard_error")
    if value.get("mean") is None or error is None:
        return "which one sample cannot tell from none"
    if abs(value["mean"]) <= 2 * error:
        return "which is within two standard errors of none"
    return "which is more than two standard errors from none"


def last_number(record: dict[str, Any], arm: str) -> int:
    """Number of the sparsest ticket of an arm."""
    return max(t["number"] for t in record["tickets"] if t["arm"] == arm)


def main_arms(record: dict[str, Any]) -> list[str]:
    """Arms that find their own tickets, without those that train given masks with a penalty."""
    return [
        arm
        for arm in record["arms"]
        if not any("penalty" in t for t in record["tickets"] if t["arm"] == arm)
    ]


def accuracy(record: dict[str, Any]) -> Section:
    """Accuracy of networks and bottlenecks over living weights."""
    arms = main_arms(record)
    first = arms[0]
    keys = {"test_accuracy": ""}
    if "concepts" in record:
        keys["pcbm_accuracy"] = fg.CONCEPTS_ONLY
    series = fg.ticket_series(record, keys, [first], estimate)
    series |= fg.ticket_series(record, {"test_accuracy": ""}, arms[1:], estimate)
    figure = fg.curves(series, "test accuracy")
    last = last_number(record, first)
    found: dict[int, dict[int, float]] = {0: {}, last: {}}
    for ticket in record["tickets"]:
        if ticket["arm"] == first and ticket["number"] in found:
            found[ticket["number"]][ticket["seed"]] = ticket["test_accuracy"]
    seeds = sorted(found[last])
    change = estimate([found[last][s] - found[0][s] for s in seeds])
    share = fg.alive_of(record, first, last)
    says = [
        f"The sparsest ticket of {first} keeps {share:.1%} of the weights; its accuracy is "
        f"{estimate([found[last][s] for s in seeds])['mean']:.3f} against "
        f"{estimate([found[0][s] for s in seeds])['mean']:.3f} of the dense network, a change of {number(change)}, "
        f"{verdict(change)}; n counts seeds."
    ]
    head = ["arm", "seed", "ticket", "alive", "validation", "test"]
    extra = [k for k in record["tickets"][0] if k.startswith("pcbm_")]
    rows = [
        [t["arm"], str(t["seed"]), str(t["number"]), f"{t['alive']:.4f}"]
        + [
            "-" if t.get(k) is None else f"{t[k]:.4f}"
            for k in ("validation_accuracy", "test_accuracy", *extra)
        ]
        for t in record["tickets"]
    ]
    table = Table("Every ticket", [*head, *[k.replace("_", " ") for k in extra]], rows, "tickets")
    return Section("Does a sparse network still answer right?", says,
                   [picture(figure, "Accuracy over the share of living weights")], [table])  # fmt: skip


def film(record: dict[str, Any], run: Run) -> Section:
    """Grad-CAM of some pictures over tickets (the paper's Figure 8)."""
    settings = record["maps"]["settings"]
    available = settings["limit"] or len(run.data.test)
    chosen = fg.default_pictures(run, min(available, len(run.data.test)))
    figure = fg.film_strip(run, record["maps"]["key"], chosen)
    text = (
        f"Maps ({settings['method']}) of the picture's own class, for the same pictures from dense to sparse. The "
        "white line is the paper's mask, above 0.75 of the maximum."
    )
    return Section(
        "What do the tickets look at?", [text], [picture(figure, "Maps of pictures over tickets")]
    )


def drift(record: dict[str, Any]) -> Section:
    """How far maps move, with the other seed and another picture to compare with."""
    arms, references = main_arms(record), record["drift_references"]
    first = arms[0]
    levels = {
        {"other seed": "dense, other seed", "other picture": "another picture"}[name]: values[
            "iou_threshold"
        ]["mean"]
        for name, values in references.items()
    }
    series = fg.row_series(record, "drift", "drift/iou_threshold", arms)
    figure = fg.curves(series, "IoU of the 0.75 masks", levels)
    last = last_number(record, first)
    row = _row(record, "drift", first, last, "drift/iou_threshold")
    zero = _row(record, "drift", first, last, "drift/zero")
    says = [
        f"At the sparsest ticket of {first} the masks share {number(row)} of their pixels with the dense network's "
        "(IoU; n counts pictures)."
    ]
    if "minus_other_seed" in row:
        change = row["minus_other_seed"]
        says.append(
            f"Two dense networks of different seeds share {number(references['other seed']['iou_threshold'])}: "
            f"the ticket differs from that by {number(change)}, {verdict(change)}. "
            "That level is what training alone changes."
        )
    says.append(f"Share of maps that are zero everywhere, at this ticket or dense: {number(zero)}.")
    rows = [
        [r["arm"], str(r["number"]), r["measure"], number(r), number(r.get("minus_other_seed"))]
        for r in record["drift"]
    ]
    rows += [["reference", "-", m, number(v), f"({name})"] for name, values in references.items()
             for m, v in values.items()]  # fmt: skip
    table = Table(
        "All measures of maps",
        ["arm", "ticket", "measure", "mean", "minus other seed"],
        rows,
        "drift",
    )
    return Section("How far do the maps move?", says, [picture(figure, "Drift of maps")], [table])


def concepts(record: dict[str, Any]) -> Section:
    """The paper's Tables 2 and 3: top three concepts by class and ticket."""
    arm, seed = record["arms"][0], record["seeds"][0]
    rows = [r for r in record["top_concepts"] if r["arm"] == arm and r["seed"] == seed]
    numbers = sorted({r["number"] for r in rows})
    wanted = [numbers[round(k * (len(numbers) - 1) / 7)] for k in range(8)]
    numbers = numbers if len(numbers) <= 8 else sorted(set(wanted))
    names = chosen_classes([r["class"] for r in rows if r["number"] == 0])
    by = {(r["class"], r["number"]): r for r in rows}
    table = {
        "head": [
            "dense" if k == 0 else f"{k} ({fg.alive_of(record, arm, k):.0%})" for k in numbers
        ],
        "rows": [
            {
                "name": name,
                "cells": [
                    [
                        {"name": c, "same": same, "known": known}
                        for c, same, known in zip(
                            by[name, k]["concepts"], by[name, k]["in_dense"],
                            by[name, k]["above_chance"], strict=True,
                        )
                    ]
                    for k in numbers
                ],
            }
            for name in names
        ],
    }  # fmt: skip
    last = numbers[-1]
    kept = [sum(by[n, last]["in_dense"]) for n in by_class(rows)]
    says = [
        f"At the sparsest ticket {sum(kept)} of the {3 * len(kept)} leading concepts of the dense network's classes "
        f"are still among the three that lead (arm {arm}, seed {seed})."
        if all(len(by[n, last]["concepts"]) == 3 for n in by_class(rows))
        else f"Leading concepts of each class (arm {arm}, seed {seed}).",
        "Coloured: not among the dense network's three. Faint: the bank tells the concept no better than chance, so "
        "nothing follows from it.",
    ]
    every = [
        [r["arm"], str(r["seed"]), str(r["number"]), r["class"], ", ".join(r["concepts"]),
         ", ".join(f"{w:.2f}" for w in r["weights"])]
        for r in record["top_concepts"]
    ]  # fmt: skip
    banks = [
        [b["arm"], str(b["seed"]), str(b["number"]), b["concept"], f"{b['accuracy']:.3f}",
         f"{b['auroc']:.3f}", str(b["validated_on"]), "yes" if b["above_chance"] else "no"]
        for b in record["banks"]
    ]  # fmt: skip
    tables = [
        Table("Leading concepts of every ticket",
              ["arm", "seed", "ticket", "class", "concepts", "weights"], every, "concepts"),
        Table("How well the banks tell concepts",
              ["arm", "seed", "ticket", "concept", "accuracy", "AUROC", "pictures", "above chance"],
              banks, "banks"),
    ]  # fmt: skip
    return Section("Which concepts explain a class?", says, [], tables, table)


def by_class(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Names of classes in their order."""
    return list(dict.fromkeys(r["class"] for r in rows))


PAPER_CLASSES = (
    "Black_footed_Albatross", "Rusty_Blackbird", "Red_winged_Blackbird", "Brewer_Blackbird",
    "Least_Auklet", "Parakeet_Auklet",
)  # fmt: skip


def chosen_classes(names: Sequence[str]) -> list[str]:
    """The paper's six birds where they are, else the first eight classes."""
    birds = [n for n in names if n.partition(".")[2] in PAPER_CLASSES or n in PAPER_CLASSES]
    return birds or list(names)[:8]


def stability(record: dict[str, Any]) -> Section:
    """How alike the rankings of concepts are, with ceiling and floor."""
    arms, references = main_arms(record), record["stability_references"]
    first = arms[0]
    words = {
        "other seed": "dense, other seed",
        "other bank": "dense, other bank",
        "random rows": "random rows",
    }
    levels = {
        words[name]: references[name]["overlap"]["mean"] for name in words if name in references
    }
    series = fg.row_series(record, "stability", "overlap", arms)
    figure = fg.curves(series, "rank-biased overlap with dense", levels)
    last = last_number(record, first)
    row = _row(record, "stability", first, last, "overlap")
    says = [
        f"At the sparsest ticket of {first} the rankings of concepts overlap with the dense network's by {number(row)} "
        "(rank-biased overlap; n counts classes, each a mean over seeds)."
    ]
    says.append(
        f"A second bank of other pictures for the same dense network overlaps by "
        f"{number(references['other bank']['overlap'])}: less than 1 by the bank's own draws alone. Random "
        f"rows overlap by {references['random rows']['overlap']['mean']:.3f}."
    )
    if "minus_other_seed" in row:
        change = row["minus_other_seed"]
        says.append(
            f"Two dense networks of different seeds overlap by {number(references['other seed']['overlap'])}; the "
            f"ticket differs from that by {number(change)}, {verdict(change)}."
        )
    for found in record["correlation"]:
        if found["arm"] == first:
            says.append(
                f"Over {found['tickets']} tickets, accuracy and {found['measure'].replace('_', ' ')} correlate by "
                f"{found['spearman']:.2f} (Spearman). This is a correlation, not a cause."
            )
    rows = [
        [r["arm"], str(r["number"]), r["measure"], number(r), number(r.get("adjusted")),
         number(r.get("minus_other_seed"))]
        for r in record["stability"]
    ]  # fmt: skip
    rows += [["reference", "-", m, number(references[name][m]), "-", f"({name})"]
             for name in words if name in references for m in MEASURES]  # fmt: skip
    head = ["arm", "ticket", "measure", "mean", "adjusted for chance", "minus other seed"]
    return Section("Are the concepts the same?", says,
                   [picture(figure, "Stability of concepts")],
                   [Table("All measures of concepts", head, rows, "stability")])  # fmt: skip


def shortcut(record: dict[str, Any]) -> Section:
    """The planted mark of drawn pictures: what it does, and whether concepts show it."""
    rows = record["shortcut"]
    arm = record["arms"][0]
    series: fg.Series = {}
    numbers = sorted({r["number"] for r in rows if r["arm"] == arm})
    kinds = {
        "first_class_gain_by_mark": "pictures of the class",
        "others_gain_by_mark": "other pictures",
    }
    for key, name in kinds.items():
        series[name] = []
        for k in numbers:
            value = estimate([r[key]["mean"] for r in rows if r["arm"] == arm and r["number"] == k])
            series[name].append(
                (fg.alive_of(record, arm, k), value["mean"], value["standard_error"] or 0.0)
            )
    name = record["classes"][0]
    figure = fg.curves(series, f"more answers {name!r} with the mark")
    says = []
    if rows and "rank" in rows[0]:
        parts = []
        for seed in record["seeds"]:
            ranks = [
                next(r for r in rows if (r["arm"], r["seed"], r["number"]) == (arm, seed, k))
                for k in numbers
                if any((r["arm"], r["seed"], r["number"]) == (arm, seed, k) for r in rows)
            ]
            if ranks:
                lead = [str(r["number"]) for r in ranks if r["rank"] <= 3]
                parts.append(
                    f"seed {seed}: in {len(lead)} of {len(ranks)} tickets ({', '.join(lead) or 'none'})"
                )
        says.append(
            f"The planted mark is among the three leading concepts of {name!r} for "
            + "; ".join(parts)
            + "."
        )
    dense, last = (
        estimate([r["first_class_gain_by_mark"]["mean"] for r in rows
                  if r["arm"] == arm and r["number"] == k])
        for k in (numbers[0], numbers[-1])
    )  # fmt: skip
    says.append(
        f"Putting the mark on unmarked pictures of that class changes its share of right answers by {number(dense)} in "
        f"the dense network and by {number(last)} in the sparsest ticket; n counts seeds."
    )
    table = Table(
        "The mark in every ticket",
        ["arm", "seed", "ticket", "rank among concepts", "weight", "told by the bank",
         "class right without", "gain by mark", "others' gain by mark"],
        [
            [r["arm"], str(r["seed"]), str(r["number"]), str(r.get("rank", "-")),
             f"{r['weight']:.2f}" if "weight" in r else "-",
             f"{r['concept_accuracy']:.2f}" if "concept_accuracy" in r else "-",
             number(r["first_class_right_without_mark"]), number(r["first_class_gain_by_mark"]),
             number(r["others_gain_by_mark"])]
            for r in rows
        ],
        "shortcut",
    )  # fmt: skip
    return Section("Does the planted shortcut show?", says,
                   [picture(figure, "Effect of the mark over living weights")], [table])  # fmt: skip


def _row(record: dict[str, Any], kind: str, arm: str, ticket: int, measure: str) -> dict[str, Any]:
    for row in record[kind]:
        if (row["arm"], row["number"], row["measure"]) == (arm, ticket, measure):
            return row
    return {"mean": None, "n": 0}
