"""SPADE: exact OBC, whose elimination order serves every sparsity."""

import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spade_ext import DampingWarning, OBCTrace, SingularHessianError, obc_trace
from spade_ext.files import read_tensors, write_tensors
from spade_ext.memory import least_obc_scratch
from spade_xai.models.layers import Layer
from spade_xai.tracing.pruning.method import (
    FLOAT32,
    Prepared,
    PrunedLayer,
    PruningMethod,
    Report,
    all_finite,
    failed_layer,
    hessian_bytes,
    layer_losses,
    pruned_layer,
)


@dataclass(frozen=True)
class Eliminated(Prepared):
    """A layer with its elimination order; None if the Hessian is not positive definite even at damp = 1."""

    order: OBCTrace | None


class ExactOBC(PruningMethod):
    """Exact Optimal Brain Compression.

    Source: Frantar, Singh, Alistarh, "Optimal Brain Compression" (NeurIPS 2022), Algorithm 1.
    """

    name = "obc"
    title = "SPADE"
    place = 0

    def prepare(
        self,
        layer: Layer,
        weight: Tensor,
        hessian: Tensor,
        damp: float,
        progress: Report | None = None,
        max_scratch: int | None = None,
    ) -> Eliminated:
        """Eliminate every weight, or block of weights."""
        if not all_finite([hessian])[0]:
            return Eliminated(layer, weight, hessian, damp, None)
        single = len(weight) == 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DampingWarning)  # reported with the layer instead
                order = obc_trace(
                    weight[0] if single else weight,
                    hessian[0] if single else hessian,
                    block=self.block(layer),
                    damp=damp,
                    progress=progress,
                    max_scratch=max_scratch,
                )
        except SingularHessianError:
            return Eliminated(layer, weight, hessian, damp, None)
        return Eliminated(layer, weight, hessian, damp, order)

    def block(self, layer: Layer) -> int:
        """Consecutive columns of a row that go together."""
        return 1

    def prune_layer(
        self, prepared: Prepared, ratio: float, max_scratch: int | None = None
    ) -> PrunedLayer:
        """Solve the weights that stay: those of least loss over all groups and rows of the layer go."""
        x = _eliminated(prepared)
        if x.order is None:
            return failed_layer(x.damp)
        try:
            pruned = x.order.prune(ratio, max_scratch=max_scratch).reshape(x.weight.shape)
        except SingularHessianError:
            return failed_layer(x.damp)
        losses = layer_losses(x, pruned).tolist()
        return pruned_layer(pruned.to(x.weight.dtype), x.order.damp, losses)

    def losses(self, prepared: Prepared, ratios: Sequence[float]) -> list[float] | None:
        """From the losses of the eliminations that prune takes: twice their sum is the damped error of the layer."""
        x = _eliminated(prepared)
        if x.order is None:
            return [0.0 if ratio == 0 else float("inf") for ratio in ratios]
        whole = x.whole
        # Of each row its first eliminations go, as many as it has among the least losses of the layer.
        sums = x.order.loss.double().cumsum(-1) * 2 / whole.clamp_min(1e-300)
        sums = torch.cat([torch.zeros_like(sums[..., :1]), sums], -1)
        taken = [
            sums.gather(-1, x.order.counts(ratio)[..., None].to(sums.device)).sum()
            for ratio in ratios
        ]
        found: list[float] = torch.stack(taken).tolist()
        return found

    def operations(self, layer: Layer) -> float:
        """R D^3: each row eliminates all of its columns."""
        return float(layer.rows) * layer.cols**3

    def pruning_bytes(self, layer: Layer, samples: int) -> int:
        """Inverse and damped Hessian, a triangle per thread; order, losses and weights."""
        square = layer.cols**2 * FLOAT32
        return (2 + torch.get_num_threads()) * square + 16 * layer.numel

    def cuda_pruning_bytes(self, layers: Sequence[Layer], samples: int) -> int:
        """Five matrices of the inverse in float64; order, losses and weights."""
        return max(x.groups * x.cols**2 * 40 + 16 * x.numel for x in layers)

    def kept_bytes(self, layer: Layer) -> int:
        """Damped Hessian and its inverse; order, losses and weights."""
        return 2 * hessian_bytes(layer) + 12 * layer.numel

    def least_scratch(self, layer: Layer, device: torch.device) -> int:
        """That of one row."""
        return least_obc_scratch(layer.cols)

    def save(self, prepared: Prepared, path: str | os.PathLike[str]) -> None:
        """Write order and Hessians."""
        x = _eliminated(prepared)
        tensors = {"hessian": x.hessian}
        metadata = {"failed": json.dumps(x.order is None)}
        if x.order is not None:
            for name in ("order", "loss", "weight", "hinv"):
                tensors[name] = getattr(x.order, name)
            tensors["damped"] = x.order.hessian
            metadata["damp"] = json.dumps(x.order.damp)
        write_tensors("tune", path, self.file_format, tensors, metadata)

    def load(
        self, path: str | os.PathLike[str], layer: Layer, weight: Tensor, damp: float
    ) -> Eliminated:
        """Read what save wrote."""
        tensors, metadata = read_tensors("tune", path, self.file_format)
        tensors = {name: tensor.to(weight.device) for name, tensor in tensors.items()}
        order = None
        if not json.loads(metadata["failed"]):
            order = OBCTrace(
                tensors["order"], tensors["loss"], json.loads(metadata["damp"]), tensors["weight"],
                tensors["damped"], tensors["hinv"], self.block(layer),
            )  # fmt: skip
        return Eliminated(layer, weight, tensors["hessian"], damp, order)


def _eliminated(prepared: Prepared) -> Eliminated:
    if not isinstance(prepared, Eliminated):
        raise TypeError(f"ExactOBC: prepared must be its own, got {type(prepared).__name__}")
    return prepared
