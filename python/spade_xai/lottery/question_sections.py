"""What a report says of the paper's open questions, of SPADE's traces and of TCAV."""

from typing import Any

from spade_xai.lottery import figures as fg
from spade_xai.lottery.sections import Section, Table, number, picture, verdict

FORM = {"gradcam": "Grad-CAM", "concepts": "concepts"}


def regularize(record: dict[str, Any]) -> Section:
    """Open question 2: explanations held near the dense network's while training."""
    says, images, rows = [], [], []
    for run in record["regularize"]["runs"]:
        last = max(run["tickets"])
        name = FORM[run["form"]] + ("" if run["layer"] is None else f" at {run['layer']}")
        own = [r for r in run["rows"] if r["ticket"] == last]
        measure = "overlap" if run["form"] == "concepts" else "iou"
        word = "overlap of concepts" if measure == "overlap" else "IoU of the 0.75 masks"
        best = max((r for r in own if r["measure"] == measure), key=lambda r: r["mean"])
        gain = best["minus_plain"]
        cost = next(
            r["minus_plain"]
            for r in own
            if r["measure"] == "test_accuracy" and r["weight"] == best["weight"]
        )
        if best["weight"]:
            says.append(
                f"Holding {name} near the dense network's changes the {word} of ticket {last} by at best "
                f"{number(gain)}, {verdict(gain)} (weight {best['weight']:g}); accuracy changes by {number(cost)}, "
                f"{verdict(cost)}. The best of several weights is chosen on the same pictures, so the gain is rather "
                "too large."
            )
        else:
            says.append(f"No weight of the {name} term raises the {word} of ticket {last}.")
        same = "equals" if run["zero_equals_plain"] else "DOES NOT EQUAL"
        says.append(f"{name}: weight 0 {same} the plain ticket bit for bit.")
        images.append(picture(_bars(own, run["weights"], name), f"Effect of the {name} term"))
        rows += [
            [name, str(r["ticket"]), f"{r['weight']:g}", r["measure"], number(r),
             number(r["minus_plain"])]
            for r in run["rows"]
        ]  # fmt: skip
    table = Table(
        "Every weight",
        ["term", "ticket", "weight", "measure", "mean", "minus weight 0"],
        rows,
        "regularize",
    )
    return Section("Can a term of the loss keep explanations?", says, images, [table])


def _bars(rows: list[dict[str, Any]], weights: list[float], name: str) -> Any:
    """Changes from weight 0 of each measure, with standard errors."""
    figure = fg.new_figure(5.2, 3.2)
    axis = figure.subplots()
    measures = ("test_accuracy", "iou", "cosine", "overlap")
    shown = [w for w in weights if w]
    for k, (measure, color) in enumerate(zip(measures, fg.COLORS, strict=False)):
        found = {r["weight"]: r["minus_plain"] for r in rows if r["measure"] == measure}
        places = [i + 0.2 * (k - 1.5) for i in range(len(shown))]
        axis.bar(
            places,
            [found[w]["mean"] for w in shown],
            0.18,
            yerr=[found[w]["standard_error"] or 0 for w in shown],
            label={
                "iou": "IoU of maps",
                "cosine": "cosine of maps",
                "overlap": "overlap of concepts",
            }.get(measure, "test accuracy"),
            color=color,
            capsize=2,
        )
    axis.axhline(0, color="#555", lw=1)
    axis.set_xticks(range(len(shown)), [f"{w:g}" for w in shown])
    axis.set_xlabel(f"weight of the {name} term")
    axis.set_ylabel("change from weight 0")
    axis.legend(fontsize=7, ncols=2)
    axis.grid(alpha=0.3, axis="y")
    return figure


def difficulty(record: dict[str, Any]) -> Section:
    """Open question 3: hard pictures."""
    found = record["difficulty"]
    last = max(r["ticket"] for r in found["rows"])
    figure = fg.new_figure(5.2, 3.2)
    axes = figure.subplots(1, 2, sharey=True)
    for axis, kind in zip(axes, ("concepts", "maps"), strict=True):
        for color, third in zip(fg.COLORS, ("easy", "middle", "hard"), strict=False):
            own = [
                r for r in found["rows"]
                if (r["explanation"], r["difficulty"], r["pictures"]) == (kind, "el2n", "all")
                and r["thirds"][third]["mean"] is not None
            ]  # fmt: skip
            axis.errorbar(
                [r["alive"] for r in own],
                [r["thirds"][third]["mean"] for r in own],
                [r["thirds"][third]["standard_error"] or 0 for r in own],
                marker="o", ms=3, lw=1.3, capsize=2, label=third, color=color,
            )  # fmt: skip
        axis.set_title(f"{kind} (by EL2N)", fontsize=9)
        axis.set_xscale("log")
        axis.invert_xaxis()
        axis.set_xticks(ticks := [0.5, 0.2, 0.1, 0.05], [f"{t:.0%}" for t in ticks])
        axis.minorticks_off()
        axis.set_xlabel("share of weights alive")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("in common with dense")
    axes[0].legend(fontsize=7)
    says = []
    for kind in ("concepts", "maps"):
        parts = []
        for where, word in (("all", "all pictures"), ("right", "those answered right")):
            row = next(
                r for r in found["rows"]
                if (r["ticket"], r["explanation"], r["difficulty"], r["pictures"])
                == (last, kind, "el2n", where)
            )  # fmt: skip
            if row["spearman"] is None:
                parts.append(f"too few of {word} (n = {row['n']})")
            else:
                low, high = row["interval"]
                parts.append(
                    f"{row['spearman']:.2f} [{low:.2f}, {high:.2f}] over {word} (n = {row['n']})"
                )
        says.append(
            f"At ticket {last} difficulty (EL2N) and what local {kind} have in common with the dense network's "
            f"correlate by {' and '.join(parts)}; Spearman with a 95 % bootstrap interval over pictures."
        )
    rows = [
        [str(r["ticket"]), r["explanation"], r["difficulty"], r["pictures"],
         *[number(r["thirds"][t]) for t in ("easy", "middle", "hard")],
         "-" if r["spearman"] is None
         else f"{r['spearman']:.3f} [{r['interval'][0]:.3f}, {r['interval'][1]:.3f}]", str(r["n"])]
        for r in found["rows"]
    ]  # fmt: skip
    head = [
        "ticket",
        "explanation",
        "difficulty",
        "pictures",
        "easy",
        "middle",
        "hard",
        "Spearman",
        "n",
    ]
    return Section("Are hard pictures explained less steadily?", says,
                   [picture(figure, "Stability by difficulty")],
                   [Table("All measures of difficulty", head, rows, "difficulty")])  # fmt: skip


