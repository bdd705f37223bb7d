"""What each layer reads in a forward pass, by watching the functions that take its weight, and the Hessians of it."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from spade_ext import HessianAccumulator
from spade_ext.errors import HessianRangeError
from spade_ext.geometry import Conv2dGeometry
from spade_xai.models.inputs import Inputs, call, channels_last, device_of, move
from spade_xai.models.kinds import SIGNATURES, Call
from spade_xai.models.layers import Layer
from spade_xai.models.precision import forward_precision
from spade_xai.models.unfold import Reading

Sink = Callable[[tuple[str, ...], Reading], None]
"""Takes the names of the layers that read a tensor, and what they read."""

COMPILER = "torch._dynamo"


@contextmanager
def plain_attention() -> Iterator[None]:
    """Have transformer layers run function by function: their fused path shows no inputs of layers."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def uncompiled() -> AbstractContextManager[None]:
    """Have functions that were compiled run as they are written: compiled code hides the functions it calls.

    Where torch's compiler was not imported nothing was compiled, and it is not imported for this: that takes a second.
    """
    if COMPILER in sys.modules:
        return torch.compiler.set_stance("force_eager")
    return nullcontext()


@contextmanager
def layer_inputs(
    model: nn.Module, layers: Iterable[Layer], sink: Sink, others: dict[str, str] | None = None
) -> Iterator[None]:
    """Give sink the inputs of the layers in every forward pass of model.

    A layer is read where a function of `spade_xai.models.kinds` takes its weight, in whatever module that happens.

    Args:
        model: A copy, in eval mode.
        layers: The layers of the model.
        sink: Called before the function runs.
        others: Takes, for each layer, the name of another function that was given its weight.
    """
    with plain_attention(), uncompiled(), _Watch(model, layers, sink, others):
        yield


class _Watch(TorchFunctionMode):
    """See layer_inputs."""

    def __init__(
        self,
        model: nn.Module,
        layers: Iterable[Layer],
        sink: Sink,
        others: dict[str, str] | None,
    ) -> None:
        super().__init__()
        self.sink, self.others = sink, others
        self.readers: dict[int, list[Layer]] = {}
        self.weights: list[Tensor] = []  # ids are of living objects only
        for layer in layers:
            weight = model.get_parameter(layer.parameters[0])
            self.readers.setdefault(id(weight), []).append(layer)
            self.weights.append(weight)

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        names = SIGNATURES.get(func)
        if names is not None:
            self._read(Call(func, {**dict(zip(names, args, strict=False)), **kwargs}))
        result = func(*args, **kwargs)
        if names is None and self.others is not None and _computes(result):
            for value in (*args, *kwargs.values()):
                for entry in value if isinstance(value, (list, tuple)) else (value,):
                    for layer in self.readers.get(id(entry), ()):
                        self.others.setdefault(layer.name, _name_of(func))
        return result

    def _read(self, call: Call) -> None:
        """Give the sink what the layers in a call read; what several read alike, once."""
        found: dict[tuple[int, Conv2dGeometry | None], tuple[list[str], Reading]] = {}
        for argument, value in call.arguments.items():
            for layer in self.readers.get(id(value), ()):
                reading = layer.reading(call, argument)
                if reading is None:
                    if self.others is not None:
                        self.others.setdefault(layer.name, _name_of(call.function))
                    continue
                key = (id(reading.x), reading.geometry)
                found.setdefault(key, ([], reading))[0].append(layer.name)
        for names, reading in found.values():
            self.sink(tuple(names), reading)


def _computes(result: Any) -> bool:
    """Whether a function gives tensors, and not a size or dtype."""
    several = isinstance(result, (list, tuple))
    return any(isinstance(value, Tensor) for value in (result if several else (result,)))


def _name_of(function: Any) -> str:
    return str(torch.overrides.resolve_name(function) or getattr(function, "__name__", function))


_Key = tuple[tuple[str, ...], Conv2dGeometry | None]


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
        self._sums: dict[_Key, HessianAccumulator] = {}

    def _update(self, names: tuple[str, ...], reading: Reading) -> None:
        start = time.perf_counter()
        key = (names, reading.geometry)
        try:
            if key not in self._sums:
                self._sums[key] = HessianAccumulator(reading.geometry)
            for part in reading.parts():
                self._sums[key].update(part)
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

        def sink(names: tuple[str, ...], reading: Reading) -> None:
            nonlocal count
            self._update(names, reading)
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
        """H of a layer [groups, cols, cols], or None if no pass used it; its sum is freed.

        Where no float32 matrix holds it, it is Inf, so that this layer alone fails.
        """
        totals: dict[Conv2dGeometry | None, HessianAccumulator] = {}
        for key in [key for key in self._sums if layer.name in key[0]]:
            names, geometry = key
            shared = self._sums.pop(key)
            rest = tuple(n for n in names if n != layer.name)
            if rest:
                self._sums[rest, geometry] = _merged(self._sums.get((rest, geometry)), shared)
            totals[geometry] = _merged(totals.get(geometry), shared)
        try:
            found = [total.hessian for total in totals.values()]
        except HessianRangeError:
            size = (layer.groups, layer.cols, layer.cols)
            return torch.full(size, torch.inf, device=device_of(self.model))
        except ValueError as error:  # inputs on CUDA are judged when the sum is read
            raise ValueError(f"{self.function}: inputs of layer {layer.name}: {error}") from None
        if not found:
            return None
        whole = found[0] if len(found) == 1 else torch.stack(found).sum(0)
        return whole.reshape(layer.groups, layer.cols, layer.cols)


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
) -> tuple[dict[str, int], dict[str, str]]:
    """Run the model once.

    Returns:
        How often each layer is read, in order of first reading; and, of layers whose weight is used but never read as
        their kind is, the reason.
    """
    calls: dict[str, int] = {}

    def sink(names: tuple[str, ...], reading: Reading) -> None:
        for name in names:
            calls[name] = calls.get(name, 0) + 1

    others: dict[str, str] = {}
    inputs = move(inputs, model)
    before = COMPILER in sys.modules
    with layer_inputs(model, layers, sink, others):
        call(model, inputs)
    if (
        COMPILER in sys.modules and not before
    ):  # the pass may have compiled functions: once more without
        calls.clear()
        others.clear()
        with layer_inputs(model, layers, sink, others):
            call(model, inputs)
    kinds = {layer.name: layer.kind for layer in layers}
    return calls, {
        name: f"the forward pass gives its weight to {function} and not to a {kinds[name]} layer; "
        "put a plain layer with the weights it computes in its place to have it pruned"
        for name, function in others.items()
        if name not in calls
    }
