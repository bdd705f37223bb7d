"""What each layer reads in a forward pass, by hooks on a copy of the model, and the Hessians of it."""

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spade_ext import HessianAccumulator
from spade_xai.models.inputs import Inputs, call, channels_last, device_of, move
from spade_xai.models.layers import Layer
from spade_xai.models.precision import forward_precision

Sink = Callable[[tuple[str, ...], Tensor], None]
"""Takes the names of the layers that read a tensor, and the tensor."""


@contextmanager
def plain_attention() -> Iterator[None]:
    """Have transformer layers run module by module: their fused path calls no hooks."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextmanager
def layer_inputs(model: nn.Module, layers: Iterable[Layer], sink: Sink) -> Iterator[None]:
    """Give sink the inputs of the layers in every forward pass of model, a copy that may carry hooks."""
    by_module: dict[str, dict[str, str]] = {}  # module -> kind of layer -> name of layer
    for layer in layers:
        for user in layer.modules:
            by_module.setdefault(user, {})[layer.kind] = layer.name
    handles = []
    try:
        for name, kinds in by_module.items():
            module = model.get_submodule(name)
            handles.append(
                module.register_forward_pre_hook(
                    _hook(kinds, sink), with_kwargs=True, prepend=False
                )
            )
        with plain_attention():
            yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(kinds: dict[str, str], sink: Sink) -> Callable[..., None]:
    def read(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if isinstance(module, nn.MultiheadAttention):
            _attention(module, args, kwargs, kinds, sink)
        else:
            (name,) = kinds.values()
            sink((name,), args[0] if args else next(iter(kwargs.values())))

    return read


def _attention(
    module: nn.MultiheadAttention,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    kinds: dict[str, str],
    sink: Sink,
) -> None:
    roles = ("query", "key", "value")
    inputs = {**dict(zip(roles, args, strict=False)), **kwargs}
    # In self-attention one tensor is read three times: its Hessian is computed once.
    readers: dict[int, tuple[str, ...]] = {}
    for role in roles:
        if role in kinds:
            readers[id(inputs[role])] = (*readers.get(id(inputs[role]), ()), kinds[role])
    for role in roles:
        names = readers.pop(id(inputs[role]), None)
        if names:
            sink(names, inputs[role])
    if "out" in kinds:
        sink((kinds["out"],), _before_output_projection(module, args, kwargs))


def _before_output_projection(
    module: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor:
    """The concatenated heads: what the module gives with the identity as its output projection."""
    twin = copy.copy(module)
    twin._parameters, twin._modules = module._parameters.copy(), module._modules.copy()
    projection = copy.copy(module.out_proj)
    weight = module.out_proj.weight
    projection._parameters = {
        "weight": nn.Parameter(
            torch.eye(len(weight), dtype=weight.dtype, device=weight.device), requires_grad=False
        ),
        "bias": None,
    }
    twin._modules["out_proj"] = projection
    heads: Tensor = twin.forward(*args, **kwargs)[0]
    return heads


class Hessians:
    """Sums X X^T of the layers over forward passes of one sample's augmentations.

    Attributes:
        seconds: Time in "forward" and "hessian" so far.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        function: str,
        precision: str = "float32",
    ) -> None:
        self.model, self.layers, self.function = model, layers, function
        self.precision = precision
        self.seconds = {"forward": 0.0, "hessian": 0.0}
        self._sums: dict[tuple[str, ...], HessianAccumulator] = {}
        self._geometry = {
            x.name: model.get_submodule(x.modules[0]) for x in layers if x.kind == "conv2d"
        }

    def _update(self, names: tuple[str, ...], x: Tensor) -> None:
        start = time.perf_counter()
        try:
            if names not in self._sums:
                self._sums[names] = HessianAccumulator(self._geometry.get(names[0]))
            self._sums[names].update(x)
        except ValueError as error:
            raise ValueError(
                f"{self.function}: inputs of layer {', '.join(names)}: {error}"
            ) from None
        self.seconds["hessian"] += time.perf_counter() - start

    def run(
        self,
        batches: Iterable[Inputs],
        report: Callable[[int, int], object] | None = None,
        reach: Mapping[str, int] | None = None,
    ) -> None:
        """Run the model on batches of inputs.

        Args:
            batches: Inputs of the model.
            report: Called with (batches done, layer inputs read).
            reach: Stop each pass once every layer was read so many times; None runs it to its end.
        """
        left: dict[str, int] = {}
        count = 0

        def sink(names: tuple[str, ...], x: Tensor) -> None:
            nonlocal count
            self._update(names, x)
            count += len(names)
            if report is not None:
                report(done, count)
            if reach is not None:
                for name in names:
                    left[name] -= 1
                if not any(v > 0 for v in left.values()):
                    raise _Reached

        kind = device_of(self.model).type
        with (
            layer_inputs(self.model, self.layers, sink),
            forward_precision(self.precision, kind),
        ):
            for done, batch in enumerate(batches):
                if reach is not None:
                    left.update(reach)
                start, in_hooks = time.perf_counter(), self.seconds["hessian"]
                try:
                    call(self.model, channels_last(move(batch, self.model)))
                except _Reached:
                    pass
                within = self.seconds["hessian"] - in_hooks
                self.seconds["forward"] += time.perf_counter() - start - within
                if report is not None:
                    report(done + 1, count)

    def take(self, layer: Layer) -> Tensor | None:
        """H of a layer [groups, cols, cols], or None if no pass used it; its sum is freed."""
        total: HessianAccumulator | None = None
        for names in [n for n in self._sums if layer.name in n]:
            shared = self._sums.pop(names)
            rest = tuple(n for n in names if n != layer.name)
            if rest:
                self._sums[rest] = _merged(self._sums.get(rest), shared)
            total = shared if total is None else _merged(total, shared)
        if total is None:
            return None
        try:
            return total.hessian.reshape(layer.groups, layer.cols, layer.cols)
        except ValueError as error:  # inputs on CUDA are judged when the sum is read
            raise ValueError(f"{self.function}: inputs of layer {layer.name}: {error}") from None


