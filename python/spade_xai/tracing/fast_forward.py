"""A copy of a model for the passes of a trace: faster, and its layers read the same inputs up to rounding.

Batch norms are folded into the convolutions before them, activations work in place where nothing else reads what they
overwrite, convolutions that are not pruned pad their inputs themselves, and the weights of convolutions lie channels
last, as the inputs do. All of it needs a graph of the model
or of parts of it; what torch.fx cannot trace stays as it is.
"""

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.parameter import Parameter

from spade_ext.geometry import Conv2dGeometry
from spade_xai.models.copies import duplicate
from spade_xai.models.inputs import Inputs, call, channels_last, device_of, take
from spade_xai.models.layers import Layer
from spade_xai.models.pads import PaddedConvolution, pad_within, padded_convolutions
from spade_xai.models.rewrite import fuse_batch_norms, graphs
from spade_xai.models.unfold import Reading
from spade_xai.tracing.hessians import layer_inputs

LEAST_AUGMENTATIONS = 16
"""The least number of variants of the sample for which the copy saves more time than making and checking it takes."""

ROUNDING = 1e-4
"""How far, relatively, the norms of a layer's inputs may differ from those of the model."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_FRESH = (
    *_CONVOLUTIONS,
    PaddedConvolution,
    nn.Linear,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
)
_IN_PLACE = (F.relu, F.relu6, F.leaky_relu, F.elu, F.silu, F.hardswish)


def fast_forward(model: nn.Module, layers: Sequence[Layer], inputs: Inputs) -> nn.Module:
    """The copy, or the model itself where no copy gives each layer the inputs that the model gives it.

    Args:
        model: In eval mode, on its device. Not modified; the copy shares the parameters that it does not change.
        layers: Whose inputs matter; the copy has their weights under the same names.
        inputs: The sample. Its first row goes through both, and the norms of what each layer reads are compared.
    """
    if not any(isinstance(module, _CONVOLUTIONS) for module in model.modules()):
        return model  # there is little to gain
    if any(p.dtype not in (torch.float32, torch.float64) for p in model.parameters()):
        return model  # a folded weight would be rounded to its few bits once more
    row = take(inputs, slice(0, 1))
    device = device_of(model)
    before = _noted(model)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            own = _passed(model, layers, row)
            if _noted(model) != before:
                return model  # a graph would not repeat what its passes note
            copy = duplicate(model)
            pruned = {id(copy.get_parameter(name)) for layer in layers for name in layer.parameters}
            fast = graphs(copy, partial(_hasten, pruned), whole=isinstance(inputs, Tensor))
            _lay_channels_last(fast)
            same = _alike(own, _passed(fast, layers, row))
        except Exception:  # the model's own code runs, which may raise anything
            return model
    return fast if same else model


def _noted(model: nn.Module) -> list[Any]:
    """What a pass may change in a model: the versions of its tensors and the plain values among its attributes."""
    versions = [t._version for t in (*model.parameters(), *model.buffers())]
    plain = (bool, int, float, str)
    values = [
        (name, value)
        for module in model.modules()
        for name, value in vars(module).items()
        if isinstance(value, plain)
    ]
    return [versions, values]


def _hasten(pruned: Collection[int], traced: fx.GraphModule) -> None:
    padded = padded_convolutions(traced, pruned)
    fuse_batch_norms(traced)
    pad_within(traced, padded)
    _work_in_place(traced)


def _work_in_place(traced: fx.GraphModule) -> None:
    """Have activations overwrite the output of a layer or batch norm that nothing else reads."""
    modules = dict(traced.named_modules())
    calls: dict[str, list[fx.Node]] = {}
    for node in traced.graph.nodes:
        if node.op == "call_module":
            calls.setdefault(str(node.target), []).append(node)
        elif node.op == "call_function" and node.target in _IN_PLACE and _overwrites(node, modules):
            node.kwargs = {**node.kwargs, "inplace": True}
    for target, nodes in calls.items():
        takes_place = getattr(modules[target], "inplace", None) is False
        if takes_place and all(_overwrites(node, modules) for node in nodes):
            modules[target].inplace = True


def _overwrites(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether the input of an activation is a new tensor that it alone reads."""
    source = node.args[0] if len(node.args) == 1 else None
    if not isinstance(source, fx.Node) or len(source.users) > 1:
        return False
    return source.op == "call_module" and isinstance(modules[str(source.target)], _FRESH)


def _lay_channels_last(model: nn.Module) -> None:
    """Give convolutions weights that lie channels last, as tensors of their own."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            laid = module.weight.detach().contiguous(memory_format=torch.channels_last)
            module.weight = Parameter(laid, requires_grad=False)


_Read = tuple[tuple[str, ...], Conv2dGeometry | None, Tensor]
_Pass = tuple[list[_Read], Tensor]


def _passed(model: nn.Module, layers: Sequence[Layer], row: Inputs) -> _Pass:
    """What each layer reads in a pass, with its 1- and 2-norm, and the outputs."""
    found: list[_Read] = []

    def sink(names: tuple[str, ...], reading: Reading) -> None:
        x = reading.x.detach()
        norms = [torch.linalg.vector_norm(x, p, dtype=torch.float64) for p in (1, 2)]
        found.append((names, reading.geometry, torch.stack(norms)))

    with layer_inputs(model, layers, sink):
        return found, call(model, channels_last(row))


def _alike(first: _Pass, second: _Pass) -> bool:
    """Whether two passes read the same up to rounding; NaN is like nothing. Waits for a device once."""
    if [r[:2] for r in first[0]] != [r[:2] for r in second[0]] or first[1].shape != second[1].shape:
        return False
    one, two = (torch.stack([norms for _, _, norms in p[0]]) for p in (first, second))
    near = (one - two).abs() <= ROUNDING * torch.maximum(one, two)
    close = (first[1] - second[1]).abs() <= 10 * ROUNDING * first[1].abs().max()
    return bool(near.all() & close.all())
