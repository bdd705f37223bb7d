"""The functions a model calls on data that depends on its input, one by one, wherever they are called from.

DeepLIFT and LRP replace the gradient of single functions. They do so while the model runs: a module's forward, a
functional call, a method of a tensor and an operator such as `+` all end in one function call, which is seen here.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.overrides import TorchFunctionMode, resolve_name

# Names of the first arguments where a call gives them by keyword.
_KEYWORDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("linear", "prelu"), ("input", "weight", "bias")),
    **dict.fromkeys(
        ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
        ("input", "weight", "bias"),
    ),
    **dict.fromkeys(("bmm", "mm"), ("input", "mat2")),
    "addmm": ("input", "mat1", "mat2"),
    **dict.fromkeys(("baddbmm", "addbmm"), ("input", "batch1", "batch2")),
    "addmv": ("input", "mat", "vec"),
    "scaled_dot_product_attention": ("query", "key", "value"),
    "where": ("condition", "input", "other"),
    "cat": ("tensors",),
    "concat": ("tensors",),
    "stack": ("tensors",),
}
_OTHERS = ("input", "other")
# Parts of a model that autograd sees as one node.
_OPAQUE = ("CheckpointFunction", "CompiledFunction", "DifferentiableGraph")


@dataclass
class Call:
    """One call of a function, its first arguments by position."""

    function: Any
    name: (
        str  # without underscores, so that x.relu(), F.relu(x), torch.relu(x) and x.relu_() are one
    )
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self) -> Any:
        """Call the function."""
        return self.function(*self.args, **self.kwargs)

    @property
    def title(self) -> str:
        """The function's full name, for messages."""
        return resolve_name(self.function) or self.name

    @property
    def in_place(self) -> bool:
        """Whether the function overwrites its first argument."""
        name = getattr(self.function, "__name__", "")
        dunder = name.startswith("__")
        return name.startswith("__i") if dunder else name.endswith("_")


class Calls(TorchFunctionMode):
    """Shows each function call on data that depends on the input to `rule`.

    Tensors that require a gradient but do not come from the input (parameters that the model keeps outside of its
    modules' registers) are constants, and reach the functions detached.
    """

    def __init__(self, leaf: Tensor) -> None:
        super().__init__()
        self.leaf = leaf

    def rule(self, call: Call) -> Any:
        """Return the result of the call."""
        raise NotImplementedError

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not any(is_signal(t) for t in _tensors((*args, *kwargs.values()))):
            return func(*args, **kwargs)
        args, kwargs = self._constant(args), self._constant(kwargs)
        if not any(is_signal(t) for t in _tensors((*args, *kwargs.values()))):
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "").strip("_")
        args, kwargs = _by_position(name, tuple(args), dict(kwargs))
        with _kept():
            return self.rule(Call(func, name, args, kwargs))

    def _constant(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            outside = value.requires_grad and value.is_leaf and value is not self.leaf
            return value.detach() if outside else value
        if isinstance(value, dict):
            return {k: self._constant(v) for k, v in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self._constant(v) for v in value)
        return value


def _kept() -> AbstractContextManager[Any]:
    """Inside of a checkpoint, tensors are kept after all: computing them again would be without the rules."""
    hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    if hooks is None or hooks(True) is None:
        return nullcontext()
    return saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)


def graph_nodes(root: Any) -> Iterator[Any]:
    """The nodes of autograd's graph, each once."""
    stack, seen = [root], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        stack.extend(following for following, _ in node.next_functions)


def check_open(method: str, outputs: Tensor) -> None:
    """Refuse outputs of a model that hides functions in one node of autograd's graph."""
    for node in graph_nodes(outputs.grad_fn):
        if node.name().startswith(_OPAQUE):
            raise ValueError(
                f"attribute: {method} must see the functions a model calls, got a model with a part ({node.name()}) "
                "that was compiled, scripted or is checkpointed with use_reentrant=True; give the model without"
            )


def is_signal(value: Any) -> bool:
    """Whether value is a tensor that depends on the input, inside of `Calls`."""
    return isinstance(value, Tensor) and value.requires_grad


def signals(values: Any) -> list[Tensor]:
    """The tensors that depend on the input, in arguments nested in lists, tuples and dicts."""
    return [t for t in _tensors(values) if is_signal(t)]


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)


def _by_position(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Move the first arguments that were given by keyword to their positions."""
    for keyword in _KEYWORDS.get(name, _OTHERS)[len(args) :]:
        if keyword not in kwargs:
            break
        args = (*args, kwargs.pop(keyword))
    return args, kwargs


def replace_signals(values: Any, new: Iterator[Tensor]) -> Any:
    """The nested arguments with each signal, in order, replaced by the next of new."""
    if is_signal(values):
        return next(new)
    if isinstance(values, dict):
        return {k: replace_signals(v, new) for k, v in values.items()}
    if type(values) in (list, tuple):
        return type(values)(replace_signals(v, new) for v in values)
    return values


def function_of(call: Call) -> Any:
    """The call as a function of the tensors that depend on the input."""

    def function(*xs: Tensor) -> Any:
        new = iter(xs)
        args = replace_signals(call.args, new)
        return call.function(*args, **replace_signals(call.kwargs, new))

    return function


def constants(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers as constants; those of 16 bits in float32.

    The quotients of DeepLIFT and LRP overflow or vanish in 16 bits.
    """
    named = (*model.named_parameters(), *model.named_buffers())
    return {name: wide(value.detach()) for name, value in named}


def wide(value: Any) -> Any:
    """A tensor of 16 bits in float32, anything else as it is."""
    narrow = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if narrow else value


def full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """Without the caller's autocast: in 16 bits the quotients of the rules overflow or vanish."""
    return torch.autocast(x.device.type, enabled=False)


def run_under(
    method: str,
    calls: Calls,
    model: nn.Module,
    state: dict[str, Tensor],
    x: Tensor,
    extra: tuple[Any, ...],
) -> Tensor:
    """The model's outputs with `calls` in charge, for a method of that name."""
    with torch.enable_grad(), calls:
        outputs = functional_call(model, state, (x, *extra))
    check_open(method, outputs)
    return outputs


def check_outputs(method: str, outputs: Tensor, plain: Callable[[], Tensor]) -> None:
    """Raise RuntimeError unless the rules left the outputs as they are.

    Args:
        method: Its name, for messages.
        outputs: The outputs under `Calls`.
        plain: Runs the model without.
    """

    def near(a: Tensor, b: Tensor) -> bool:
        return torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()), equal_nan=True)

    with torch.no_grad():
        without = plain()
        if near(outputs, without):
            return
        again = plain()
    if near(again, without):
        cause = (
            "does not read tensors it has overwritten, got other outputs without in-place functions"
        )
    else:
        cause = (
            "gives the same outputs for the same input, got others when called again; "
            "does it call F.dropout without training=self.training?"
        )
    raise RuntimeError(f"attribute: {method} needs a model that {cause}")
