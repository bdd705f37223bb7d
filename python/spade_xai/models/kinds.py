"""The kinds of layers that can be pruned, one class each.

A kind says which modules hold such a layer (`find`), how its weight is a matrix (`read`, `shaped`, `write`), and what
a call of a torch function with this weight multiplies it with (`reading`). To add a kind: one class here, in KINDS,
and the functions it is used by, in SIGNATURES.
"""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spade_xai.models.unfold import Reading, convolution, transposed_convolution

_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = (
    "input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation"
)  # fmt: skip
_ATTENTION = F.multi_head_attention_forward
SIGNATURES: Mapping[Any, tuple[str, ...]] = {
    F.linear: ("input", "weight", "bias"),
    torch.addmm: ("input", "mat1", "mat2"),
    torch.conv1d: _CONVOLUTION,
    torch.conv2d: _CONVOLUTION,
    torch.conv3d: _CONVOLUTION,
    torch.conv_transpose1d: _TRANSPOSED,
    torch.conv_transpose2d: _TRANSPOSED,
    torch.conv_transpose3d: _TRANSPOSED,
    _ATTENTION: tuple(inspect.signature(_ATTENTION).parameters),
}
"""The functions that multiply with a layer's weight, and the names of their arguments."""


@dataclass(frozen=True)
class Call:
    """A call of one of the functions of SIGNATURES.

    Attributes:
        function: The function.
        arguments: By name.
    """

    function: Any
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Layer:
    """One weight matrix (or one per group) and the modules that hold it.

    Attributes:
        name: Dotted name of the module; of an attention's projections, the module's name and q_proj, k_proj,
            v_proj or out_proj.
        kind: "linear", "transposed_linear" (transformers' Conv1D, whose weight is [inputs, outputs]), "conv1d",
            "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", or of
            nn.MultiheadAttention "query", "key", "value", "out".
        groups: Matrices; more than one for grouped convolutions only.
        rows: Outputs over all groups.
        cols: Inputs of one output: channels of a group times kernel taps.
        kernel: Kernel size; () for all but convolutions.
        modules: Names of the modules that use the weight.
        parameters: Names of the parameters that hold it, one per module.
        offset: First row in the parameter, for the packed projections of an attention; otherwise None.
    """

    name: str
    kind: str
    groups: int
    rows: int
    cols: int
    kernel: tuple[int, ...]
    modules: tuple[str, ...]
    parameters: tuple[str, ...]
    offset: int | None = None

    @classmethod
    def find(cls, name: str, module: nn.Module) -> list["Layer"]:
        """The layers of this kind that the module of this name holds."""
        raise NotImplementedError

    def reading(self, call: Call, argument: str) -> Reading | None:
        """What a call that takes the weight as this argument multiplies it with; None where the kind cannot say."""
        raise NotImplementedError

    @property
    def taps(self) -> int:
        """Kernel taps; 1 for all but convolutions."""
        return math.prod(self.kernel)

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
        return self.matrices(weight)

    def matrices(self, weight: Tensor) -> Tensor:
        """A tensor in the shape of the layer's parameter or its part as [groups, rows / groups, cols]."""
        return weight.reshape(self.groups, self.rows // self.groups, self.cols)

    def shaped(self, weights: Tensor) -> Tensor:
        """[groups, rows / groups, cols] (or a mask of it) in the shape of the layer's parameter or its part."""
        return weights.reshape(self.rows, self.cols // self.taps, *self.kernel)

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


def _path(name: str, attribute: str) -> str:
    return f"{name}.{attribute}" if name else attribute


class Linear(Layer):
    """nn.Linear: y = x W^T."""

    @classmethod
    def find(cls, name: str, module: nn.Module) -> list[Layer]:
        """As Layer.find."""
        if not isinstance(module, nn.Linear):
            return []
        rows, cols = module.out_features, module.in_features
        return [cls(name, "linear", 1, rows, cols, (), (name,), (_path(name, "weight"),))]

    def reading(self, call: Call, argument: str) -> Reading | None:
        """As Layer.reading; an attention may take a linear layer's weight as one of its projections."""
        if call.function is _ATTENTION:
            return _attention_reading(call.arguments, argument)
        if call.function == F.linear and argument == "weight":
            return Reading(call.arguments["input"])
        return None

    def shaped(self, weights: Tensor) -> Tensor:
        """As Layer.shaped."""
        return weights.reshape(self.rows, self.cols)


class TransposedLinear(Layer):
    """Conv1D of transformers, a linear layer that stores [inputs, outputs]: y = x W."""

    @classmethod
    def find(cls, name: str, module: nn.Module) -> list[Layer]:
        """As Layer.find."""
        weight = module._parameters.get("weight")
        if type(module).__name__ != "Conv1D" or weight is None or weight.ndim != 2:
            return []
        cols, rows = weight.shape
        path = _path(name, "weight")
        return [cls(name, "transposed_linear", 1, rows, cols, (), (name,), (path,))]

    def reading(self, call: Call, argument: str) -> Reading | None:
        """As Layer.reading."""
        fits = call.function == torch.addmm and argument == "mat2"
        return Reading(call.arguments["mat1"]) if fits else None

    def matrices(self, weight: Tensor) -> Tensor:
        """As Layer.matrices."""
        return weight.t()[None]

    def shaped(self, weights: Tensor) -> Tensor:
        """As Layer.shaped."""
        return weights.reshape(self.rows, self.cols).t().contiguous()


class Convolution(Layer):
    """nn.Conv1d, nn.Conv2d and nn.Conv3d, grouped ones and every padding mode among them."""

    @classmethod
    def find(cls, name: str, module: nn.Module) -> list[Layer]:
        """As Layer.find."""
        if not isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            return []
        kernel = tuple(module.kernel_size)
        cols = module.in_channels // module.groups * math.prod(kernel)
        return [
            cls(
                name, f"conv{len(kernel)}d", module.groups, module.out_channels, cols, kernel, (name,),
                (_path(name, "weight"),),
            )
        ]  # fmt: skip

    def reading(self, call: Call, argument: str) -> Reading | None:
        """As Layer.reading."""
        fits = call.function in (torch.conv1d, torch.conv2d, torch.conv3d) and argument == "weight"
        same_groups = call.arguments.get("groups", 1) == self.groups
        return convolution(call.arguments) if fits and same_groups else None


class TransposedConvolution(Layer):
    """nn.ConvTranspose1d, 2d and 3d; the weight [inputs, outputs / groups, ...] is read with its taps reversed."""

    @classmethod
    def find(cls, name: str, module: nn.Module) -> list[Layer]:
        """As Layer.find."""
        kinds = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
        if not isinstance(module, kinds):
            return []
        kernel = tuple(module.kernel_size)
        cols = module.in_channels // module.groups * math.prod(kernel)
        return [
            cls(
                name, f"conv_transpose{len(kernel)}d", module.groups, module.out_channels, cols, kernel,
                (name,), (_path(name, "weight"),),
            )
        ]  # fmt: skip

    def reading(self, call: Call, argument: str) -> Reading | None:
        """As Layer.reading."""
        functions = (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)
        fits = call.function in functions and argument == "weight"
        same_groups = call.arguments.get("groups", 1) == self.groups
        return transposed_convolution(call.arguments) if fits and same_groups else None

    def matrices(self, weight: Tensor) -> Tensor:
        """As Layer.matrices."""
        inputs, outputs = self.cols // self.taps, self.rows // self.groups
        apart = weight.reshape(self.groups, inputs, outputs, *self.kernel).transpose(1, 2)
        return self._reversed(apart).reshape(self.groups, outputs, self.cols)

    def shaped(self, weights: Tensor) -> Tensor:
        """As Layer.shaped."""
        inputs, outputs = self.cols // self.taps, self.rows // self.groups
        apart = weights.reshape(self.groups, outputs, inputs, *self.kernel).transpose(1, 2)
        return self._reversed(apart).reshape(self.groups * inputs, outputs, *self.kernel)

    def _reversed(self, weight: Tensor) -> Tensor:
        return weight.flip(tuple(range(3, weight.ndim)))


class AttentionProjection(Layer):
    """One of the four projections of nn.MultiheadAttention; three may be packed in one parameter."""

    @classmethod
    def find(cls, name: str, module: nn.Module) -> list[Layer]:
        """As Layer.find."""
        if not isinstance(module, nn.MultiheadAttention):
            return []
        size = module.embed_dim
        packed = module._parameters.get("in_proj_weight") is not None
        layers: list[Layer] = []
        for i, (kind, cols) in enumerate(
            {"query": size, "key": module.kdim, "value": module.vdim}.items()
        ):
            projection = f"{kind[0]}_proj"
            parameter = "in_proj_weight" if packed else f"{projection}_weight"
            layers.append(
                cls(
                    _path(name, projection), kind, 1, size, cols, (), (name,), (_path(name, parameter),),
                    i * size if packed else None,
                )
            )  # fmt: skip
        out = _path(name, "out_proj")
        layers.append(cls(out, "out", 1, size, size, (), (name,), (f"{out}.weight",)))
        return layers

    def reading(self, call: Call, argument: str) -> Reading | None:
        """As Layer.reading."""
        if call.function is _ATTENTION:
            return _attention_reading(call.arguments, argument, self.kind)
        if call.function == F.linear and argument == "weight" and self.kind == "out":
            return Reading(call.arguments["input"])
        return None

    def shaped(self, weights: Tensor) -> Tensor:
        """As Layer.shaped."""
        return weights.reshape(self.rows, self.cols)


_ROLES = {"q_proj_weight": "query", "k_proj_weight": "key", "v_proj_weight": "value"}


def _attention_reading(
    arguments: dict[str, Any], argument: str, kind: str | None = None
) -> Reading | None:
    """What an attention multiplies with one of its weights; of packed ones, with the part of a kind."""
    if argument == "out_proj_weight":
        return Reading(_heads(arguments))
    role = kind if argument == "in_proj_weight" else _ROLES.get(argument)
    return None if role is None else Reading(arguments[role])


def _heads(arguments: dict[str, Any]) -> Tensor:
    """The concatenated heads: what the attention gives with the identity as its output projection."""
    weight = arguments["out_proj_weight"]
    identity = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
    plain = {**arguments, "out_proj_weight": identity, "out_proj_bias": None, "need_weights": False}
    heads: Tensor = _ATTENTION(**plain)[0]
    return heads


KINDS: tuple[type[Layer], ...] = (
    AttentionProjection, Linear, TransposedLinear, Convolution, TransposedConvolution,
)  # fmt: skip
