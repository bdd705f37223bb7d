"""Rewriting a model as a graph in which activations and residual additions are modules of their own."""

import copy
import inspect
import operator
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

# An activation function or method, its module, and the names of the arguments after the input.
_MODULES: list[tuple[tuple[object, ...], type[nn.Module], tuple[str, ...]]] = [
    ((F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"), nn.ReLU, ("inplace",)),
    ((F.relu6,), nn.ReLU6, ("inplace",)),
    ((F.leaky_relu, F.leaky_relu_), nn.LeakyReLU, ("negative_slope", "inplace")),
    ((F.elu, F.elu_), nn.ELU, ("alpha", "inplace")),
    ((F.gelu,), nn.GELU, ("approximate",)),
    ((F.silu,), nn.SiLU, ("inplace",)),
    ((F.hardswish,), nn.Hardswish, ("inplace",)),
    ((F.hardsigmoid,), nn.Hardsigmoid, ("inplace",)),
    ((F.softplus,), nn.Softplus, ("beta", "threshold")),
    ((F.sigmoid, torch.sigmoid, "sigmoid", "sigmoid_"), nn.Sigmoid, ()),
    ((F.tanh, torch.tanh, "tanh", "tanh_"), nn.Tanh, ()),
    ((F.softmax, torch.softmax, "softmax"), nn.Softmax, ("dim",)),
    (
        (F.max_pool2d, torch.max_pool2d),
        nn.MaxPool2d,
        ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    ),
]
_AS_MODULE = {f: (module, names) for functions, module, names in _MODULES for f in functions}
_ADDITIONS = {operator.add, operator.iadd, torch.add, "add", "add_"}


class Add(nn.Module):
    """Residual addition: a + b."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return a + b."""
        return a + b


def rewritten(module: nn.Module, fuse_batch_norm: bool, whole: bool) -> nn.Module:
    """The module with every activation and addition a module of its own, wherever it can be traced.

    Args:
        module: A copy; what cannot be traced stays in it.
        fuse_batch_norm: Whether batch norms are folded into the layers before them.
        whole: As of `graphs`.
    """

    def change(traced: fx.GraphModule) -> None:
        _rewrite(traced)
        if fuse_batch_norm:
            fuse_batch_norms(traced)

    return graphs(module, change, whole)


def graphs(module: nn.Module, change: Callable[[fx.GraphModule], None], whole: bool) -> nn.Module:
    """The module as a graph that was changed, or with those of its children so that can be traced.

    Below the root, only modules of one argument are traced: what others are called with is not known here.

    Args:
        module: A copy; children that cannot be traced stay in it.
        change: Changes a graph in place.
        whole: Whether the module itself is tried though it takes several arguments; all but the first are then at
            their defaults.
    """
    parameters = list(inspect.signature(module.forward).parameters.values())
    if whole or len(parameters) == 1:
        defaults = {p.name: p.default for p in parameters[1:] if p.default is not p.empty}
        try:
            graph = fx.Tracer().trace(module, concrete_args=defaults or None)
            traced = fx.GraphModule(module, graph)
        except Exception:  # tracing runs the model's own code, which may raise anything
            traced = None
        if traced is not None:
            change(traced)
            traced.delete_all_unused_submodules()
            traced.graph.lint()
            traced.recompile()
            return traced.eval()
    for name, child in module.named_children():
        if next(child.children(), None) is not None:
            setattr(module, name, graphs(child, change, whole=False))
    return module


def _rewrite(traced: fx.GraphModule) -> None:
    """Give every activation call and every addition of two nodes its own module."""
    uses: Counter[str] = Counter()
    for node in list(traced.graph.nodes):
        replacement = None
        if node.op == "call_module":
            uses[node.target] += 1
            module = traced.get_submodule(node.target)
            if uses[node.target] > 1 and not module.state_dict():
                replacement = copy.deepcopy(module)
        elif node.target in _ADDITIONS and len(node.args) == 2 and not node.kwargs:
            if all(isinstance(a, fx.Node) for a in node.args):
                replacement = Add()
        elif node.op in ("call_function", "call_method"):
            replacement = _activation(node)
        if replacement is None:
            continue
        name = f"own_{node.name}"
        traced.add_submodule(name, replacement)
        inputs = node.args if isinstance(replacement, Add) else node.args[:1]
        with traced.graph.inserting_after(node):
            call = traced.graph.call_module(name, inputs)
        node.replace_all_uses_with(call)
        traced.graph.erase_node(node)


def _activation(node: fx.Node) -> nn.Module | None:
    """The module that a call of an activation function stands for, if there is one."""
    module, names = _AS_MODULE.get(node.target, (None, ()))
    options = dict(zip(names, node.args[1:], strict=False)) | {
        k: v for k, v in node.kwargs.items() if k in names
    }
    known = len(node.args) - 1 <= len(names) and len(node.args) > 0
    if module is None or not known or any(isinstance(v, fx.Node) for v in options.values()):
        return None
    dropped = {k: v for k, v in node.kwargs.items() if k not in names and v is not None}
    dropped.pop("_stacklevel", None)
    return None if dropped else module(**options)


def fuse_batch_norms(traced: fx.GraphModule) -> None:
    """Fold batch norms into the layers before them: w' = w g / s, b' = (b - mean) g / s + beta."""
    calls = Counter(n.target for n in traced.graph.nodes if n.op == "call_module")
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        source = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) > 1:
            continue
        layer, norm = modules[source.target], modules[node.target]
        if type(norm) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            continue
        if calls[source.target] > 1 or norm.running_mean is None:
            continue
        if type(layer) in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
            fused: nn.Module = fuse_conv_bn_eval(layer, norm)
        elif type(layer) is nn.Linear:
            fused = fuse_linear_bn_eval(layer, norm)
        else:
            continue
        traced.set_submodule(str(source.target), fused)
        node.replace_all_uses_with(source)
        traced.graph.erase_node(node)
