"""A model as its user gives it: checked, copied so that nothing of it changes, and the logits of what it answers."""

import copy
import functools
import re
import types
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy

from spade_xai.models.computed import computes_weight, settle_weights
from spade_xai.models.modes import outside_inference_mode

_HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
)  # fmt: skip
WRAPPERS = ("network.", "module.", "_orig_mod.")
"""Prefixes that wrappers put before a model's names; names and patterns fit with and without them."""
_SHARDED = ("FullyShardedDataParallel", "FSDPModule")


def check_model(function: str, model: object) -> None:
    """Raise TypeError if model is no nn.Module whose weights can be read, with what to do instead."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{function}: model must be an nn.Module, got {type(model).__name__}")
    for name, module in model.named_modules():
        problem = _problem(module)
        if problem is not None:
            where = f" at {name}" if name else ""
            raise TypeError(f"{function}: model must {problem[0]}, got {problem[1]}{where}")


def _problem(module: nn.Module) -> tuple[str, str] | None:
    """What a module must be or have, and what it is."""
    kind = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        return "be the eager module that was scripted or traced", f"TorchScript ({kind})"
    if any(base.__name__ in _SHARDED for base in type(module).__mro__):
        return "hold its whole weights (gather the shards first)", f"FSDP ({kind})"
    source = type(module).__module__
    if source.startswith("torch.ao.nn") and ".quantized" in source:
        return "have weights in floating point (take it before quantisation)", kind
    for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
        if tensor is None:
            continue
        if is_lazy(tensor):
            return "know its sizes (run it once first)", f"{kind}.{name} without a shape"
        if tensor.is_meta:
            return "hold values (load its weights first)", f"{kind}.{name} on the meta device"
        if tensor.is_quantized:
            return "have weights in floating point", f"a quantised {kind}.{name}"
        if tensor.layout is not torch.strided:
            return "have dense tensors (.to_dense())", f"{kind}.{name} of layout {tensor.layout}"
        if type(tensor).__name__ == "DTensor" or type(tensor.data).__name__ == "DTensor":
            return "hold its whole weights (gather the shards first)", f"{kind}.{name}, a DTensor"
    return None


def plain(model: nn.Module) -> nn.Module:
    """The module inside the wrappers of torch.compile, DataParallel and DistributedDataParallel."""
    while True:
        if isinstance(model, (DataParallel, DistributedDataParallel)):
            model = model.module
        elif isinstance(inner := model.__dict__.get("_modules", {}).get("_orig_mod"), nn.Module):
            model = inner
        else:
            return model


def find_module(model: nn.Module, name: str) -> nn.Module | None:
    """The module of that name in a copy, or of the name without the prefixes of wrappers; None if there is none."""
    modules = dict(model.named_modules())
    return modules.get(name, modules.get(without_wrappers(name)))


def without_wrappers(name: str) -> str:
    """A name, or a pattern of names, without the prefixes of wrappers."""
    start = "re:" if name.startswith("re:") else ""
    rest = name[len(start) :]
    prefixes = [*WRAPPERS, *(re.escape(prefix) for prefix in WRAPPERS if start)]
    while prefix := next((p for p in prefixes if rest.startswith(p)), ""):
        rest = rest[len(prefix) :]
    return start + rest


def duplicate(
    model: nn.Module, *, share: bool = True, frozen: bool = False, settle: bool = True
) -> nn.Module:
    """Return a copy of the modules, in eval mode, whose runs change nothing of the model.

    The copy shares the parameters; its buffers are its own. It carries none of the hooks that the model's user
    registered on modules, so that they do not run; hooks that are methods of the model stay. The wrappers of
    torch.compile and of data parallelism are left off. Weights that the model computes (weight_norm, spectral_norm,
    parametrizations, torch.nn.utils.prune) are plain parameters with the values that they have in eval mode.
    Attributes that cannot be copied, such as locks, are shared.

    Args:
        model: Not modified.
        share: Whether parameters are shared; otherwise the copy has its own.
        frozen: Whether the copy's parameters take no gradients; they are then others, over the same values.
        settle: Whether computed weights become plain parameters; a copy to be trained goes on computing them.
    """
    model = plain(model)
    with outside_inference_mode(), torch.no_grad():
        try:
            copied = copy.deepcopy(model, _memo(model, share, frozen, careful=False))
        except Exception:  # an attribute may raise anything when it is copied
            copied = copy.deepcopy(model, _memo(model, share, frozen, careful=True))
        copied.eval()
        modules = list(_modules(copied))
        owned = _owned(modules)
        for module in modules:
            if settle:
                settle_weights(module)
            for name in _HOOKS:
                hooks = module.__dict__[name]
                for key in [
                    k for k, h in hooks.items() if not (_is_part(h, owned) or computes_weight(h))
                ]:
                    del hooks[key]
    return copied.requires_grad_(False) if frozen else copied


def _is_part(hook: Any, owned: set[int]) -> bool:
    """Whether a hook is part of the model and so stays in copies: made by this package, or a method of what it owns."""
    while isinstance(hook, functools.partial):
        hook = hook.func
    return bool(getattr(hook, "part_of_model", False)) or id(getattr(hook, "__self__", 0)) in owned


def _owned(modules: Sequence[nn.Module]) -> set[int]:
    """Ids of modules and of the objects that are their attributes; the hooks of a model may be methods of these."""
    values = (v for module in modules for v in module.__dict__.values())
    return {id(v) for v in values if _has_attributes(v)} | set(map(id, modules))


def _has_attributes(value: Any) -> bool:
    """Whether a value is an object with attributes of its own, and no class, function or Python module."""
    kinds = (type, types.ModuleType, types.FunctionType)
    return hasattr(value, "__dict__") and not isinstance(value, kinds)


def _modules(model: nn.Module) -> Iterator[nn.Module]:
    """The modules of a model, those in its plain lists and dicts among them, parents first."""
    seen: set[int] = set()
    waiting: list[Any] = [model]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module):
            yield value
            waiting.extend(value.__dict__.values())
        elif isinstance(value, Mapping):
            waiting.extend(value.values())
        elif isinstance(value, (list, tuple, set)):
            waiting.extend(value)


def _memo(model: nn.Module, share: bool, frozen: bool, careful: bool) -> dict[int, Any]:
    """What copy.deepcopy takes as copied already.

    Args:
        model: That will be copied.
        share: Whether its parameters are kept.
        frozen: Whether others over their values take the place of those that are kept.
        careful: Look for attributes that cannot be copied, and share them.
    """
    memo: dict[int, Any] = {}
    modules = list(_modules(model))
    parameters = {id(p) for m in modules for p in m._parameters.values()}
    owned = _owned(modules)
    seen: set[int] = set()
    for module in modules:
        for name in _HOOKS:
            hooks = module.__dict__[name]
            if not any(_is_part(h, owned) or computes_weight(h) for h in hooks.values()):
                memo[id(hooks)] = OrderedDict()
    objects: list[Any] = []
    waiting = [(value, False) for module in modules for value in module.__dict__.values()]
    while waiting:
        value, inside = waiting.pop()
        if id(value) in seen or id(value) in memo or isinstance(value, nn.Module):
            continue
        seen.add(id(value))
        if isinstance(value, Mapping):
            waiting.extend((v, inside) for v in value.values())
        elif isinstance(value, (list, tuple, set)):
            waiting.extend((v, inside) for v in value)
        elif isinstance(value, Tensor):
            if id(value) in parameters and share and not value.is_inference():
                memo[id(value)] = nn.Parameter(value.detach(), False) if frozen else value
            elif value.is_inference() or not value.is_leaf:
                memo[id(value)] = _clone(value)
        elif careful:
            objects.append(value)
            if not inside and _has_attributes(value):
                waiting.extend((v, True) for v in vars(value).values())
    for value in reversed(objects):  # what objects hold before the objects
        try:
            copy.deepcopy(value, dict(memo))
        except Exception:  # an attribute may raise anything when it is copied
            memo[id(value)] = value
    for module in reversed(modules):  # the inner wrappers first
        inner = plain(module)
        if inner is not module:
            memo[id(module)] = copy.deepcopy(inner, memo)
    return memo


def _clone(tensor: Tensor) -> Tensor:
    """The tensor's values as a tensor of its own, a parameter if it is one."""
    own = tensor.detach().clone()
    return nn.Parameter(own, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else own


def unwrap(output: Any) -> Tensor:
    """The logits in a model's output: a tensor, or what carries one as `.logits`."""
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"model output must be a torch.Tensor or have .logits, got {type(output).__name__}"
        )
    return logits
