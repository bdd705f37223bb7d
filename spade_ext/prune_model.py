"""Calibrate and prune a whole model in one call, layer after layer within a limit of memory."""

import fnmatch
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from spade_ext._loss import quadratic
from spade_ext.accumulator import HessianAccumulator
from spade_ext.checks import MOST_DAMP, check_int, check_range
from spade_ext.errors import SingularHessianError
from spade_ext.layer_matrix import Method, as_weight, check_method, prune_matrix, weight_matrix
from spade_ext.progress import Callback, reporting

DEFAULT_MEMORY = 4 * 2**30
"""Bytes of Hessians that are summed at once, unless the caller gives another limit."""


@dataclass(frozen=True)
class PrunedLayer:
    """What prune_model did to a layer.

    Attributes:
        name: Name of the layer in the model.
        rows: R, outputs per group.
        columns: D, inputs of one output.
        sparsity: Share of the layer's weights that are 0 now.
        relative_loss: ||(W - W') X||^2 / ||W X||^2 over all inputs of the calibration.
        seconds: Time to prune it.
        status: "pruned"; "unused": the model does not call it; "failed": left dense, as its Hessian is not positive
            definite at any damping; "unfit": left dense, as m does not divide its columns.

    Example:
        >>> import torch, spade_ext
        >>> (layer,) = spade_ext.prune_model(torch.nn.Linear(16, 8), [torch.randn(64, 16)], 0.75)
        >>> layer.rows, layer.columns, layer.sparsity, layer.status
        (8, 16, 0.75, 'pruned')
    """

    name: str
    rows: int
    columns: int
    sparsity: float
    relative_loss: float
    seconds: float
    status: str


class _Seen(Exception):
    """All layers that are watched have had their inputs: the rest of the pass is not needed."""


def prune_model(
    model: nn.Module,
    batches: Iterable[Any],
    sparsity: float | Mapping[str, float] = 0.0,
    *,
    method: Method = "sparsegpt",
    pattern: str | None = None,
    layers: str | Sequence[str] | None = None,
    block_size: int = 128,
    damp: float = 0.01,
    max_memory: int = DEFAULT_MEMORY,
    sequential: bool = True,
    progress: bool | Callback | None = None,
) -> list[PrunedLayer]:
    """Prune the layers of a model for the inputs of a calibration set, in place.

    Layers are taken in the order in which the model calls them, in groups whose Hessians fit into max_memory. Each
    group sees inputs that the layers pruned before it have produced, so that later layers make good what earlier ones
    lost. A group costs one pass over the batches, which ends at its last layer.

    Args:
        model: Its nn.Linear, nn.Conv2d and transformers Conv1D layers are pruned. Modified; its mode (train or eval)
            and hooks stay, and passes are made in eval mode without gradients.
        batches: Inputs of the model: tensors, tuples of positional or mappings of keyword arguments. They are gone
            over once per group: a list or a DataLoader without shuffling, not an iterator.
        sparsity: Share of the weights of each layer in [0, 1], or by pattern of names; layers of no pattern stay dense.
            Ignored with pattern "n:m".
        method: "sparsegpt" or "obc".
        pattern: "2:4" and alike: n of each m consecutive weights go.
        layers: Globs of the layers to prune, "*.mlp.*"; None takes all.
        block_size: Columns of a mask block of SparseGPT; for a convolution the taps of its kernel are taken.
        damp: Damping relative to the mean of the diagonal.
        max_memory: Bytes of Hessians (float64) that are summed at once. One layer is always taken.
        sequential: Whether a group ends at each block of the model (the first number in a layer's name), as in the
            published SparseGPT. False: only max_memory ends a group.
        progress: None, True for a bar, or callback(done, total) over layers.

    Returns:
        A PrunedLayer for each layer that matches, in the order of the calls; those that the model does not call last.

    Raises:
        TypeError: batches is an iterator.
        ValueError: An option out of range, no layer to prune, or no batch.

    Source: Frantar and Alistarh, "SparseGPT" (ICML 2023), for the order of calibration.

    Example:
        >>> import torch, spade_ext
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
        >>> report = spade_ext.prune_model(model, [torch.randn(64, 16)], 0.5)
        >>> [(layer.name, layer.sparsity) for layer in report]
        [('0', 0.5), ('2', 0.5)]
    """
    function = "prune_model"
    if not isinstance(model, nn.Module):
        raise TypeError(f"{function}: model must be an nn.Module, got {type(model).__name__}")
    if iter(batches) is batches:
        raise TypeError(f"{function}: batches must be gone over more than once, got an iterator")
    check_method(function, method)
    check_range(function, "damp", damp, 0.0, MOST_DAMP)
    check_int(function, "block_size", block_size, 1)
    check_int(function, "max_memory", max_memory, 1, 2**62)
    n_of_m = _pattern(function, pattern)
    ratios = _ratios(function, model, sparsity, layers, n_of_m is not None)
    training = {module: module.training for module in model.modules()}
    reports: list[PrunedLayer] = []
    try:
        model.eval()
        order, unused = _order(function, model, batches, list(ratios))
        with reporting(progress, function) as report:
            for group in _groups(model, order, max_memory, sequential):
                sums = _sums(model, batches, group)
                for name in group:
                    layer = model.get_submodule(name)
                    reports.append(
                        _prune(
                            name,
                            layer,
                            sums.pop(name).hessian,
                            ratios[name],
                            method,
                            n_of_m,
                            block_size,
                            damp,
                        )
                    )
                    if report is not None:
                        report(len(reports), len(order))
    finally:
        for module, mode in training.items():
            module.training = mode
    for name in unused:
        matrix = weight_matrix(model.get_submodule(name))
        rows, columns = matrix.shape[-2:]
        reports.append(PrunedLayer(name, rows, columns, _zeros(matrix), 0.0, 0.0, "unused"))
    return reports


