"""All saliency methods, from the records of their families.

A new method is a record in its family's `RECORDS` and its name in the family's `Name`.
"""

from typing import Any

from spade_xai.attribution import cam, deep_lift, gradient, perturbation
from spade_xai.attribution.lrp import record as lrp
from spade_xai.attribution.method import Method

MethodName = gradient.Name | deep_lift.Name | lrp.Name | cam.Name | perturbation.Name

RECORDS: dict[str, Method] = {
    method.name: method
    for family in (gradient, deep_lift, lrp, cam, perturbation)
    for method in family.RECORDS
}
METHODS = tuple(RECORDS)
"""Names of the saliency methods."""

GRADIENT_METHODS = tuple(name for name, method in RECORDS.items() if method.cheap)
"""The methods that take a few passes per image; the others take dozens or hundreds."""

QUICK_METHODS = ("saliency", "grad_cam")
"""What is shown where nobody asks for more: fine pixels and the coarse region, a pass each."""

OPTIONS: dict[str, dict[str, Any]] = {
    name: {key: option.default for key, option in method.options.items()}
    for name, method in RECORDS.items()
}
"""Options of each method with their defaults; None means a default that depends on the input."""


def table() -> str:
    """What each method costs and is for, as a table in Markdown."""
    rows = [
        "| method | cost (forward + backward passes per input) | use it for |",
        "|---|---|---|",
        *(f"| `{m.name}` | {m.cost} | {m.use} |" for m in RECORDS.values()),
    ]
    return "\n".join(rows)
