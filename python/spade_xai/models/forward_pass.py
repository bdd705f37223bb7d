"""What tells forward passes apart that have the same weights: the outputs for an input that can be made again."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spade_xai.models.copies import duplicate
from spade_xai.models.inputs import Inputs, call, device_of, move, take

_PLAIN = (str, int, float, bool, type(None))


def outputs_of(model: nn.Module, inputs: Inputs, most: int = 64) -> list[float]:
    """The first numbers of what a model answers to the first row of inputs: they tell forward passes apart.

    None where it cannot take the inputs.
    """
    try:
        with torch.no_grad():
            logits = call(model, take(inputs, slice(0, 1)))
    except (RuntimeError, TypeError, ValueError, LookupError):
        return []
    return [round(v, 12) for v in logits.detach().double().flatten()[:most].cpu().tolist()]


def same_outputs(a: Sequence[float], b: Sequence[float], tolerance: float = 1e-3) -> bool:
    """Whether outputs are the same but for rounding, which threads and devices change."""
    if len(a) != len(b):
        return False
    scale = max([abs(v) for v in (*a, *b)], default=0.0)
    pairs = list(zip(a, b, strict=True))
    return all(x == y or abs(x - y) <= tolerance * scale or (x != x and y != y) for x, y in pairs)


def form_of(inputs: Inputs) -> dict[str, Any] | None:
    """What inputs like the first row are made from, as JSON takes it: shapes, dtypes, least and greatest values.

    None where the model is given something else than tensors and plain values.
    """
    row = take(inputs, slice(0, 1))
    kind = "dict" if isinstance(row, dict) else "tuple" if isinstance(row, tuple) else "tensor"
    named = row.items() if isinstance(row, dict) else enumerate(row if kind == "tuple" else [row])
    entries = []
    for name, value in named:
        if isinstance(value, Tensor) and not value.is_complex() and value.numel():
            wide = value.double() if value.is_floating_point() else value.long()
            entries.append(
                [name, {
                    "shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch."),
                    "low": wide.min().item(), "high": wide.max().item(),
                }]
            )  # fmt: skip
        elif isinstance(value, _PLAIN):
            entries.append([name, {"value": value}])
        else:
            return None
    return {"kind": kind, "entries": entries}


def inputs_like(form: Mapping[str, Any]) -> Inputs:
    """The inputs of a form: drawn evenly between the least and greatest value, each time the same."""
    generator = torch.Generator().manual_seed(0)

    def one(entry: Mapping[str, Any]) -> Any:
        if "value" in entry:
            return entry["value"]
        dtype, low, high = getattr(torch, entry["dtype"]), entry["low"], entry["high"]
        drawn = torch.rand(entry["shape"], generator=generator, dtype=torch.float64)
        if dtype.is_floating_point:
            return (low + (high - low) * drawn).to(dtype)
        return (low + (drawn * (high - low + 1)).floor().long()).to(dtype)

    made = [(name, one(entry)) for name, entry in form["entries"]]
    if form["kind"] == "dict":
        return dict(made)
    values = tuple(value for _, value in made)
    return values if form["kind"] == "tuple" else values[0]


def answers_to(model: nn.Module, form: Mapping[str, Any]) -> list[float] | None:
    """The outputs of a copy of the model in eval mode for the inputs of a form; None where they are random."""
    copied, device = duplicate(model), device_of(model)
    inputs = move(inputs_like(form), copied)
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
        first, second = (outputs_of(copied, inputs) for _ in range(2))
    return first if same_outputs(first, second) else None
