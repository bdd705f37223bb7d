"""A copy of a model on which attribution methods are safe.

Methods that hook modules (DeepLIFT, guided backpropagation) need every activation to be a module of its own,
called once a forward pass and not in place. `prepare` rewrites a copy that shares the parameters with the model.
"""

import copy
import inspect
import operator
from collections import Counter
from typing import Any

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


class PerCall(nn.Module):
    """A module called several times a forward pass, as one copy for each call."""

    def __init__(self, module: nn.Module, calls: int) -> None:
        super().__init__()
        self.copies = nn.ModuleList(copy.deepcopy(module) for _ in range(calls))
        self.call = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the copy whose turn it is."""
        module = self.copies[self.call % len(self.copies)]
        self.call += 1
        return module(*args, **kwargs)


def unwrap(output: Any) -> Tensor:
    """The logits in a model's output: a tensor, or what carries one as `.logits`."""
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"model output must be a torch.Tensor or have .logits, got {type(output).__name__}"
        )
    return logits


def prepare(
    model: nn.Module,
    example: Tensor | None = None,
    *,
    kwargs: dict[str, Any] | None = None,
    fuse_batch_norm: bool = False,
) -> nn.Module:
    """Return a copy of model, in eval mode, that is safe for attribution methods.

    In the copy no activation works in place, none is called more than once a forward pass, and, wherever
    torch.fx can trace the model or one of its blocks, functional activations and residual additions are modules.
    Parts that cannot be traced keep their code; activations shared in them are split by call, which needs example.

    Args:
        model: Any module. Not modified; the copy shares its parameters and buffers.
        example: An input of the model, float or token ids. If given, the copy must give the model's outputs on it.
        kwargs: Further arguments of the model's forward, for the run on example.
        fuse_batch_norm: Fold batch norms into the convolution or linear layer before them (such layers are
            new tensors); LRP needs it where a batch norm has negative weights.

    Returns:
        The copy. Names of its layers are those of model.

    Raises:
        TypeError: model is not an nn.Module.
        RuntimeError: No copy gives the model's outputs on example.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"prepare: model must be an nn.Module, got {type(model).__name__}")
    expected = None if example is None else _run(duplicate(model), example, kwargs)
    worst = 0.0
    for traced in (True, False):
        prepared = duplicate(model)
        if traced:
            prepared = _trace(prepared, fuse_batch_norm, whole=not kwargs)
        for module in prepared.modules():
            if getattr(module, "inplace", False):
                setattr(module, "inplace", False)  # noqa: B010 - nn.Module types its attributes
        state = "fused" if fuse_batch_norm else "plain"
        setattr(prepared, "_spade_prepared", state)  # noqa: B010
        if expected is None:
            return prepared
        try:
            _split_shared(prepared, example, kwargs)
            got = _run(prepared, example, kwargs)
        except Exception:  # a trace fixed to something this input does not have
            if not traced:
                raise
            continue
        scale = expected.abs().max().clamp_min(1e-30)
        worst = float((got - expected).abs().max() / scale)
        tolerance = 1e-4 if expected.dtype in (torch.float32, torch.float64) else 5e-2
        if worst <= tolerance or torch.allclose(got, expected, equal_nan=True):
            return prepared
    raise RuntimeError(
        "prepare: model must give the same outputs without in-place activations and additions, "
        f"got a relative difference of {worst:.1e}; does it read a tensor it has overwritten?"
    )


def is_prepared(model: nn.Module, *, fused: bool = False) -> bool:
    """Whether model comes from `prepare` (with batch norms folded)."""
    state = getattr(model, "_spade_prepared", None)
    return state == "fused" if fused else state is not None


def duplicate(model: nn.Module) -> nn.Module:
    """Return a copy of the modules, in eval mode, that shares their tensors."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(t): t for t in tensors}).eval()


def _run(model: nn.Module, example: Tensor | None, kwargs: dict[str, Any] | None) -> Tensor:
    assert example is not None
    with torch.no_grad():
        return unwrap(model(example.clone(), **(kwargs or {})))


def _trace(module: nn.Module, fuse_batch_norm: bool, whole: bool) -> nn.Module:
    """The module rewritten as a graph, or with those of its children rewritten that can be.

    Below the root, only modules of one argument are traced: what others are called with is not known here.
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
            _rewrite(traced)
            if fuse_batch_norm:
                _fuse(traced)
            traced.delete_all_unused_submodules()
            traced.graph.lint()
            traced.recompile()
            return traced.eval()
    for name, child in module.named_children():
        if next(child.children(), None) is not None:
            setattr(module, name, _trace(child, fuse_batch_norm, whole=False))
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


def _fuse(traced: fx.GraphModule) -> None:
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


def _split_shared(model: nn.Module, example: Tensor | None, kwargs: dict[str, Any] | None) -> None:
    """Replace modules without state that are called several times by one copy for each call."""
    calls: Counter[nn.Module] = Counter()
    leaves = [m for m in model.modules() if next(m.children(), None) is None and not m.state_dict()]
    hooks = [m.register_forward_pre_hook(lambda m, _: calls.update([m])) for m in leaves]
    try:
        _run(model, example, kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    split = {m: PerCall(m, n) for m, n in calls.items() if n > 1}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child in split:
                parent._modules[name] = split[child]
    if split:
        model.register_forward_pre_hook(_Restart(list(split.values())))


class _Restart:
    """Forward pre-hook: the next calls are the first of a pass."""

    def __init__(self, modules: list[PerCall]) -> None:
        self.modules = modules

    def __call__(self, module: nn.Module, args: object) -> None:
        for m in self.modules:
            m.call = 0
