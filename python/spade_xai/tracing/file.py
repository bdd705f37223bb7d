"""Traces as safetensors files: masks, kept weights and reports; no code is run on reading."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, Protocol, get_args, get_origin

import torch
from torch import Tensor, nn

from spade_ext.files import parse_json, read_tensors, write_tensors
from spade_xai.models.copies import check_model, duplicate
from spade_xai.models.forward_pass import answers_to, form_of, same_outputs
from spade_xai.models.layers import Layer, find_layers
from spade_xai.tracing.layer_report import LayerReport
from spade_xai.tracing.packed import Packed
from spade_xai.tracing.sample import TracedSample
from spade_xai.tracing.verdict import Verdict

_FORMAT = "spade_xai.Trace.2"
_ROUNDING = 5e-3  # of outputs on other devices and threads


def fingerprint(model: nn.Module) -> dict[str, list[str]]:
    """Shape, dtype and digest of each tensor of the model's state."""
    return {
        name: describe(value)
        for name, value in model.state_dict().items()
        if isinstance(value, Tensor)
    }


def describe(value: Tensor) -> list[str]:
    """Shape, dtype and digest of a tensor."""
    flat = value.detach().cpu().contiguous().flatten().view(torch.uint8)
    digest = hashlib.blake2b(flat.numpy().tobytes(), digest_size=16).hexdigest()
    return [str(list(value.shape)), str(value.dtype), digest]


class Saved(Protocol):
    """What is saved of a trace."""

    dense: nn.Module
    layers: list[LayerReport]
    settings: dict[str, Any]
    timings: dict[str, float]
    verdict: Verdict | None
    _packed: dict[str, Packed]
    _source: TracedSample | None
    _forward: dict[str, Any] | None


def save_trace(
    trace: Saved, path: str | os.PathLike[str], further: Mapping[str, Any] | None = None
) -> None:
    """Write a trace: to a temporary file beside path, then renamed.

    Args:
        trace: What to write.
        path: The path of the file.
        further: What else to note about it, such as the run it belongs to; see `read_further`.
    """
    tensors = {}
    for name, packed in trace._packed.items():
        tensors[f"{name}.mask"], tensors[f"{name}.values"] = packed.bits, packed.values
    metadata = {
        "layers": json.dumps([vars(layer) for layer in trace.layers]),
        "shapes": json.dumps({name: packed.shape for name, packed in trace._packed.items()}),
        "settings": json.dumps(trace.settings),
        "timings": json.dumps(trace.timings),
        "verdict": json.dumps(None if trace.verdict is None else asdict(trace.verdict)),
        "model": json.dumps(fingerprint(trace.dense)),
        "forward": json.dumps(_forward_of(trace)),
        "further": json.dumps(further or {}),
    }
    write_tensors("Trace.save", path, _FORMAT, tensors, metadata)


def _forward_of(trace: Saved) -> dict[str, Any] | None:
    """Outputs for an input like the sample, and what that input is made from: they know the forward pass."""
    if trace._source is None:
        return trace._forward
    form = form_of(trace._source.inputs)
    outputs = None if form is None else answers_to(trace.dense, form)
    return {"form": form, "outputs": outputs} if outputs else None


def read_further(path: str | os.PathLike[str]) -> tuple[list[LayerReport], dict[str, float], Any]:
    """Reports, timings and what else was noted about a trace, without its model.

    Raises:
        FileNotFoundError, ValueError: As `load_trace`.
    """
    function = "read_further"
    _, metadata = read_tensors(function, path, _FORMAT)
    layers, _, timings = _notes(function, path, metadata)
    return layers, timings, parse_json(metadata.get("further", "{}"))


TraceParts = tuple[
    list[LayerReport],
    dict[str, Any],
    dict[str, float],
    Verdict | None,
    dict[str, Layer],
    dict[str, Packed],
    dict[str, Any] | None,
]
"""Reports, settings, timings, verdict, layers, weights and outputs."""


