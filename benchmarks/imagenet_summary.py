"""Figures of the study on the backdoored EfficientNet-Lite0: means, paired differences, correction for looks."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import t as student

from spade_xai.measures.metrics import Estimate

AVERAGE, ROOM = "average", "average of those with room"
CEILING = 0.95  # a method whose dense maps have a lower AUROC leaves room


def arm_summary(
    records: Sequence[Mapping[str, Any]], methods: Sequence[str], metrics: Sequence[str]
) -> dict[str, Any]:
    """Means and paired differences of an arm's records, one record per photograph.

    One photograph gives one picture of each kind, so pictures are independent and standard errors need no clusters.
    `holm` is the p-value of a paired difference corrected for all comparisons of its metric (Holm, 1979).
    """
    scores = [record["scores"] for record in records]
    room = with_room(scores, methods) if "auroc" in metrics else []
    groups = {AVERAGE: list(methods)}
    if room and len(room) < len(methods):
        groups[ROOM] = room
    groups.update({method: [method] for method in methods})
    rows = [row for metric in metrics for row in _compared(metric, scores, groups)]
    return {"photographs": len(records), "with_room": room, "scores": rows}


def with_room(scores: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> list[str]:
    """Methods whose dense maps leave room for better ones."""
    return [
        m for m in methods if sum(s[m]["dense"]["auroc"] for s in scores) / len(scores) < CEILING
    ]


def traces_summary(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Means of what is known about the traces of each kind."""
    kinds: dict[str, list[Mapping[str, float]]] = {}
    for record in records:
        for kind, about in record.get("traces", {}).items():
            kinds.setdefault(kind, []).append(about)
    return {
        kind: {key: estimate([float(one[key]) for one in found]) for key in found[0]}
        for kind, found in kinds.items()
    }


def _compared(
    metric: str, records: Sequence[Mapping[str, Any]], groups: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """Mean of each method (or mean over methods) and map, and its difference to the dense map of the same picture."""
    rows: list[dict[str, Any]] = []
    first = next(iter(records[0].values()))
    for group, methods in groups.items():
        values = {
            name: [sum(r[m][name][metric] for m in methods) / len(methods) for r in records]
            for name in first
        }
        for name, own in values.items():
            gain = estimate([a - b for a, b in zip(own, values["dense"], strict=True)])
            rows.append(
                {
                    "metric": metric,
                    "method": group,
                    "map": name,
                    "mean": estimate(own),
                    "difference": gain,
                    "p": None if name == "dense" else _p_value(gain),
                }
            )
    compared = sorted((row for row in rows if row["p"] is not None), key=lambda row: row["p"])
    largest = 0.0
    for k, row in enumerate(compared):
        largest = max(largest, min(1.0, row["p"] * (len(compared) - k)))
        row["holm"] = largest
    return rows


def estimate(values: Sequence[float]) -> dict[str, float]:
    """Mean, standard error, n."""
    n = len(values)
    mean = sum(values) / n
    spread = sum((v - mean) ** 2 for v in values) / max(n - 1, 1)
    found = Estimate(mean, math.sqrt(spread / n) if n > 1 else math.nan, n)
    return {"mean": found.mean, "standard_error": found.standard_error, "n": found.n}


def _p_value(gain: Mapping[str, float]) -> float:
    """Two-sided, of a paired t-test."""
    if gain["standard_error"] == 0 or gain["n"] < 2:
        return 1.0
    score = abs(gain["mean"]) / gain["standard_error"]
    return float(2 * student.sf(score, gain["n"] - 1))