def _merged(first: HessianAccumulator | None, second: HessianAccumulator) -> HessianAccumulator:
    """The sum of both, neither modified."""
    if first is None:
        return second
    total = HessianAccumulator(first.geometry)
    total.merge(first)
    total.merge(second)
    return total


class _Reached(BaseException):
    """Every layer asked for was read: the rest of the pass is not needed."""


def execution_order(
    model: nn.Module, layers: Sequence[Layer], inputs: Inputs
) -> tuple[dict[str, int], list[str]]:
    """Run the model once.

    Returns:
        How often each layer is read, in order of first reading; and the names of layers whose module does
        something else with its input than its kind says.
    """
    calls: dict[str, int] = {}

    def sink(names: tuple[str, ...], x: Tensor) -> None:
        for name in names:
            calls[name] = calls.get(name, 0) + 1

    odd: list[str] = []
    handles = []
    for layer in layers:
        module = model.get_submodule(layer.modules[0])
        if layer.kind in ("conv2d", "linear") and _overridden(module):
            handles.append(
                module.register_forward_hook(_compare(layer.name, odd), with_kwargs=True)
            )
    try:
        with layer_inputs(model, layers, sink):
            call(model, move(inputs, model))
    finally:
        for handle in handles:
            handle.remove()
    return calls, odd


def _overridden(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        own = (type(module).forward, type(module)._conv_forward)
        return own != (nn.Conv2d.forward, nn.Conv2d._conv_forward)
    return type(module).forward is not nn.Linear.forward


def _compare(name: str, odd: list[str]) -> Callable[..., None]:
    """Hook that notes a subclass whose forward is not the plain product with its weight."""

    def check(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        x = args[0] if args else next(iter(kwargs.values()))
        if isinstance(module, nn.Conv2d):
            expected = nn.Conv2d._conv_forward(module, x, module.weight, module.bias)
        else:
            expected = F.linear(x, module.weight, module.bias)
        same = (
            isinstance(output, Tensor)
            and output.shape == expected.shape
            and torch.allclose(output, expected, rtol=1e-2, atol=1e-2 * float(expected.abs().max()))
        )
        if not same and name not in odd:
            odd.append(name)

    return check
