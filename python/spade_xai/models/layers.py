"""The layers of a model that can be pruned, what else holds weights, and the choice of layers by name."""

import fnmatch
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from spade_xai.models.copies import without_wrappers
from spade_xai.models.kinds import KINDS, Layer

__all__ = [
    "Layer",
    "Unsupported",
    "check_pattern",
    "find_layers",
    "find_unsupported",
    "fitting",
    "matches",
    "select_layers",
]


@dataclass(frozen=True)
class Unsupported:
    """Weights that stay dense, as they belong to no layer that can be pruned.

    Attributes:
        name: The name of the module, or of the parameter where it is not called weight.
        rows: Size of the first dimension.
        cols: Weights of each.
        zeros: Weights that are 0.
        reason: Why, and what can be done.
    """

    name: str
    rows: int
    cols: int
    zeros: int
    reason: str


def find_layers(model: nn.Module) -> list[Layer]:
    """Every layer of the model that can be pruned, depthwise convolutions among them, in order of definition.

    The kinds are those of `spade_xai.models.kinds`, with their subclasses. Modules that share a weight are one layer.
    Of a model with computed weights (weight_norm, parametrizations, prune) give a copy from `duplicate`,
    in which they are parameters. `find_unsupported` tells what is left out.
    """
    found: dict[tuple[int, int | None], Layer] = {}
    for layer in _candidates(model):
        weights = [_parameter(model, path) for path in layer.parameters]
        if _unfit(weights[0]) is not None:
            continue
        key = (id(weights[0]), layer.offset)
        first = found.get(key)
        if first is not None:
            layer = replace(
                first,
                modules=first.modules + layer.modules,
                parameters=first.parameters + layer.parameters,
            )
        found[key] = layer
    return list(found.values())


def find_unsupported(model: nn.Module) -> list[Unsupported]:
    """Every weight that no layer of find_layers holds, with the reason.

    Weights are the parameters with at least two dimensions of more than one entry: biases, the scales of norms and
    single vectors are none. Modules in plain lists and dicts, which torch does not register, are among them.
    """
    candidates = _candidates(model)
    held = {path for layer in find_layers(model) for path in layer.parameters}
    unfit = {}
    for layer in candidates:
        path = layer.parameters[0]
        reason = None if path in held else _unfit(_parameter(model, path))
        if reason is not None:
            unfit[path] = Unsupported(layer.name, layer.rows, layer.cols, 0, reason)
    found = dict(unfit)
    for name, module in model.named_modules():
        for attribute, weight in module._parameters.items():
            path = f"{name}.{attribute}" if name else attribute
            if weight is None or path in held or path in unfit:
                continue
            vector = sum(size > 1 for size in weight.shape) < 2
            if (vector and not isinstance(module, _LOOKUPS)) or isinstance(module, _SCALES):
                continue
            label = name if attribute == "weight" and name else path
            zeros = weight.numel() - int(weight.detach().count_nonzero())
            cols = math.prod(weight.shape[1:])
            found[path] = Unsupported(label, len(weight), cols, zeros, _reason(module, attribute))
    return [*found.values(), *_unregistered(model)]


def _unregistered(model: nn.Module) -> list[Unsupported]:
    """Modules with parameters in plain lists and dicts, which torch does not know of."""
    found = {}
    registered = set(model.modules())
    for name, module in model.named_modules():
        for attribute, value in module.__dict__.items():
            if isinstance(value, (list, tuple)):
                entries = list(enumerate(value))
            elif isinstance(value, dict) and not attribute.startswith("_"):
                entries = list(value.items())
            else:
                continue
            for key, entry in entries:
                if not isinstance(entry, nn.Module) or entry in registered:
                    continue
                for path, weight in entry.named_parameters():
                    if weight.ndim > 1:
                        whole = ".".join(filter(None, (name, attribute, str(key), path)))
                        zeros = weight.numel() - int(weight.detach().count_nonzero())
                        reason = (
                            f"{attribute} is a plain {type(value).__name__}, whose modules are not "
                            "registered; use nn.ModuleList or nn.ModuleDict to have them pruned"
                        )
                        size = (len(weight), math.prod(weight.shape[1:]))
                        found[id(weight)] = Unsupported(
                            whole.removesuffix(".weight"), *size, zeros, reason
                        )
    return list(found.values())


def _candidates(model: nn.Module) -> list[Layer]:
    """The layers of every module, whatever their weights are."""
    inside_attention = {
        id(m.out_proj) for m in model.modules() if isinstance(m, nn.MultiheadAttention)
    }
    return [
        layer
        for name, module in model.named_modules()
        if id(module) not in inside_attention
        for kind in KINDS
        for layer in kind.find(name, module)
    ]


def _parameter(model: nn.Module, path: str) -> Tensor | None:
    owner, _, leaf = path.rpartition(".")
    return model.get_submodule(owner)._parameters.get(leaf)