def compare(record: dict[str, Any]) -> Section:
    """Open question 1: two domains."""
    found = record["compare"]
    sides = [found["first"], found["second"]]
    names = [
        f"{s['run']} ({s['data']}, {s['classes']} classes, {s['concepts']} concepts)" for s in sides
    ]
    series = {
        name: [(a, v, 0.0) for a, v in zip(s["alive"], s["adjusted"], strict=True)]
        for name, s in zip(names, sides, strict=True)
    }
    figure = fg.curves(series, "adjusted Jaccard of top 3", {"chance": 0.0})
    clear = found["p"] < 0.05
    word = "at different rates" if clear else "at rates that this test cannot tell apart"
    says = [
        f"The leading concepts change {word}: "
        f"slope over log(share alive) {sides[0]['slope']:.3f} in {names[0]} and {sides[1]['slope']:.3f} in {names[1]}, "
        f"difference {found['difference']:.3f}, p = {found['p']:.3f} (permutation of classes).",
        "Overlap is adjusted for chance: 0 is what random concepts share, 1 is the dense network's own.",
    ]
    rows = [
        [name, f"{s['chance']:.3f}", f"{s['slope']:.3f} [{s['interval'][0]:.3f}, {s['interval'][1]:.3f}]",
         str(s["seeds"])]
        for name, s in zip(names, sides, strict=True)
    ]  # fmt: skip
    table = Table("Slopes", ["run", "overlap by chance", "slope [95 %]", "seeds"], rows, "compare")
    return Section("Do concepts last longer in one domain?", says,
                   [picture(figure, "Adjusted stability of two runs")], [table])  # fmt: skip


def traces(record: dict[str, Any]) -> Section:
    """SPADE's traces of each ticket."""
    arm = record["arms"][0]
    series: fg.Series = {}
    names = {
        "traced/iou_threshold": "trace of the ticket with trace of dense",
        "own_trace/iou_threshold": "trace of the ticket with the ticket itself",
    }
    for measure, name in names.items():
        for points in fg.row_series(record, "drift", measure, [arm]).values():
            series[name] = points
    figure = fg.curves(series, "IoU of the 0.75 masks")
    last = max(r["number"] for r in record["drift"] if r["arm"] == arm)
    by = {r["measure"]: r for r in record["drift"] if (r["arm"], r["number"]) == (arm, last)}
    says = [
        f"At the sparsest ticket the map of the ticket's trace shares {number(by['traced/iou_threshold'])} with that "
        f"of the dense network's trace, where the maps of the networks themselves share "
        f"{number(by['drift/iou_threshold'])} (over other numbers of pictures).",
        f"The trace keeps the ticket's answer in {number(by['traced/answer_kept'])} of the pictures.",
    ]
    return Section("Does SPADE's trace of a ticket point where the dense network's does?", says,
                   [picture(figure, "Maps of traces")])  # fmt: skip


def tcav(record: dict[str, Any]) -> Section:
    """TCAV scores of classes and concepts."""
    rows = record["tcav"]["rows"]
    arm, seed = record["arms"][0], record["seeds"][0]
    own = [r for r in rows if (r["arm"], r["seed"]) == (arm, seed)]
    last = max(r["number"] for r in own)
    first = {(r["class"], r["concept"]): r["sign"] > 0.5 for r in own if r["number"] == 0}
    later = {(r["class"], r["concept"]): r["sign"] > 0.5 for r in own if r["number"] == last}
    same = sum(first[k] == later[k] for k in first)
    says = [
        f"In {same} of {len(first)} pairs of class and concept the sparsest ticket and the dense network agree whether "
        f"the concept speaks for the class (TCAV above 1/2; arm {arm}, seed {seed}).",
        "Scores are of the log-probability on the banks' vectors: of the logit every picture of a class would score "
        "alike, as the last layer is linear.",
    ]
    table = Table(
        "TCAV scores", ["arm", "seed", "ticket", "class", "concept", "share", "mean derivative", "pictures"],
        [[r["arm"], str(r["seed"]), str(r["number"]), r["class"], r["concept"], f"{r['sign']:.2f}",
          f"{r['magnitude']:.4f}", str(r["pictures"])] for r in rows],
        "tcav",
    )  # fmt: skip
    return Section("What does TCAV say?", says, [], [table])
