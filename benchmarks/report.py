"""The report of a run: one HTML file with tables and plots, nothing beside it."""

from pathlib import Path
from statistics import median
from typing import Any

import jinja2
import numpy as np

from benchmarks import HERE, plots
from benchmarks.configurations import configurations, goals, targets
from benchmarks.result_file import write_text


def kernels(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Every op that was timed."""
    return [b for b in data["benchmarks"] if "op" in b and "flop" in b]


def beside(kernel: dict[str, Any]) -> str:
    """How many times faster an op is than what it was timed against; empty without such."""
    return f"{kernel['speedup']:.3g} x {kernel['reference']}" if "speedup" in kernel else ""


def device_kernels(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Every benchmark whose kernels were timed on a GPU, with the device's share of its time."""
    rows = []
    for b in data["benchmarks"]:
        if b.get("device_kernels"):
            busy = sum(row["seconds"] for row in b["device_kernels"])
            what = b.get("problem", b["name"].partition("::")[2])
            rows.append({**b, "what": f"{b.get('op', '')} {what}".strip(), "busy_seconds": busy})
    return rows


def reached(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Every goal that was measured on a GPU; met is None where the goal is meant for another one."""
    name = data["machine"]["device"]
    rows = []
    for b in data["benchmarks"]:
        if "goal" in b and name != "cpu":
            goal = goals()[b["goal"]]
            met = b["value"] <= goal.most if goal.device in name else None
            rows.append({**b, "of": goal, "met": met})
    return rows


def latencies(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Every configuration that was run, with its published figures."""
    rows = []
    for b in data["benchmarks"]:
        if "configuration" in b:
            names = configurations()[b["configuration"]].targets
            rows.append({**b, "targets": names, "published": [targets()[n] for n in names]})
    return rows


def fits(data: dict[str, Any]) -> list[dict[str, Any]]:
    """A power of each op's size, fitted to the logarithms of its times."""
    series: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for b in data["benchmarks"]:
        if "expected_exponent" in b:
            series.setdefault((b["op"], b["variable"]), []).append(b)
    found = []
    for (op, variable), points in series.items():
        x = np.array([p["value"] for p in points], dtype=float)
        y = np.array([p["seconds"]["median"] for p in points])
        exponent = factor = None
        if len(x) > 1:
            slope, shift = np.polyfit(np.log(x), np.log(y), 1)
            exponent, factor = float(slope), float(np.exp(shift))
        found.append(
            {
                "op": op,
                "variable": variable,
                "values": x.tolist(),
                "seconds": y.tolist(),
                "exponent": exponent,
                "factor": factor,
                "expected": points[0]["expected_exponent"],
            }
        )
    return found


def published(data: dict[str, Any]) -> list[dict[str, Any]]:
    """The published code beside ours, one row a problem and stage; same_mask is None where nothing was pruned.

    Seconds are of the processor where they were noted, and otherwise of the wall clock.
    """
    staged = [b for b in data["benchmarks"] if "stage" in b]
    ours = {(b["problem"], b["stage"]): b for b in staged if b.get("method") == "spade"}
    rows = []
    for b in staged:
        if "reference" in b:  # both in the same rounds
            theirs, own = median(b["rounds_reference_seconds"]), b
            theirs = b.get("reference_processor_seconds", theirs)
        elif b["method"] == "published" and (b["problem"], b["stage"]) in ours:
            theirs, own = b["seconds"]["median"], ours[b["problem"], b["stage"]]
        else:
            continue
        of_processor = "reference_processor_seconds" in b
        seconds = own["processor_seconds"] if of_processor else own["seconds"]["median"]
        rows.append(
            {
                "problem": b["problem"],
                "stage": b["stage"],
                "clock": "processor" if of_processor else "wall",
                "published": theirs,
                "spade": seconds,
                "speedup": theirs / seconds,
                "same_mask": b.get("same_mask"),
            }
        )
    return rows


def write_report(path: Path, data: dict[str, Any]) -> None:
    """Write the report of a run's results as one HTML file."""
    tables = {
        "kernels": kernels(data),
        "device_kernels": device_kernels(data),
        "unseen": [b["name"] for b in data["benchmarks"] if b.get("device_kernels") == []],
        "goals": reached(data),
        "latencies": latencies(data),
        "fits": fits(data),
        "published": published(data),
    }
    drawn = {
        "latency": tables["latencies"] and plots.png(plots.latency(tables["latencies"])),
        "roofline": tables["kernels"] and plots.png(plots.roofline(tables["kernels"])),
        "scaling": tables["fits"] and plots.png(plots.scaling(tables["fits"])),
    }
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["beside"] = beside
    template = environment.from_string((HERE / "report.html").read_text())
    write_text(path, template.render(data=data, plots=drawn, **tables))
