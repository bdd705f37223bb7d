"""The layers of a model that can be pruned: found, chosen by name, read and written as matrices."""

import fnmatch
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from spade_xai.exceptions import UnprunedLayerWarning


@dataclass(frozen=True)
class Layer:
    """One weight matrix (or one a group) and the modules that multiply their inputs with it.

    Attributes:
        name: Dotted name of the module; of an attention's projections, the module's name and q_proj, k_proj,
            v_proj or out_proj.
        kind: "conv2d", "linear", "conv1d" (transformers), or of nn.MultiheadAttention "query", "key", "value", "out".
        groups: Matrices; more than one for grouped convolutions only.
        rows: Outputs over all groups.
        cols: Inputs of one output: channels of a group times kernel taps.
        taps: Kernel taps; 1 for all but convolutions.
        modules: Names of the modules that use the weight.
        parameters: Names of the parameters that hold it, one a module.
        offset: First row in the parameter, for the packed projections of an attention; otherwise None.
    """

    name: str
    kind: str
    groups: int
    rows: int
    cols: int
    taps: int
    modules: tuple[str, ...]
    parameters: tuple[str, ...]
    offset: int | None = None

    @property
    def depthwise(self) -> bool:
        """Whether each group has a single input channel."""
        return self.groups > 1 and self.cols == self.taps

    @property
    def numel(self) -> int:
        """Weights."""
        return self.rows * self.cols

    def read(self, model: nn.Module) -> Tensor:
        """The weights as [groups, rows / groups, cols], detached; a view where that is possible."""
        weight = model.get_parameter(self.parameters[0]).detach()
        if self.offset is not None:
            weight = weight[self.offset : self.offset + self.rows]
        if self.kind == "conv1d":
            weight = weight.t()
        return weight.reshape(self.groups, self.rows // self.groups, self.cols)

    def shaped(self, weights: Tensor) -> Tensor:
        """[groups, rows / groups, cols] (or a mask of it) in the shape of the layer's parameter or its part."""
        flat = weights.reshape(self.rows, self.cols)
        if self.kind == "conv1d":
            return flat.t().contiguous()
        if self.kind == "conv2d":
            return flat.reshape(self.rows, self.cols // self.taps, -1)
        return flat

    def write(self, model: nn.Module, weights: Tensor) -> None:
        """Give the model's modules a new parameter with these weights; the old one is left as it is."""
        old = model.get_parameter(self.parameters[0])
        if self.offset is None:
            value = self.shaped(weights).reshape(old.shape).to(old, copy=True)
        else:
            value = old.detach().clone()
            value[self.offset : self.offset + self.rows] = self.shaped(weights).to(old)
        if old.is_contiguous(memory_format=torch.channels_last) and old.ndim == 4:
            value = value.contiguous(memory_format=torch.channels_last)
        new = nn.Parameter(value, requires_grad=old.requires_grad)
        for path in self.parameters:
            module, _, attribute = path.rpartition(".")
            setattr(model.get_submodule(module), attribute, new)


def find_layers(model: nn.Module) -> list[Layer]:
    """Every layer of the model that can be pruned, depthwise convolutions among them, in order of definition.

    nn.Conv2d, nn.Linear, transformers' Conv1D, their subclasses, and the four projections of
    nn.MultiheadAttention. Modules that share a weight are one layer. Layers whose weight is computed
    (parametrizations) cannot be written and are left out with a warning.
    """
    found: dict[tuple[int, int | None], Layer] = {}
    inside_attention = {
        id(m.out_proj) for m in model.modules() if isinstance(m, nn.MultiheadAttention)
    }
    for name, module in model.named_modules():
        if id(module) in inside_attention:
            continue
        for layer in _layers_of(name, module):
            attribute = (
                layer.parameters[0].removeprefix(f"{name}.") if name else layer.parameters[0]
            )
            owner, _, leaf = attribute.rpartition(".")
            weight = module.get_submodule(owner)._parameters.get(leaf)
            if weight is None:
                warnings.warn(
                    f"layer {name} is left dense: its weight is computed, not a parameter",
                    UnprunedLayerWarning,
                    stacklevel=3,
                )
                continue
            key = (id(weight), layer.offset)
            first = found.get(key)
            if first is not None:
                layer = replace(
                    first,
                    modules=first.modules + layer.modules,
                    parameters=first.parameters + layer.parameters,
                )
            found[key] = layer
    return list(found.values())


def _layers_of(name: str, module: nn.Module) -> list[Layer]:
    prefix = f"{name}." if name else ""
    if isinstance(module, nn.Conv2d):
        taps = module.kernel_size[0] * module.kernel_size[1]
        cols = module.in_channels // module.groups * taps
        rows, groups = module.out_channels, module.groups
        return [Layer(name, "conv2d", groups, rows, cols, taps, (name,), (f"{prefix}weight",))]
    if isinstance(module, nn.Linear):
        rows, cols = module.out_features, module.in_features
        return [Layer(name, "linear", 1, rows, cols, 1, (name,), (f"{prefix}weight",))]
    if isinstance(module, nn.MultiheadAttention):
        return _attention_layers(name, prefix, module)
    weight = module._parameters.get("weight")
    if type(module).__name__ == "Conv1D" and weight is not None and weight.ndim == 2:
        cols, rows = weight.shape  # transformers stores [inputs, outputs]
        return [Layer(name, "conv1d", 1, rows, cols, 1, (name,), (f"{prefix}weight",))]
    return []


def _attention_layers(name: str, prefix: str, module: nn.MultiheadAttention) -> list[Layer]:
    size = module.embed_dim
    layers = []
    inputs = {"query": size, "key": module.kdim, "value": module.vdim}
    for i, (kind, cols) in enumerate(inputs.items()):
        projection = f"{prefix}{kind[0]}_proj"
        if module.in_proj_weight is not None:
            packed = f"{prefix}in_proj_weight"
            layers.append(
                Layer(projection, kind, 1, size, cols, 1, (name,), (packed,), offset=i * size)
            )
        else:
            own = (f"{projection}_weight",)
            layers.append(Layer(projection, kind, 1, size, cols, 1, (name,), own))
    out = f"{prefix}out_proj"
    layers.append(Layer(out, "out", 1, size, size, 1, (name,), (f"{out}.weight",)))
    return layers


def matches(name: str, pattern: str) -> bool:
    """Whether a dotted glob, or `re:` and a regular expression, takes the name or a module it lies in.

    `*` crosses dots: `layer4.*` and `layer4` both take `layer4.0.conv1`. A regular expression is matched against
    the whole name.
    """
    if pattern.startswith("re:"):
        return re.fullmatch(pattern[3:], name) is not None
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern}.*")


def select_layers(
    layers: Sequence[Layer],
    patterns: str | Iterable[str] | None,
    *,
    depthwise: bool = False,
    function: str = "trace",
) -> list[Layer]:
    """The layers that any pattern takes, in their order; all for None. Depthwise convolutions only if asked for.

    Raises:
        TypeError: patterns are not text.
        ValueError: A pattern takes no layer, or none is left.
    """
    usable = [layer for layer in layers if depthwise or not layer.depthwise]
    if patterns is not None:
        several = isinstance(patterns, Iterable) and not isinstance(patterns, str)
        wanted: list[Any] = list(patterns) if several else [patterns]
        if not all(isinstance(pattern, str) for pattern in wanted):
            raise TypeError(f"{function}: layers must be a pattern or several, got {patterns!r}")
        if not wanted:
            raise ValueError(f"{function}: layers must hold at least one pattern, got {patterns!r}")
        for pattern in wanted:
            check_pattern(pattern, usable, layers, function, "layers")
        usable = [x for x in usable if any(matches(x.name, pattern) for pattern in wanted)]
    if not usable:
        raise ValueError(f"{function}: model must have a layer that can be pruned, got none")
    return usable


def check_pattern(
    pattern: str, usable: Sequence[Layer], layers: Sequence[Layer], function: str, argument: str
) -> None:
    """Raise ValueError if the pattern is no regular expression or takes none of the usable layers."""
    try:
        if any(matches(layer.name, pattern) for layer in usable):
            return
    except re.error as error:
        raise ValueError(
            f"{function}: {argument} must hold valid patterns, got {pattern!r}: {error}"
        ) from None
    hint = ", ".join(layer.name for layer in usable[:3])
    if any(matches(layer.name, pattern) for layer in layers):
        hint = "it takes only layers that are not pruned here (depthwise=True adds depthwise ones)"
    raise ValueError(f"{function}: {argument} must take a layer, {pattern!r} takes none ({hint})")