def _pattern(function: str, pattern: str | None) -> tuple[int, int] | None:
    if pattern is None:
        return None
    n, _, m = pattern.partition(":")
    if not (n.isdigit() and m.isdigit() and 0 < int(n) <= int(m)):
        raise ValueError(f'{function}: pattern must be "n:m" with n at most m, got {pattern!r}')
    return int(n), int(m)


def _ratios(
    function: str,
    model: nn.Module,
    sparsity: float | Mapping[str, float],
    layers: str | Sequence[str] | None,
    by_pattern: bool,
) -> dict[str, float]:
    """The sparsity of each layer to prune, by name."""
    globs = ["*"] if layers is None else [layers] if isinstance(layers, str) else list(layers)
    table = dict(sparsity) if isinstance(sparsity, Mapping) else {"*": sparsity}
    for ratio in table.values():
        check_range(function, "sparsity", ratio, 0.0, 1.0)
    ratios = {}
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")
        kind = isinstance(module, (nn.Linear, nn.Conv2d)) or type(module).__name__ == "Conv1D"
        if not (kind and weight is not None and any(fnmatch.fnmatchcase(name, g) for g in globs)):
            continue
        found = [ratio for glob, ratio in table.items() if fnmatch.fnmatchcase(name, glob)]
        if by_pattern or found:
            ratios[name] = found[0] if found else 0.0
    if not ratios:
        raise ValueError(
            f"{function}: layers and sparsity must name a layer of the model, got none"
        )
    return ratios


def _call(model: nn.Module, batch: Any) -> None:
    if isinstance(batch, Mapping):
        model(**batch)
    elif isinstance(batch, (tuple, list)):
        model(*batch)
    else:
        model(batch)


def _first_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Tensor:
    value = args[0] if args else next(iter(kwargs.values()))
    assert isinstance(value, torch.Tensor)
    return value.detach()


def _order(
    function: str, model: nn.Module, batches: Iterable[Any], names: list[str]
) -> tuple[list[str], list[str]]:
    """Names in the order of their first call, and those that are not called."""
    seen: dict[str, None] = {}
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda module, args, name=name: seen.setdefault(name)
        )
        for name in names
    ]
    try:
        with torch.no_grad():
            for batch in batches:
                _call(model, batch)
                break
            else:
                raise ValueError(f"{function}: batches must hold a batch, got none")
    finally:
        for hook in hooks:
            hook.remove()
    return list(seen), [name for name in names if name not in seen]


def _block(name: str) -> str:
    """The name of the block that a layer belongs to: up to the first number, or all of it."""
    parts = name.split(".")
    place = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
    return ".".join(parts[: place + 1])


def _groups(
    model: nn.Module, order: list[str], max_memory: int, sequential: bool
) -> list[list[str]]:
    """Names that are calibrated in one pass."""
    groups: list[list[str]] = []
    held = 0
    for name in order:
        matrix = weight_matrix(model.get_submodule(name))
        need = 8 * matrix.shape[-1] ** 2 * (len(matrix) if matrix.ndim == 3 else 1)
        other_block = bool(groups) and sequential and _block(groups[-1][-1]) != _block(name)
        if not groups or other_block or held + need > max_memory:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += need
    return groups


def _sums(
    model: nn.Module, batches: Iterable[Any], names: list[str]
) -> dict[str, HessianAccumulator]:
    """Hessians of the inputs of some layers, over all batches."""
    sums = {name: HessianAccumulator(model.get_submodule(name)) for name in names}

    def watch(name: str) -> Any:
        def add(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            sums[name].update(_first_input(args, kwargs))

        return model.get_submodule(name).register_forward_pre_hook(add, with_kwargs=True)

    def stop(module: nn.Module, args: object) -> None:
        raise _Seen

    hooks = [watch(name) for name in names]
    hooks.append(model.get_submodule(names[-1]).register_forward_pre_hook(stop))
    try:
        with torch.no_grad():
            for batch in batches:
                try:
                    _call(model, batch)
                except _Seen:
                    pass
    finally:
        for hook in hooks:
            hook.remove()
    return sums


def _zeros(weight: torch.Tensor) -> float:
    return float((weight == 0).double().mean()) if weight.numel() else 0.0


def _prune(
    name: str,
    layer: nn.Module,
    hessian: torch.Tensor,
    ratio: float,
    method: Method,
    n_of_m: tuple[int, int] | None,
    block_size: int,
    damp: float,
) -> PrunedLayer:
    started = time.perf_counter()
    weight = weight_matrix(layer).clone()
    rows, columns = weight.shape[-2:]
    taps = layer.kernel_size[0] * layer.kernel_size[1] if isinstance(layer, nn.Conv2d) else 0
    status, loss = "pruned", 0.0
    if n_of_m is not None and columns % n_of_m[1]:
        status = "unfit"
    elif ratio or n_of_m:
        try:
            pruned = prune_matrix(
                "prune_model", weight, hessian, ratio, method, n_of_m, taps or block_size, damp
            )
        except SingularHessianError:
            status = "failed"
        else:
            layer.get_parameter("weight").data.copy_(as_weight(layer, pruned))
            total = quadratic(weight, hessian).clamp_min(1e-300)
            loss = float(quadratic(weight - pruned, hessian) / total)
    zeros = _zeros(weight_matrix(layer))
    return PrunedLayer(name, rows, columns, zeros, loss, time.perf_counter() - started, status)
