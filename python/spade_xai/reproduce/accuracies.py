"""Table 16: how well a backdoored network answers clean pictures, and how often its patches succeed."""

from typing import Any

from spade_xai.reports.tables import Table
from spade_xai.reproduce.result import described
from spade_xai.reproduce.table import PublishedTable
from spade_xai.trojans.planted import Planted


def accuracies(table: PublishedTable, planted: Planted) -> tuple[dict[str, Any], list[Table]]:
    """The result and its table, from what was measured when the backdoors were planted.

    Raises:
        ValueError: The folder holds no accuracies.
    """
    if not planted.accuracy:
        raise ValueError("reproduce: --planted must hold the accuracies of its network, got none")
    rows: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    own = [f"{planted.title}, ours"]
    for kind in ("clean", "trojan"):
        found = planted.accuracy.get(kind)
        if found is None:
            left_out[kind] = (
                "it was not measured, as the true classes of its pictures are not known"
            )
            own.append("")
            continue
        mean, error, n = 100 * found["mean"], 100 * found["standard_error"], found["n"]
        rows.append({"row": kind, "n": n, "mean": mean, "standard_error": error})
        own.append(f"{mean:.1f} ± {error:.1f} (n = {n})")
    published = [
        [f"{name}, paper", *(f"{figure:.1f}" for figure in figures)]
        for name, figures in table.published["accuracy"].rows.items()
    ]
    result = {
        **described(table, planted),
        "paper_network": "seven networks",
        "pictures": max((r["n"] for r in rows), default=0),
        "rows": rows,
        "published": {
            name: list(figures) for name, figures in table.published["accuracy"].rows.items()
        },
        "left_out": left_out,
    }
    shown: Table = {
        "title": "Accuracy of backdoored networks in percent",
        "head": ["network", "clean", "trojan"],
        "rows": [own, *published],
        "note": "Trojan accuracy: the share of pictures with a patch that get the target of the patch.",
    }
    return result, [shown]
