"""What torch itself asks of a CUDA device, answered where there is none: by virtual functions given to its objects."""

import ctypes
import re
from contextlib import contextmanager
from pathlib import Path

import torch

_TORCH = Path(torch.__file__).parent
_CUDA, _META = 1, 14  # of c10::DeviceType
_MOST = 128  # more functions than any of the tables has, those of derived classes included


def _table(address, header, functions):
    """A copy of the table of virtual functions of the object there, with some of those that a header declares replaced.

    The header gives their order, which depends on the version of torch; a destructor takes two places.
    """
    text = re.sub(r"//.*|/\*.*?\*/", "", (_TORCH / "include" / header).read_text(), flags=re.M)
    names = []
    for name in re.findall(r"\bvirtual\s[^;{(]*?(~?\w+)\s*\(", text):
        names += [name] * (2 if name.startswith("~") else 1)
    begin = ctypes.c_void_p.from_address(address).value
    table = (ctypes.c_void_p * _MOST).from_buffer_copy(ctypes.string_at(begin, 8 * _MOST))
    for name, function in functions.items():
        table[names.index(name)] = ctypes.cast(function, ctypes.c_void_p)
    return table


@contextmanager
def device_guard():
    """For CUDA a device guard that does nothing: torch without CUDA has none.

    It is the guard of the meta device, with streams on device 0 and events that are not refused.
    """
    library = ctypes.CDLL(str(_TORCH / "lib" / "libc10.so"))
    guards = (ctypes.c_void_p * 20).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    nothing = ctypes.CFUNCTYPE(None)(lambda: None)
    # c10::Stream: type and index of the device in the first word; its id, whatever the second register has.
    stream = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p)(lambda guard: _CUDA)
    replaced = {"getStream": stream, "record": nothing, "block": nothing}
    table = _table(guards[_META], "c10/core/impl/DeviceGuardImplInterface.h", replaced)
    guard = ctypes.c_void_p(ctypes.addressof(table))  # an object without other members
    before, guards[_CUDA] = guards[_CUDA], ctypes.addressof(guard)
    try:
        yield
    finally:
        guards[_CUDA] = before


@contextmanager
def accelerator():
    """CUDA as torch's accelerator, without which autograd's engine refuses gradients of its tensors."""
    library = ctypes.CDLL(str(_TORCH / "lib" / "libtorch_cpu.so"))
    hooks = library._ZN2at6detail12getCUDAHooksEv  # at::detail::getCUDAHooks()
    hooks.restype = ctypes.c_void_p
    address = hooks()
    yes = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p)(lambda hooks: True)
    names = ["isBuilt", "isAvailable", "hasPrimaryContext"]
    header = "ATen/detail/AcceleratorHooksInterface.h"
    table = _table(address, header, dict.fromkeys(names, yes))
    pointer = ctypes.c_void_p.from_address(address)
    before, pointer.value = pointer.value, ctypes.addressof(table)
    try:
        assert torch._C._get_accelerator().type == "cuda"
        # The engine made its threads for devices when it first ran; without them it works in the caller's.
        with torch.autograd.set_multithreading_enabled(False):
            yield
    finally:
        pointer.value = before
