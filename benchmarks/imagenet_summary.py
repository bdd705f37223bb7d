"""Figures of the study on the backdoored EfficientNet-Lite0: means, paired differences, correction for looks."""

import math
from collections.abc import Sequence
from typing import Any

from scipy.stats import t as student

from spade_xai.measures.metrics import Estimate

AVERAGE = "average"


def summary(records: Sequence[dict[str, Any]], methods: Sequence[str]) -> dict[str, Any]:
    """All figures of the records of `imagenet_study.measure`, one record per photograph.

    One photograph gives one picture of each kind, so pictures are independent and standard errors need no clusters.
    `holm` is the p-value of a paired difference corrected for all comparisons of its metric (Holm, 1979).
    """
    scores = []
    for metric in ("auroc", "pointing_game"):
        scores += _compared(metric, [r["planted"] for r in records], methods)
    for metric in ("insertion", "deletion"):
        scores += _compared(metric, [r["clean"]["scores"] for r in records], methods)
    smooth = {
        metric: _estimate([r["smooth_grad"][metric] for r in records])
        for metric in ("auroc", "pointing_game")
    }
    return {
        "photographs": len(records),
        "scores": scores,
        "smooth_grad": smooth,
        "traces": {
            kind: {
                tracer: {
                    key: _estimate([float(of[tracer][key]) for of in kept])
                    for key in ("kept", "probability", "dense_probability", "sparsity", "seconds")
                }
                for tracer in kept[0]
            }
            for kind, kept in (
                ("Trojan pictures", [r["traces"] for r in records]),
                ("clean pictures", [r["clean"]["traces"] for r in records]),
            )
        },
    }


def _compared(
    metric: str, records: Sequence[dict[str, Any]], methods: Sequence[str]
) -> list[dict[str, Any]]:
    """Mean of each method and map, and its difference to the dense map of the same picture."""
    rows: list[dict[str, Any]] = []
    for method in (AVERAGE, *methods):
        chosen = methods if method == AVERAGE else [method]

        def values(name: str, chosen: Sequence[str] = chosen) -> list[float]:
            return [
                sum(record[m][name][metric] for m in chosen) / len(chosen) for record in records
            ]

        dense = values("dense")
        for name in records[0][methods[0]]:
            own = values(name)
            difference = [a - b for a, b in zip(own, dense, strict=True)]
            gain = _estimate(difference)
            rows.append(
                {
                    "metric": metric,
                    "method": method,
                    "map": name,
                    "mean": _estimate(own),
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


def _estimate(values: Sequence[float]) -> dict[str, float]:
    """Mean, standard error, n."""
    n = len(values)
    mean = sum(values) / n
    spread = sum((v - mean) ** 2 for v in values) / max(n - 1, 1)
    found = Estimate(mean, math.sqrt(spread / n) if n > 1 else math.nan, n)
    return {"mean": found.mean, "standard_error": found.standard_error, "n": found.n}


def _p_value(gain: dict[str, float]) -> float:
    """Two-sided, of a paired t-test."""
    if gain["standard_error"] == 0 or gain["n"] < 2:
        return 1.0
    score = abs(gain["mean"]) / gain["standard_error"]
    return float(2 * student.sf(score, gain["n"] - 1))