def read_trace(function: str, path: str | os.PathLike[str], model: nn.Module) -> TraceParts:
    """The parts of a trace that was saved for the model; see load_trace."""
    check_model(function, model)
    tensors, metadata = read_tensors(function, path, _FORMAT)
    layers, settings, timings = _notes(function, path, metadata)
    try:
        made_from, shapes = parse_json(metadata["model"]), parse_json(metadata["shapes"])
        _expect(made_from, "model", dict[str, list[str]])
        _expect(shapes, "shapes", dict[str, list[int]])
        verdict = _verdict(parse_json(metadata.get("verdict", "null")))
        forward = parse_json(metadata.get("forward", "null"))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{function}: {path} is damaged: {error!r}") from None
    _check_same(function, str(path), made_from, fingerprint(model))
    if forward is not None:
        _check_forward(function, path, forward, model)
    plain = duplicate(model)
    found = {layer.name: layer for layer in find_layers(plain)}
    packed = {}
    for name, shape in shapes.items():
        entry = _packed(tensors, name, tuple(shape))
        layer = found.get(name)
        if entry is None or layer is None or entry.shape != tuple(layer.read(plain).shape):
            raise ValueError(f"{function}: {path} is damaged: layer {name} does not fit its shape")
        packed[name] = entry
    return layers, settings, timings, verdict, found, packed, forward


def _check_forward(
    function: str, path: str | os.PathLike[str], forward: Any, model: nn.Module
) -> None:
    try:
        found = answers_to(model, forward["form"])
        alike = found is not None and same_outputs(forward["outputs"], found, _ROUNDING)
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{function}: {path} is damaged: {error!r}") from None
    if not alike:
        raise ValueError(
            f"{function}: {path} must belong to this model, which has the same weights but another forward pass: "
            "its outputs for the same input differ"
        )


def _verdict(parts: Any) -> Verdict | None:
    if parts is None:
        return None
    _expect(parts, "verdict", dict[str, Any])
    _expect(parts["reasons"], "reasons", list[str])
    verdict = Verdict(**{**parts, "reasons": tuple(parts["reasons"])})
    for field in fields(verdict):
        if field.name != "reasons":
            _expect(getattr(verdict, field.name), field.name, field.type)
    return verdict


def _notes(
    function: str, path: str | os.PathLike[str], metadata: Mapping[str, str]
) -> tuple[list[LayerReport], dict[str, Any], dict[str, float]]:
    """Reports, settings and timings, each of the right type."""
    try:
        reports, settings, timings = (
            parse_json(metadata[name]) for name in ("layers", "settings", "timings")
        )
        _expect(reports, "layers", list[dict[str, Any]])
        _expect(settings, "settings", dict)
        _expect(timings, "timings", dict[str, float])
        layers = [LayerReport(**report) for report in reports]
        for layer in layers:
            for field in fields(layer):
                _expect(getattr(layer, field.name), field.name, field.type)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{function}: {path} is damaged: {error!r}") from None
    return layers, settings, timings


def _expect(value: Any, name: str, kind: Any) -> None:
    """Raise TypeError if a value is not of a plain type, or of lists and dicts of one."""
    outer, inner = get_origin(kind) or kind, get_args(kind)
    if outer is float:
        outer = (int, float)
    if outer is Any:
        return
    if not isinstance(value, outer) or (isinstance(value, bool) and outer is not bool):
        raise TypeError(f"{name} must be of type {kind}, got {type(value).__name__}")
    if outer in (list, dict) and inner:
        for entry in value.values() if outer is dict else value:
            _expect(entry, name, inner[-1])


def _check_same(
    function: str, path: str, saved: dict[str, list[str]], model: dict[str, list[str]]
) -> None:
    for name in dict.fromkeys([*saved, *model]):
        if saved.get(name) == model.get(name):
            continue
        a, b = ("none" if not x else " ".join(x[:2]) for x in (saved.get(name), model.get(name)))
        what = "other values" if a == b else f"{a} in the file, {b} in the model"
        raise ValueError(
            f"{function}: {path} must belong to this model, first difference at {name}: {what}"
        )


def _packed(tensors: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> Packed | None:
    bits, values = tensors.get(f"{name}.mask"), tensors.get(f"{name}.values")
    count = 1
    for size in shape:
        count *= size
    if (
        bits is None
        or values is None
        or bits.dtype != torch.uint8
        or not values.is_floating_point()
    ):
        return None
    if min(shape, default=0) < 0 or bits.ndim != 1 or len(bits) != -(-count // 8):
        return None
    entry = Packed(shape, bits, values)
    return entry if int(entry.mask().sum()) == values.numel() else None
