"""SPADE's stages in plain torch, on the device of their tensors: what the goals are set beside."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import machine
from benchmarks.layers import LayerShape
from benchmarks.problems import pruning_problem
from spade_ext import damped_inverse, reference
from spade_xai.models.layers import Layer
from spade_xai.models.precision import forward_precision
from spade_xai.models.unfold import Reading
from spade_xai.tracing.hessians import layer_inputs


def unfolded_hessian(module: nn.Module, x: Tensor) -> Tensor:
    """X X^T [D, D] of a module's inputs in float32: a product of the unfolded inputs."""
    if isinstance(module, nn.Conv2d):
        options = (module.kernel_size, module.dilation, module.padding, module.stride)
        rows = F.unfold(x.float(), *options).transpose(1, 2).flatten(0, 1)
    else:
        rows = x.float().flatten(0, -2)
    return rows.T @ rows


def hessians(
    model: nn.Module, layers: Sequence[Layer], batches: Iterable[Tensor], precision: str
) -> dict[str, Tensor]:
    """H of ungrouped layers over forward passes of the batches."""
    sums: dict[str, Tensor] = {}

    def add(names: tuple[str, ...], reading: Reading) -> None:
        with torch.autocast(reading.x.device.type, enabled=False):
            for name in names:
                h = unfolded_hessian(model.get_submodule(name), reading.x)
                sums[name] = sums[name] + h if name in sums else h

    with layer_inputs(model, layers, add):
        for batch in batches:
            with forward_precision(precision, batch.device.type):
                model(batch)
    return sums


def exact_obc_seconds(
    layers: Sequence[LayerShape], parts: Sequence[tuple[int, int]], device: str
) -> float:
    """Seconds of all eliminations step by step: those of parts (rows, columns), scaled by rows times columns^3."""
    spent = sum(_steps_seconds(*part, device) for part in parts)
    run = sum(rows * float(cols) ** 3 for rows, cols in parts)
    return spent * sum(x.count * x.rows * float(x.cols) ** 3 for x in layers) / run


def _steps_seconds(rows: int, cols: int, device: str) -> float:
    weight, (h,) = pruning_problem(rows, cols, device=device)
    hinv, _ = damped_inverse(h)
    return machine.seconds(lambda: reference.obc_eliminate(weight, hinv, cols), device, 1)


def sparsegpt_seconds(
    layers: Sequence[LayerShape],
    parts: Sequence[tuple[int, int, int]],
    sparsity: float,
    device: str,
) -> float:
    """Seconds of the published column loop over all layers: those of parts (rows, columns, block) by columns."""
    spent = sum(_columns_seconds(*part, sparsity, device) for part in parts)
    run = sum(cols for _, cols, _ in parts)
    return spent * sum(x.count * x.cols for x in layers) / run


def _columns_seconds(rows: int, cols: int, block: int, sparsity: float, device: str) -> float:
    weight, (h,) = pruning_problem(rows, cols, device=device)

    def prune() -> Tensor:
        return reference.fasterprune(weight, h, sparsity, 0, 0, block)

    return machine.seconds(prune, device, 1)
