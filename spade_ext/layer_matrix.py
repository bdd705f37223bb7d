"""The weight of a layer as the matrix that the ops prune, and back; a layer pruned by either method."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from spade_ext.errors import SingularHessianError
from spade_ext.obc import obc_prune
from spade_ext.sparsegpt import sparsegpt_prune, sparsegpt_prune_batch

Method = Literal["obc", "sparsegpt"]


def weight_matrix(layer: nn.Module, name: str = "weight") -> torch.Tensor:
    """The weight of an nn.Linear, nn.Conv2d or transformers Conv1D as [R, D], or [G, R, D] of a layer of groups.

    Columns are in the order of spade_ext.hessian. The result may share the layer's memory.
    """
    weight: torch.Tensor = getattr(layer, name).detach()
    if type(layer).__name__ == "Conv1D":  # transformers stores [inputs, outputs]
        return weight.t()
    groups = int(getattr(layer, "groups", 1))
    matrix = weight.flatten(1)
    return matrix if groups == 1 else matrix.reshape(groups, -1, matrix.shape[1])


def as_weight(layer: nn.Module, matrix: torch.Tensor, name: str = "weight") -> torch.Tensor:
    """A matrix of weight_matrix's shape in the shape and dtype of the layer's weight."""
    weight: torch.Tensor = getattr(layer, name)
    flat = matrix.t() if type(layer).__name__ == "Conv1D" else matrix
    return flat.reshape(weight.shape).to(weight.dtype)


def prune_matrix(
    function: str,
    weight: torch.Tensor,
    hessian: torch.Tensor,
    sparsity: float,
    method: Method,
    n_of_m: tuple[int, int] | None = None,
    block_size: int = 128,
    damp: float = 0.01,
    zeros: torch.Tensor | None = None,
) -> torch.Tensor:
    """Prune [R, D], or [G, R, D] with a Hessian per group, by a method of `Method`.

    Args:
        function: The caller, for errors.
        weight: As weight_matrix gives it.
        hessian: [D, D] or [G, D, D].
        sparsity: In [0, 1]; ignored for n:m.
        method: "obc" or "sparsegpt".
        n_of_m: n of each m consecutive weights go.
        block_size: Columns of a mask block; SparseGPT only.
        damp: Damping relative to the mean of the diagonal.
        zeros: Weights that are 0 and stay so, or None. With "obc" they must be no more than sparsity asks for: they
            go first, at no loss.

    Raises:
        ValueError: Another method, or what the ops raise.
        SingularHessianError: As the ops.
    """
    check_method(function, method)
    n, m = n_of_m or (None, None)
    job = _Job(
        function, weight, hessian, sparsity, block_size, zeros, {"n": n, "m": m, "damp": damp}
    )
    return _PRUNED_BY[method](job)


def check_method(function: str, method: object) -> None:
    """Refuse a method that is none of `Method`.

    Raises:
        ValueError: It is none.
    """
    if method not in _PRUNED_BY:
        raise ValueError(
            f"{function}: method must be one of {', '.join(_PRUNED_BY)}, got {method!r}"
        )


class _Job(NamedTuple):
    """The arguments of `prune_matrix`; what both ops take as keywords are `options`."""

    function: str
    weight: torch.Tensor
    hessian: torch.Tensor
    sparsity: float
    block_size: int
    zeros: torch.Tensor | None
    options: dict[str, Any]


def _obc(job: _Job) -> torch.Tensor:
    return obc_prune(job.weight, job.hessian, job.sparsity, **job.options)


def _sparsegpt(job: _Job) -> torch.Tensor:
    options = {"block_size": job.block_size, **job.options}
    if job.weight.ndim == 2:
        pruned: torch.Tensor = sparsegpt_prune(job.weight, job.hessian, job.sparsity, **options)
        return pruned
    batch = sparsegpt_prune_batch(
        job.weight, job.hessian, job.sparsity, preserve=job.zeros, **options
    )
    for group in batch.failed.nonzero().flatten().tolist():
        raise SingularHessianError(
            f"{job.function}: the Hessian of group {group} is not positive definite", group
        )
    return batch.weights


_PRUNED_BY: dict[str, Callable[[_Job], torch.Tensor]] = {"obc": _obc, "sparsegpt": _sparsegpt}
