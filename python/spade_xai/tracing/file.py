"""Traces as safetensors files: masks, kept weights and reports; no code is run on reading."""

import hashlib
import json
import os
from typing import Any

import torch
from torch import Tensor, nn

from spade_ext.files import read_tensors, write_tensors
from spade_xai.models.copies import check_model, duplicate
from spade_xai.models.layers import find_layers
from spade_xai.tracing.result import LayerReport, Packed, Trace

_FORMAT = "spade_xai.Trace.1"


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


def save_trace(trace: Trace, path: str | os.PathLike[str]) -> None:
    """Write a trace: to a temporary file beside path, then renamed."""
    tensors = {}
    for name, packed in trace._packed.items():
        tensors[f"{name}.mask"], tensors[f"{name}.values"] = packed.bits, packed.values
    metadata = {
        "format": _FORMAT,
        "layers": json.dumps([vars(layer) for layer in trace.layers]),
        "shapes": json.dumps({name: packed.shape for name, packed in trace._packed.items()}),
        "settings": json.dumps(trace.settings),
        "timings": json.dumps(trace.timings),
        "model": json.dumps(fingerprint(trace.dense)),
    }
    write_tensors("Trace.save", path, tensors, metadata)


def load_trace(path: str | os.PathLike[str], model: nn.Module) -> Trace:
    """Read a trace that was saved, for the model it was made from.

    Args:
        path: Of the file.
        model: The dense model, with the same weights. Not modified.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not a trace, damaged, or made from another model; the first difference is named.
    """
    function = "load_trace"
    check_model(function, model)
    tensors, metadata = read_tensors(function, path)
    if metadata.get("format") != _FORMAT:
        raise ValueError(
            f"{function}: {path} must hold a trace of format {_FORMAT}, got {metadata.get('format')}"
        )
    try:
        made_from = json.loads(metadata["model"])
        shapes = json.loads(metadata["shapes"])
        layers = [LayerReport(**fields) for fields in json.loads(metadata["layers"])]
        settings, timings = json.loads(metadata["settings"]), json.loads(metadata["timings"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{function}: {path} is damaged: {error!r}") from None
    _check_same(function, str(path), made_from, fingerprint(model))
    plain = duplicate(model)
    found = {layer.name: layer for layer in find_layers(plain)}
    packed = {}
    for name, shape in shapes.items():
        entry = _packed(tensors, name, tuple(shape))
        layer = found.get(name)
        if entry is None or layer is None or entry.shape != tuple(layer.read(plain).shape):
            raise ValueError(f"{function}: {path} is damaged: layer {name} does not fit its shape")
        packed[name] = entry
    return Trace(model, layers, settings, timings, found, packed)


def _check_same(function: str, path: str, saved: dict[str, Any], model: dict[str, Any]) -> None:
    for name in dict.fromkeys([*saved, *model]):
        if saved.get(name) == model.get(name):
            continue
        a, b = (
            "none" if x is None else f"{x[0]} {x[1]}" for x in (saved.get(name), model.get(name))
        )
        what = "other values" if a == b else f"{a} in the file, {b} in the model"
        raise ValueError(
            f"{function}: {path} must belong to this model, first difference at {name}: {what}"
        )


def _packed(tensors: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> Packed | None:
    bits, values = tensors.get(f"{name}.mask"), tensors.get(f"{name}.values")
    count = 1
    for size in shape:
        count *= size
    if bits is None or values is None or bits.dtype != torch.uint8 or len(bits) != -(-count // 8):
        return None
    entry = Packed(shape, bits, values)
    return entry if int(entry.mask().sum()) == values.numel() else None
