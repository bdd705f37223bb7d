"""A CUDA device for machines without one: tensors that torch takes for CUDA tensors and that lie in CPU memory.

Torch dispatches on them as on CUDA tensors, autocast included. What a GPU refuses is refused here: operands on
different devices, native CPU code, `numpy`. What makes the host wait for the device is noted. A test that asks for
gradients of such tensors is skipped: torch's engine wants a device of its own for them.
"""

import ctypes
import os
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import spade_ext

_ATEN = torch.ops.aten
_COPIES = {_ATEN._to_copy.default, _ATEN.copy_.default}
# Beside copies and reading a number: a result whose size the device must tell.
_WAITING = {
    _ATEN.nonzero.default, _ATEN.masked_select.default, _ATEN.bincount.default, _ATEN.equal.default
}  # fmt: skip
_OF_NUMBERS = {"next_damp", "obc_fits_float"}  # native functions that work on no memory
_DEVICE = torch.device("cuda", 0)
_CUDA, _META = 1, 14  # of c10::DeviceType
_given = set()  # addresses on the device asked for since the last native call


class CudaTensor(torch.Tensor):
    """A tensor on cuda:0; `memory` has its numbers."""

    @staticmethod
    def __new__(cls, memory):
        made = torch.Tensor._make_wrapper_subclass(
            cls, memory.shape, strides=memory.stride(), storage_offset=memory.storage_offset(),
            dtype=memory.dtype, device=_DEVICE,
        )  # fmt: skip
        made.memory = memory
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function} on a tensor of a device that is gone")

    def __deepcopy__(self, memo):
        made = self.detach().clone()
        if isinstance(self, torch.nn.Parameter):
            made = torch.nn.Parameter(made, self.requires_grad)
        memo[id(self)] = made
        return made

    def data_ptr(self):
        _given.add(self.memory.data_ptr())
        return self.memory.data_ptr()

    def tolist(self):  # torch refuses it to subclasses
        return self.cpu().tolist()


class FakeCuda(TorchDispatchMode):
    """The device while it is entered.

    Attributes:
        moved: Numbers that each copy to the host took.
        sent: Numbers of each copy from the host that did not wait.
        waits: What made the host wait for the device.
        native: Names of the native calls.
        stream: Torch's current one; the emulated backend refuses work on any other.
        free: Bytes that the device has free.
        reserved: Bytes that torch has taken of it.
        allocated: Bytes of those in tensors.
        fraction: Part of the device's `total` bytes that torch may take.
    """

    device = _DEVICE
    total = 2**40

    def __init__(self):
        super().__init__()
        self.moved, self.sent, self.waits, self.native = [], [], [], []
        self.free, self.reserved, self.allocated, self.fraction = 2**29, 0, 0, 1.0
        self._backend = ctypes.CDLL(os.environ["SPADE_CUDA_LIBRARY"])
        self.switch_stream(0x5EED0)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        ours = {id(x.memory): x for x in tensors if isinstance(x, CudaTensor)}
        to = _DEVICE if ours else torch.device("cpu")
        if kwargs.get("device") is not None:
            to = torch.device(kwargs["device"])
            kwargs["device"] = torch.device("cpu")
            if to.type == "meta":
                return function(*args, **{**kwargs, "device": to})
        if function in _COPIES:
            self._note_copy(function, args, kwargs, to)
            to = args[0].device if function is _ATEN.copy_.default else to
        elif function is _ATEN._local_scalar_dense.default and ours:
            self.moved.append(1)
            self.waits.append("item")
        else:
            self._check_operands(function, args, tensors, ours)
        out = function(*tree_map(_memory, args), **tree_map(_memory, kwargs))
        if to.type != "cuda":
            return out

        def placed(x):
            if not isinstance(x, torch.Tensor):
                return x
            return ours[id(x)] if id(x) in ours else CudaTensor(x)

        return tree_map(placed, out)

    def _note_copy(self, function, args, kwargs, to):
        source, target, given = args[0], to, args[1:]
        if function is _ATEN.copy_.default:
            source, target, given = args[1], args[0].device, args[2:]
        if source.device.type == target.type:
            return
        if source.is_cuda:
            self.moved.append(source.numel())
        # CUDA takes pageable memory away before the call returns, and only then waits unless told not to.
        if source.is_cuda or not (any(given) or kwargs.get("non_blocking")):
            self.waits.append(f"copy to {target.type}")
        else:
            self.sent.append(source.numel())

    def _check_operands(self, function, args, tensors, ours):
        indices = tree_leaves(args[1]) if "index" in function.name() and len(args) > 1 else []
        for x in tensors if ours else ():
            if not isinstance(x, CudaTensor) and x.ndim and not any(x is i for i in indices):
                raise RuntimeError(
                    f"{function}: expected all tensors to be on the same device, cuda:0 and cpu"
                )
        masks = any(isinstance(x, CudaTensor) and x.dtype == torch.bool for x in indices)
        filled = "index_put" in function.name() and args[2].numel() == 1  # as masked_fill
        if ours and (function in _WAITING or (masks and not filled)):
            self.waits.append(function.name().removeprefix("aten::"))

    def call(self, name, function):
        """The native function, noted; code for the CPU gets no address on the device."""

        def noted(*args):
            if not name.startswith("cuda_") and _given & {x for x in args if isinstance(x, int)}:
                raise RuntimeError(f"{name} reads memory of the device")
            _given.clear()
            if args and not name.endswith("_workspace") and name not in _OF_NUMBERS:
                self.native.append(name)
            return function(*args)

        return noted

    def forget(self):
        """Start all notes anew."""
        for notes in (self.moved, self.sent, self.waits, self.native):
            notes.clear()

    def switch_stream(self, stream):
        """Make it torch's current stream."""
        self.stream = stream
        ctypes.c_void_p.in_dll(self._backend, "spade_emulation_stream").value = stream

    def refuse(self, text):
        """Have every launch fail with CUDA's text; None: no more."""
        encoded = None if text is None else text.encode()
        ctypes.c_char_p.in_dll(self._backend, "spade_emulation_refusal").value = encoded
        self._text = encoded  # the library keeps its address

    def place(self, tensor):
        """The tensor on the device."""
        return tensor.to(self.device)


