"""Tables of the documents that set other projects beside this one, from the result files."""

from collections.abc import Mapping
from typing import Any

from benchmarks.markdown import device, seconds, table
from benchmarks.report import published

Results = Mapping[str, dict[str, Any]]
"""Result files by their names."""


def published_code(found: Results) -> str:
    """The published classes beside ours."""
    rows = [
        [
            p["problem"], p["stage"], device(data), p["clock"], seconds(p["published"]), seconds(p["spade"]),
            f"{p['speedup']:.3g}", "" if p["same_mask"] is None else f"{100 * p['same_mask']:.2f} %",
        ]
        for data in found.values()
        for p in published(data)
    ]  # fmt: skip
    return table(
        ["problem", "stage", "on", "clock", "published", "ours", "ratio", "same mask"], rows
    )


def flows(found: Results) -> str:
    """Whole flows of the published programs, with their classes and with ours."""
    rows = []
    for data in found.values():
        for b in data["benchmarks"]:
            if "flow" not in b:
                continue
            of_processor = "processor_seconds" in b
            theirs = b[
                "reference_processor_seconds" if of_processor else "rounds_reference_seconds"
            ]
            theirs = theirs if of_processor else theirs[0]
            ours = b["processor_seconds"] if of_processor else b["seconds"]["median"]
            rows.append(
                [
                    b["peer"], b["what"], b["size"], "processor" if of_processor else "wall",
                    seconds(theirs), seconds(ours), f"{theirs / ours:.2g}", f"{100 * b['same_mask_of_flow']:.2f} %",
                ]
            )  # fmt: skip
    head = ["peer", "flow", "size", "clock", "their classes", "ours", "ratio", "equal masks"]
    return table(head, rows)


def wide_layers(found: Results) -> str:
    """prune_model on layers of large language models: processor time, and memory beyond layer and batches."""
    rows = [
        [
            b["wide_layer"], device(data), f"{b['tokens']}",
            seconds(b["processor_seconds"]),
            f"{b['peak_extra_bytes'] / 1e9:.2f} GB",
            f"{b['peak_extra_bytes'] / b['columns'] ** 2:.1f} D²", f"{b['relative_loss']:.3f}",
        ]
        for data in found.values()
        for b in data["benchmarks"]
        if "wide_layer" in b and "processor_seconds" in b
    ]  # fmt: skip
    head = [
        "layer", "on", "tokens", "processor time", "peak memory", "in bytes", "relative loss",
    ]  # fmt: skip
    return table(head, rows)
