"""State dicts from files, read without running code, and loaded as `load_state_dict(strict=True)` takes them."""

import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

# Where training scripts put the state dict inside a checkpoint; the first that is there counts.
_WRAPPERS = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params", "module",
    "state_dict_ema", "model_ema", "ema_state_dict", "ema",
)  # fmt: skip
# What torch puts into names wherever a module is wrapped.
_WRAPPED = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
# torchvision's published DenseNets have names that its own loader rewrites: norm.1 for norm1.
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.")


class ModelError(ValueError):
    """A model cannot be made or its weights do not fit; the message says which and why."""


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a state dict into model, which is changed only if all of it fits.

    Whatever `model.load_state_dict(state, strict=True)` takes is taken, old names and missing counters of batch norms
    among it. Names may carry the prefixes of compiled, DataParallel, Lightning or averaged (EMA) models: a prefix is
    dropped if the names behind it are the model's. Entries without that prefix are left out with a warning.

    Raises:
        ModelError: The file is missing, damaged or holds something other than tensors; or it does not fit: the
            message says how many names fit and how the others differ.
    """
    network = _unwrapped(model)
    state = _renamed(read_state(path), network, path)
    before = {k: v.clone() for k, v in network.state_dict().items() if not _is_lazy(v)}
    try:
        network.load_state_dict(state, strict=True)
    except Exception as error:  # a module's own hooks may raise anything
        network.load_state_dict(before, strict=False)
        reason = _differences(network, state) or _cause(error)
        raise ModelError(f"load_weights: {path} does not fit the model: {reason}") from None
    own = network.state_dict()
    odd = [
        name
        for name, value in state.items()
        if name in own and own[name].is_floating_point() and not value.is_floating_point()
    ]
    if odd:
        warnings.warn(
            f"load_weights: {path}: {len(odd)} tensors of real numbers are of another kind in the file, such as "
            f"{odd[0]!r} of {state[odd[0]].dtype}: are the weights quantised?",
            stacklevel=2,
        )


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from a safetensors or torch file, without running code.

    A state dict inside a checkpoint is taken out, from `state_dict`, `model`, `net`, `state_dict_ema` and the like.
    Names are as in the file.

    Raises:
        ModelError: The file is missing, damaged or holds something other than tensors.
    """
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"read_state: no file {file}")
    try:
        if file.suffix == ".safetensors":
            loaded: Any = load_file(file)
        else:
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ModelError(
            f"read_state: {file} is not a torch file of tensors alone, which is all that is loaded"
        ) from None
    except Exception as error:  # damaged files raise nearly everything
        raise ModelError(f"read_state: cannot read {file}: {first_line(error)}") from None
    if isinstance(loaded, Mapping) and not _is_state(loaded):
        found = [name for name in _WRAPPERS if _is_state(loaded.get(name))]
        if len(found) > 1:
            warnings.warn(
                f"read_state: {file} holds several state dicts ({', '.join(found)}): taken is {found[0]!r}",
                stacklevel=2,
            )
        loaded = loaded[found[0]] if found else loaded
    if not _is_state(loaded):
        raise ModelError(f"read_state: {file} must hold a dict of tensors by name")
    state = OrderedDict(loaded)
    versions = getattr(
        loaded, "_metadata", None
    )  # of the modules, for those that changed their names
    if versions is not None:
        state._metadata = versions  # type: ignore[attr-defined]
    return state


def _is_state(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )


def _unwrapped(model: nn.Module) -> nn.Module:
    """The network inside torch.compile's and DataParallel's modules."""
    while True:
        if isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            return model


def _renamed(state: dict[str, Tensor], model: nn.Module, path: str | Path) -> dict[str, Tensor]:
    """The state with the model's names: without wrappers' prefixes, and with shared tensors under all names."""
    own = model.state_dict()
    missing = [name for name in own if name not in state]
    if not missing:
        return state
    for part in _WRAPPED:
        if not any(part in name for name in own):
            state = _mapped(state, lambda name, part=part: name.replace(part, ""))
    state = _mapped(state, lambda name: _OLD_DENSENET.sub(r"\1\2.", name))
    prefix = _prefix(state, own)
    if prefix:
        outside = [name for name in state if not name.startswith(prefix)]
        if outside:
            warnings.warn(
                f"load_weights: {path}: taken are the {len(state) - len(outside)} tensors under {prefix!r}; "
                f"{len(outside)} others are left out, such as {outside[0]!r}",
                stacklevel=3,
            )
        state = _mapped(
            state, lambda name: name.removeprefix(prefix) if name.startswith(prefix) else None
        )
    # safetensors.torch.save_model writes tensors that several names share once.
    places = {
        (own[name].data_ptr(), own[name].shape): name
        for name in own
        if name in state and not _is_lazy(own[name]) and own[name].numel()
    }
    for name in own:
        if name not in state and not _is_lazy(own[name]):
            shared = places.get((own[name].data_ptr(), own[name].shape))
            if shared is not None:
                state[name] = state[shared]
    return state


def _prefix(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """The prefix behind which most names of the model are, if more than without one; else nothing."""
    counts: dict[str, int] = {"": 0}
    for name in state:
        parts = name.split(".")
        for k in range(len(parts)):
            if ".".join(parts[k:]) in own:
                prefix = "".join(f"{part}." for part in parts[:k])
                counts[prefix] = counts.get(prefix, 0) + 1
    best = max(counts, key=lambda prefix: (counts[prefix], -len(prefix)))
    # A part of the model of the same structure as the whole must not stand for it.
    return best if counts[best] > max(counts[""], len(own) // 2) else ""


def _mapped(state: dict[str, Tensor], rename: Any) -> dict[str, Tensor]:
    """The state, and the versions of its modules, under other names; those without a new name are left out."""
    result = OrderedDict((new, value) for k, value in state.items() if (new := rename(k)))
    versions = getattr(state, "_metadata", None)
    if versions is not None:
        # A module's name, without the dot that a tensor's name would go on with.
        renamed = {rename(f"{k}." if k else ""): v for k, v in versions.items()}
        result._metadata = OrderedDict(  # type: ignore[attr-defined]
            (k.removesuffix("."), v) for k, v in renamed.items() if k is not None
        )
    return result


def _differences(model: nn.Module, state: Mapping[str, Tensor]) -> str:
    """How many names fit and how the others differ; nothing if names and shapes all fit."""
    own = model.state_dict()
    kinds: list[tuple[str, list[str]]] = [
        ("missing in the file", [k for k in own if k not in state]),
        ("not in the model", [k for k in state if k not in own]),
    ]
    other = [
        k for k in own if k in state and not _is_lazy(own[k]) and state[k].shape != own[k].shape
    ]
    if other:
        first = other[0]
        what = f"of another shape, {first!r} expected {tuple(own[first].shape)}, got {tuple(state[first].shape)}"
    told = [f"{len(names)} {what}, such as {names[0]!r}" for what, names in kinds if names]
    if other:
        told.append(f"{len(other)} {what}")
    if not told:
        return ""
    fitting = len(own) - len(kinds[0][1]) - len(other)
    return f"{fitting} of {len(own)} names fit, " + "; ".join(told)


def _is_lazy(value: Tensor) -> bool:
    """Whether its shape comes with the first pass."""
    return bool(is_lazy(value))


def _cause(error: Exception) -> str:
    """What load_state_dict says, in one line: its own first line names the class alone."""
    lines = str(error).strip().splitlines()
    torchs = len(lines) > 1 and lines[0].startswith("Error(s) in loading state_dict")
    return lines[1].strip() if torchs else first_line(error)


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