def _unfit(weight: Tensor | None) -> str | None:
    """Why a layer's weight cannot be pruned."""
    if weight is None:
        return "its weight is computed by its own code, and not a parameter that could be written"
    if not weight.is_floating_point():
        return f"its weight is {weight.dtype}, not real floating point; trace the model before that step"
    if weight.numel() == 0:
        return "its weight is empty"
    return None


_LOOKUPS = (nn.Embedding, nn.EmbeddingBag)
_SCALES = (nn.LayerNorm, nn.RMSNorm, nn.PReLU)  # multiply entry by entry


def _reason(module: nn.Module, attribute: str) -> str:
    kind = type(module).__name__
    if isinstance(module, _LOOKUPS):
        return "an embedding looks its rows up and multiplies nothing; prune the layers after it"
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return (
            f"{kind} does not show what each of its steps multiplies; "
            "write the recurrence with nn.Linear to have it pruned"
        )
    if isinstance(module, nn.Bilinear):
        return (
            "a bilinear layer multiplies pairs of inputs; "
            "write it as an nn.Linear of their outer product to have it pruned"
        )
    return (
        f"{attribute} of {kind} is the weight of no linear layer or convolution; "
        "move it into an nn.Linear if the model multiplies with it"
    )


def matches(name: str, pattern: str) -> bool:
    """Whether a dotted glob, or `re:` and a regular expression, takes the name or a module it lies in.

    `*` crosses dots: `layer4.*` and `layer4` both take `layer4.0.conv1`. A regular expression is matched against
    the whole name.
    """
    if pattern.startswith("re:"):
        return re.fullmatch(pattern[3:], name) is not None
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern}.*")


def fitting(names: Iterable[str], pattern: str) -> list[str]:
    """The names that a pattern takes; if none, those it takes where wrappers' prefixes are left off both."""
    names = list(names)
    direct = [name for name in names if matches(name, pattern)]
    if direct:
        return direct
    plain = without_wrappers(pattern)
    return [name for name in names if matches(without_wrappers(name), plain)]


def select_layers(
    layers: Sequence[Layer],
    patterns: str | Iterable[str] | None,
    *,
    depthwise: bool = False,
    function: str = "trace",
    unsupported: Sequence[Unsupported] = (),
) -> list[Layer]:
    """The layers that any pattern takes, in their order; all for None. Depthwise convolutions only if asked for.

    Args:
        layers: The layers of the model.
        patterns: Dotted globs or `re:` patterns.
        depthwise: Whether depthwise convolutions are among them.
        function: Named in errors.
        unsupported: What else holds weights, for better errors.

    Raises:
        TypeError: patterns are not text.
        ValueError: A pattern takes no layer, or none is left.
    """
    usable = [layer for layer in layers if depthwise or not layer.depthwise]
    if patterns is not None:
        wanted = as_patterns(patterns, function)
        for pattern in wanted:
            check_pattern(pattern, usable, layers, function, "layers", unsupported)
        names = {name for p in wanted for name in fitting([x.name for x in usable], p)}
        usable = [x for x in usable if x.name in names]
    if not usable:
        got = "none"
        if any(layer.depthwise for layer in layers):
            got = "depthwise convolutions only (depthwise=True prunes them)"
        elif unsupported:
            got = f"none; {unsupported[0].name}: {unsupported[0].reason}"
        raise ValueError(f"{function}: model must have a layer that can be pruned, got {got}")
    return usable


def as_patterns(patterns: str | Iterable[str], function: str) -> list[str]:
    """One pattern or several as a list.

    Raises:
        TypeError: They are not text.
        ValueError: There is none.
    """
    several = isinstance(patterns, Iterable) and not isinstance(patterns, str)
    wanted: list[Any] = list(patterns) if several else [patterns]
    if not all(isinstance(pattern, str) for pattern in wanted):
        raise TypeError(f"{function}: layers must be a pattern or several, got {patterns!r}")
    if not wanted:
        raise ValueError(f"{function}: layers must hold at least one pattern, got {patterns!r}")
    return wanted


def check_pattern(
    pattern: str,
    usable: Sequence[Layer],
    layers: Sequence[Layer],
    function: str,
    argument: str,
    unsupported: Sequence[Unsupported] = (),
) -> None:
    """Raise ValueError if the pattern is no regular expression or takes none of the usable layers."""
    try:
        if fitting([layer.name for layer in usable], pattern):
            return
    except re.error as error:
        raise ValueError(
            f"{function}: {argument} must hold valid patterns, got {pattern!r}: {error}"
        ) from None
    hint = ", ".join(layer.name for layer in usable[:3])
    left = fitting([x.name for x in unsupported], pattern)
    if fitting([layer.name for layer in layers], pattern):
        hint = "it takes only layers that are not pruned here (depthwise=True adds depthwise ones)"
    elif left:
        reason = next(x.reason for x in unsupported if x.name == left[0])
        hint = f"{left[0]} is left dense: {reason}"
    raise ValueError(f"{function}: {argument} must take a layer, {pattern!r} takes none ({hint})")