_plain_to = torch.Tensor.to


def _to(x, *args, **kwargs):
    """Tensor.to, by which modules move too: the lent device guard knows no current device for "cuda"."""

    def indexed(place):
        named = isinstance(place, (str, torch.device)) and str(place) == "cuda"
        return _DEVICE if named else place

    return _plain_to(x, *map(indexed, args), **{k: indexed(v) for k, v in kwargs.items()})


def _memory(x):
    return x.memory if isinstance(x, CudaTensor) else x


@contextmanager
def _device_guard():
    """The meta device's guard, which does nothing, for CUDA too: torch without CUDA has none."""
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    guards = (ctypes.c_void_p * 20).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    before, guards[_CUDA] = guards[_CUDA], guards[_META]
    try:
        yield
    finally:
        guards[_CUDA] = before


_run_backward = torch.autograd._engine_run_backward


def _backward(tensors, *args, **kwargs):
    if any(isinstance(x, CudaTensor) for x in tensors):
        pytest.skip("the fake device takes no gradients")
    return _run_backward(tensors, *args, **kwargs)


@contextmanager
def entered(patch):
    """A FakeCuda, entered, for the functions of torch.cuda that the packages call."""
    device = FakeCuda()
    patch.setattr(torch.cuda, "_lazy_init", lambda: None)
    patch.setattr(torch.cuda, "is_available", lambda: True)
    patch.setattr(torch.autograd, "_engine_run_backward", _backward)
    patch.setattr(torch.Tensor, "to", _to)
    # A module that moves makes its parameters anew: tensor.data would not take `memory` along.
    patch.setattr(torch.__future__, "_overwrite_module_params_on_conversion", True)
    patch.setattr(torch.cuda, "device", lambda which: nullcontext())
    patch.setattr(
        torch.cuda, "current_stream", lambda which: SimpleNamespace(cuda_stream=device.stream)
    )
    patch.setattr(torch.cuda, "mem_get_info", lambda which: (device.free, device.total))
    patch.setattr(torch.cuda, "memory_reserved", lambda which: device.reserved)
    patch.setattr(torch.cuda, "memory_allocated", lambda which: device.allocated)
    patch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda which: device.fraction)
    patch.setattr(torch.cuda, "get_rng_state", lambda which: torch.get_rng_state())
    patch.setattr(torch.cuda, "set_rng_state", lambda state, which: None)
    patch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    for name in dir(spade_ext._C):
        function = getattr(spade_ext._C, name)
        if callable(function) and not isinstance(function, type):
            patch.setattr(spade_ext._C, name, device.call(name, function))
    lifting = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with _device_guard(), device:
            yield device
    finally:
        torch._C._set_only_lift_cpu_tensors(lifting)
        device.refuse(None)
        device.switch_stream(None)
