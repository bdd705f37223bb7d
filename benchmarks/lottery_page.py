"""The generated parts of docs/lottery.md, from results/lottery-*.json: python -m benchmarks.lottery_page.

<!-- lottery NAME --> ... <!-- end lottery --> holds what BLOCKS[NAME] makes of the result of that study.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from benchmarks import RESULTS, ROOT
from benchmarks.result_file import write_text
from spade_xai.lottery.collect import estimate
from spade_xai.lottery.question_sections import FORM
from spade_xai.lottery.sections import verdict
from spade_xai.lottery.ticket_sections import courses

PAGE = ROOT / "docs" / "lottery.md"
MARKED = re.compile(r"(<!-- lottery ([\w-]+) -->\n).*?(<!-- end lottery -->)", re.DOTALL)
ARMS = {
    "magnitude": "magnitude",
    "magnitude-global": "magnitude over all layers",
    "magnitude-reinit": "fresh weights, masks of magnitude",
    "sparsegpt": "SparseGPT's scores",
    "obc": "OBC's scores",
    "gradcam": "effect on Grad-CAM",
    "structured": "whole channels",
    "random": "random masks",
}


def number(value: dict[str, Any] | None, digits: int = 3) -> str:
    """Mean ± standard error without the zero before the point; empty without a mean."""
    if value is None or value["mean"] is None:
        return ""
    error = value.get("standard_error")
    text = f"{value['mean']:.{digits}f}" + ("" if not error else f" ± {error:.{digits}f}")
    return re.sub(r"\b0\.", ".", text)


def counted(value: dict[str, Any]) -> str:
    """A figure with its n."""
    return f"{number(value)} (n = {value['n']})"


def tickets(record: dict[str, Any], arm: str, ticket: int) -> list[dict[str, Any]]:
    """One per seed."""
    return [t for t in record["tickets"] if (t["arm"], t["number"]) == (arm, ticket)]


def row_of(record: dict[str, Any], kind: str, arm: str, ticket: int, measure: str) -> Any:
    """A row of stability or drift; None without one."""
    for row in record[kind]:
        if (row["arm"], row["number"], row["measure"]) == (arm, ticket, measure):
            return row
    return None


def last_of(record: dict[str, Any], arm: str) -> int:
    """The sparsest ticket."""
    return max(t["number"] for t in record["tickets"] if t["arm"] == arm)


def about(record: dict[str, Any]) -> str:
    """What was run, where."""
    machine = record["machine"]
    training, pictures = record["training"], record["pictures"]
    base = f" on top of {record['base'][:10]}" if "base" in record else ""
    commands = "\n".join(record["commands"])
    return (
        f"{pictures['train']} pictures to train, {pictures['test']} to test; {training['epochs']} epochs per round. "
        f"Run at commit {record['commit'][:10]}{base}, on one thread of an {machine['cpu']}, torch "
        f"{machine['torch']}:\n\n"
        f"```sh\n{commands}\n```\n"
    )


def arms_table(record: dict[str, Any]) -> str:
    """The sparsest ticket of each arm beside dense networks, the ceiling and the floor."""
    lines = [
        "| arm | seeds | alive | accuracy | concepts only | overlap of concepts | IoU of maps | IoU of traces' maps |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    chosen = [("magnitude", 0), ("magnitude", last_of(record, "magnitude") // 2)]
    chosen += [(arm, last_of(record, arm)) for arm in ARMS if arm in record["arms"]]
    for arm, ticket in chosen:
        own = tickets(record, arm, ticket)
        cells = [
            "dense" if not ticket else f"{ARMS[arm]}, ticket {ticket}",
            str(len(own)),
            f"{100 * own[0]['alive']:.3g} %",
            number(estimate([t["test_accuracy"] for t in own])),
            number(estimate([t["pcbm_accuracy"] for t in own])),
            number(row_of(record, "stability", arm, ticket, "overlap")),
            number(row_of(record, "drift", arm, ticket, "drift/iou_threshold")),
            number(row_of(record, "drift", arm, ticket, "traced/iou_threshold")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    stability, drift = record["stability_references"], record["drift_references"]
    for name, concepts, maps in (
        ("dense, other seed", "other seed", "other seed"),
        ("dense, other bank", "other bank", None),
        ("random rows; another picture", "random rows", "other picture"),
    ):
        overlap = number(stability[concepts]["overlap"]) if concepts in stability else ""
        iou = number(drift[maps]["iou_threshold"]) if maps in drift else ""
        lines.append(f"| *{name}* | | | | | {overlap} | {iou} | |")
    return "\n".join(lines) + "\n"


def shapes(record: dict[str, Any]) -> str:
    """All of the study on drawn pictures."""
    found = [about(record), arms_table(record)]
    found.append("\n".join(f"- {text}" for text in findings(record)) + "\n")
    return "\n".join(found)


def findings(record: dict[str, Any]) -> Iterator[str]:
    """A sentence or two per question."""
    last = last_of(record, "magnitude")
    dense, sparse = (tickets(record, "magnitude", k) for k in (0, last))
    change = estimate(
        [s["test_accuracy"] - d["test_accuracy"] for d, s in zip(dense, sparse, strict=True)]
    )
    yield f"**Accuracy** of magnitude's sparsest ticket changes by {counted(change)} over seeds, {verdict(change)}."
    row = row_of(record, "stability", "magnitude", last, "overlap")
    yield (
        f"**Concepts.** The sparsest ticket's ranking of concepts overlaps with the dense network's by {number(row)}, "
        f"two dense networks of different seeds by {number(record['stability_references']['other seed']['overlap'])}: "
        f"a difference of {counted(row['minus_other_seed'])} over classes, {verdict(row['minus_other_seed'])}. The "
        "paper's tickets have other concepts than the dense network; another seed has them too."
    )
    row = row_of(record, "drift", "magnitude", last, "drift/iou_threshold")
    yield (
        f"**Maps.** The masks of the sparsest ticket share {number(row)} with the dense network's, those of two dense "
        f"networks {number(record['drift_references']['other seed']['iou_threshold'])} (difference "
        f"{counted(row['minus_other_seed'])} over pictures, {verdict(row['minus_other_seed'])}); maps of different "
        f"pictures share {number(record['drift_references']['other picture']['iou_threshold'])}."
    )
    traced = row_of(record, "drift", "magnitude", last, "traced/iou_threshold")
    if traced is not None:
        kept = row_of(record, "drift", "magnitude", last, "traced/answer_kept")
        yield (
            f"**SPADE's traces** of the sparsest ticket: their masks share {counted(traced)} with those of the dense "
            f"network's traces; {kept['mean']:.0%} of the traces keep the ticket's answer. The pictures are few."
        )
    told = courses(record, record["shortcut"])
    words = "; ".join(f"{ARMS[arm]}: {', '.join(texts)}" for arm, texts in told.items())
    yield (
        "**The planted shortcut among the concepts** of its class (one of the three leading, and told by the bank): "
        f"{words}."
    )
    for arm in [a for a in ARMS if a in record["arms"] and a in ("magnitude", "structured")]:
        ends = [
            estimate([r["first_class_gain_by_mark"]["mean"] for r in record["shortcut"]
                      if (r["arm"], r["number"]) == (arm, k)])
            for k in (0, last_of(record, arm))
        ]  # fmt: skip
        yield (
            f"**What the mark does to answers**, {ARMS[arm]}: put on unmarked pictures of its class it changes the "
            f"share of right answers by {counted(ends[0])} in the dense network and by {counted(ends[1])} in the "
            "sparsest ticket; n counts seeds."
        )
    for run in record.get("regularize", {}).get("runs", []):
        parts = [
            f"weight {w:g}: IoU {number(_minus(run, w, 'iou'))}, accuracy {number(_minus(run, w, 'test_accuracy'))}, "
            f"overlap of concepts {number(_minus(run, w, 'overlap'))}"
            for w in run["weights"] if w
        ]  # fmt: skip
        same = "equals" if run["zero_equals_plain"] else "does not equal"
        yield (
            f"**A term of the loss that holds {FORM[run['form']]} near the dense network's** (ticket "
            f"{max(run['tickets'])}), changes from weight 0: "
            f"{'; '.join(parts)}. Weight 0 {same} the plain ticket bit for bit."
        )
    if "difficulty" in record:
        texts = []
        for kind in ("concepts", "maps"):
            for where, word in (("all", "all"), ("right", "answered right")):
                row = next(
                    r for r in record["difficulty"]["rows"]
                    if (r["ticket"], r["explanation"], r["difficulty"], r["pictures"])
                    == (last, kind, "el2n", where)
                )  # fmt: skip
                if row["spearman"] is not None:
                    low, high = row["interval"]
                    texts.append(
                        f"{kind}, {word}: {row['spearman']:.2f} [{low:.2f}, {high:.2f}] (n = {row['n']})"
                    )
        yield (
            "**Hard pictures**: difficulty (EL2N) and what a picture's explanation has in common with the dense "
            f"network's correlate by {'; '.join(texts)} (Spearman, 95 % bootstrap interval)."
        )
    if "tcav" in record:
        rows = {
            (r["class"], r["concept"], r["number"]): r["sign"] > 0.5
            for r in record["tcav"]["rows"] if (r["arm"], r["seed"]) == ("magnitude", record["seeds"][0])
        }  # fmt: skip
        pairs = [key[:2] for key in rows if key[2] == 0]
        same = sum(rows[(*pair, 0)] == rows[(*pair, last)] for pair in pairs)
        yield (
            f"**TCAV**: in {same} of {len(pairs)} pairs of class and concept the sparsest ticket and the dense network "
            "agree whether the concept speaks for the class (magnitude, first seed)."
        )
    texts = [f"{r['measure'].replace('_', ' ')} {r['spearman']:.2f}"
             for r in record["correlation"] if r["arm"] == "magnitude"]  # fmt: skip
    if texts:
        yield (
            f"Over {last} tickets accuracy correlates with {' and '.join(texts)} (Spearman). This is a correlation, "
            "not a cause."
        )


def _minus(run: dict[str, Any], weight: float, measure: str) -> Any:
    return next(
        r["minus_plain"] for r in run["rows"]
        if (r["weight"], r["measure"], r["ticket"]) == (weight, measure, max(run["tickets"]))
    )  # fmt: skip


def photographs(record: dict[str, Any]) -> str:
    """The example on photographs."""
    numbers = range(last_of(record, "magnitude") + 1)
    first = [tickets(record, "magnitude", k)[0] for k in numbers]
    rows = {
        "alive": [f"{t['alive']:.0%}" for t in first],
        f"accuracy ({record['pictures']['test']} pictures)": [f"{t['test_accuracy']:.3f}" for t in first],
        "concepts only": [f"{t['pcbm_accuracy']:.3f}" for t in first],
        "overlap of concepts": [number(row_of(record, "stability", "magnitude", k, "overlap")) for k in numbers],
        "IoU of maps": [number(row_of(record, "drift", "magnitude", k, "drift/iou_threshold")) for k in numbers],
    }  # fmt: skip
    lines = [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    lines.insert(1, "| --- |" + " ---: |" * len(first))
    return about(record) + "\n" + "\n".join(lines) + "\n"


BLOCKS = {"shapes": shapes, "photographs": photographs}


def filled(text: str) -> str:
    """The page with its blocks made anew."""

    def block(found: re.Match[str]) -> str:
        file = RESULTS / f"lottery-{found[2]}.json"
        return f"{found[1]}\n{BLOCKS[found[2]](json.loads(file.read_text()))}\n{found[3]}"

    return MARKED.sub(block, text)


if __name__ == "__main__":
    write_text(PAGE, filled(PAGE.read_text()))
