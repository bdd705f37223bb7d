"""What a report says of concepts: the leading ones of each class, and how alike their rankings are."""

from collections.abc import Sequence
from typing import Any

from spade_xai.lottery import figures as fg
from spade_xai.lottery.sections import (
    Section,
    Table,
    last_number,
    main_arms,
    number,
    picture,
    row_of,
    verdict,
)
from spade_xai.lottery.stability import MEASURES


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
    row = row_of(record, "stability", first, last, "overlap")
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
