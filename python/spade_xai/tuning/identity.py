"""What a run depends on, as text: two runs of the same text give the same results."""

import functools
import hashlib
import json
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spade_xai.models.forward_pass import outputs_of
from spade_xai.models.inputs import Inputs
from spade_xai.models.layers import Layer
from spade_xai.tracing.augment import ImageAugment
from spade_xai.tracing.file import describe, fingerprint
from spade_xai.tracing.run import TracingRun
from spade_xai.tracing.text_augment import TextAugment

_DEPTH = 8  # of values inside values that are looked at


def identity_of(
    model: nn.Module,
    run: TracingRun,
    ratios: Sequence[float],
    groups: Sequence[Sequence[Layer]],
    measure: object,
) -> dict[str, str]:
    """What a checkpoint must agree with, as text."""
    options = run.options
    samples = hashlib.blake2b(digest_size=16)
    for source in run.sources:
        samples.update(json.dumps(_content(source.inputs)).encode())
    weights = digest_of_text(json.dumps(fingerprint(model)))
    answers = outputs_of(run.model, run.sources[0].inputs)
    plain = (str, ImageAugment, TextAugment, type(None))
    augment = repr(options.augment) if isinstance(options.augment, plain) else told(options.augment)
    inputs = [
        weights, coarse(answers), samples.hexdigest(), options.pruning.name, augment, options.augmentations,
        options.damp, options.seed, options.forward_precision,
    ]  # fmt: skip
    return {
        "model": weights,
        "samples": f"{len(run.sources)}: {samples.hexdigest()}",
        "forward": json.dumps(answers),
        "measure": told(measure),
        "method": options.pruning.name,
        "augment": augment,
        "augmentations": str(options.augmentations),
        "damp": str(options.damp),
        "seed": str(options.seed),
        "forward_precision": options.forward_precision,
        "grid": json.dumps(list(ratios)),
        "groups": json.dumps([[x.name for x in g] for g in groups]),
        "inputs": json.dumps(inputs),  # what Hessians and orders depend on
    }


def coarse(outputs: Sequence[float]) -> str:
    """Outputs to two digits of the largest: another text only costs a cache."""
    scale = max([abs(v) for v in outputs], default=0.0) or 1.0
    return digest_of_text(" ".join(f"{v / scale + 0.0:.2f}" for v in outputs))


def digest_of_text(text: str) -> str:
    """A short name of a text."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def told(value: object) -> str:
    """What a callable or another value is, as text: its class or function, and a digest of what it holds.

    An attribute `identity`, where there is one, stands for the value. Else a function is its code, defaults and
    closure, an object its class and attributes. Tensors and arrays count by content. Numbers in attributes, closures
    and lists do not count: they may be counters.
    """
    own = getattr(value, "identity", None)
    if own is not None and not callable(own):
        return f"{_name(type(value))}: {own}"
    name = _name(value) if isinstance(value, types.FunctionType) else _name(type(value))
    return f"{name} {digest_of_text(json.dumps(_parts(value, 0)))}"


def _parts(value: Any, depth: int, fixed: bool = True) -> Any:
    """A value as JSON takes it; numbers count where they are fixed."""
    if depth > _DEPTH:
        return "..."
    if isinstance(value, str | Path | type(None)):
        return str(value)
    if isinstance(value, bool | int | float | complex | np.generic):
        return repr(value) if fixed else "number"
    if isinstance(value, bytes):
        return digest_of_text(value.hex())
    if isinstance(value, nn.Module):
        return [_name(type(value)), fingerprint(value)]
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        value = torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, Tensor):
        return describe(value)
    further = functools.partial(_parts, depth=depth + 1, fixed=fixed)
    if isinstance(value, tuple):
        return [further(v) for v in value]
    if isinstance(value, list):
        return [_parts(v, depth + 1, False) for v in value]
    if isinstance(value, set | frozenset):
        return sorted(json.dumps(further(v)) for v in value)
    if isinstance(value, dict):
        return [[str(k), _parts(v, depth + 1, False)] for k, v in value.items()]
    if isinstance(value, functools.partial):
        return [
            _parts(v, depth + 1) for v in (value.func, value.args, tuple(value.keywords.items()))
        ]
    if isinstance(value, types.MethodType):
        return [further(value.__func__), further(value.__self__)]
    if isinstance(value, types.FunctionType):
        return _function(value, depth)
    if isinstance(value, types.CodeType):
        constants = [_parts(c, depth + 1) for c in value.co_consts]
        return [value.co_code.hex(), list(value.co_names), constants]
    if isinstance(value, type | types.ModuleType | types.BuiltinFunctionType):
        return _name(value)
    attributes = getattr(value, "__dict__", {})
    return [_name(type(value)), [[k, _parts(v, depth + 1, False)] for k, v in attributes.items()]]


def _function(value: types.FunctionType, depth: int) -> list[Any]:
    cells = []
    for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
        try:
            cells.append([name, _parts(cell.cell_contents, depth + 1, False)])
        except ValueError:  # not filled yet
            cells.append([name, None])
    defaults = [_parts(v, depth + 1) for v in (value.__defaults__, value.__kwdefaults__)]
    return [_name(value), _parts(value.__code__, depth + 1), defaults, cells]


def _name(value: Any) -> str:
    """Of a class, function or module."""
    module, name = getattr(value, "__module__", ""), getattr(value, "__qualname__", None)
    return f"{module}.{name or getattr(value, '__name__', type(value).__name__)}"


def _content(inputs: Inputs) -> list[list[str]]:
    """Name and content of each tensor and option that the model is given."""
    if isinstance(inputs, dict):
        named = list(inputs.items())
    else:
        named = list(enumerate(inputs if isinstance(inputs, tuple) else (inputs,)))
    plain = (str, int, float, bool, type(None))  # of others only the type is known to last
    return [
        [str(name), *describe(value)]
        if isinstance(value, Tensor)
        else [str(name), repr(value) if isinstance(value, plain) else type(value).__name__]
        for name, value in named
    ]
