"""What a report says of the tickets themselves: their accuracy, and what the planted shortcut does to answers."""

import itertools
from typing import Any

from spade_xai.lottery import figures as fg
from spade_xai.lottery.collect import estimate
from spade_xai.lottery.sections import (
    Section,
    Table,
    last_number,
    main_arms,
    number,
    picture,
    verdict,
)


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
    extra = [k for k in record["tickets"][0] if k.startswith(("test_b", "test_au", "pcbm_"))]
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
    figure = fg.curves(series, "gain of the class by the mark")
    says = []
    if rows and "shows" in rows[0]:
        told = courses(record, rows)
        says.append(
            f"The planted mark shows among the concepts of {name!r} (a leading one that the bank can tell) in "
            f"tickets of {arm} thus: {'; '.join(told.pop(arm))}."
        )
        says += [f"In tickets of {other}: {'; '.join(found)}." for other, found in told.items()]
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
        ["arm", "seed", "ticket", "shows", "rank among concepts", "weight", "told by the bank",
         "class right without", "gain by mark", "others' gain by mark"],
        [
            [r["arm"], str(r["seed"]), str(r["number"]), {True: "yes", False: "no"}.get(r.get("shows"), "-"),
             str(r.get("rank", "-")),
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


def courses(record: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Per arm a text per seed of where the mark shows among the leading concepts."""
    found: dict[str, list[str]] = {}
    for arm in main_arms(record):
        for seed in record["seeds"]:
            own = {r["number"]: r["shows"] for r in rows if (r["arm"], r["seed"]) == (arm, seed)}
            if own:
                found.setdefault(arm, []).append(f"seed {seed}, {course(own)}")
    return found


def course(shows: dict[int, bool]) -> str:
    """Whether the mark stays, appears or vanishes over tickets; {ticket: whether it shows}."""
    numbers = sorted(shows)
    with_mark = [k for k in numbers if shows[k]]
    if len(with_mark) == len(numbers):
        return "in every ticket"
    if not with_mark:
        return "in none"
    changes = [k for before, k in itertools.pairwise(numbers) if shows[before] != shows[k]]
    if len(changes) == 1:
        word = "appears" if shows[numbers[-1]] else "vanishes"
        return f"{word} at ticket {changes[0]}"
    word = "there at the end" if shows[numbers[-1]] else "gone at the end"
    return f"comes and goes, in tickets {', '.join(map(str, with_mark))}; {word}"
