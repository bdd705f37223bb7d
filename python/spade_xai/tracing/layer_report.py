"""What happened to one layer of a trace."""

from dataclasses import dataclass

from torch import nn

from spade_xai.models.layers import Layer, Unsupported
from spade_xai.tracing.packed import Packed
from spade_xai.tracing.pruning.method import PrunedLayer


@dataclass(frozen=True)
class LayerReport:
    """What happened to one layer.

    Attributes:
        name: The name of the layer.
        rows: Outputs.
        cols: Inputs of one output (of one group).
        sparsity_asked: Ratio asked for, or chosen by the search for a faithful trace.
        sparsity_got: Share of weights that are 0 now.
        loss: ||(W - W') X||^2 over the augmentations.
        relative_loss: loss / ||W X||^2.
        damp: Damping used, relative to the mean diagonal of the Hessian; 0 where nothing was pruned.
        seconds: Pruning time; of a batch of samples, an equal share.
        status: "pruned"; "damped": pruned with more damping than asked for; "dense": sparsity 0 asked for;
            "failed": left dense, as no damping made its Hessian positive definite; "unused": left dense, as the
            forward pass does not use it; "unsupported": left dense, as it is no layer that can be pruned.
        reason: Why a layer is left dense that no sparsity of 0 was asked for, and what can be done; otherwise empty.
    """

    name: str
    rows: int
    cols: int
    sparsity_asked: float
    sparsity_got: float
    loss: float
    relative_loss: float
    damp: float
    seconds: float
    status: str
    reason: str = ""


def pruned_report(
    layer: Layer,
    asked: float,
    result: PrunedLayer,
    packed: Packed | None,
    dense: nn.Module,
    damp_asked: float,
    seconds: float,
) -> LayerReport:
    """The report of a layer that was pruned, or failed to be.

    Args:
        layer: The layer.
        asked: Ratio.
        result: The result of the pruning.
        packed: Its weights; None if it failed.
        dense: The model, for the zeros that a failed layer has anyway.
        damp_asked: Damping asked for.
        seconds: The seconds of the pruning.
    """
    status = "failed" if packed is None else "damped" if result.damp > damp_asked else "pruned"
    return LayerReport(
        layer.name, layer.rows, layer.cols, asked, zeros(layer, packed, dense), result.loss,
        result.relative_loss, result.damp, seconds, status,
    )  # fmt: skip


def left_report(
    layer: Layer, asked: float, status: str, dense: nn.Module, reason: str = ""
) -> LayerReport:
    """The report of a layer that was left dense."""
    got = zeros(layer, None, dense)
    return LayerReport(
        layer.name, layer.rows, layer.cols, asked, got, 0.0, 0.0, 0.0, 0.0, status, reason
    )


def unsupported_report(other: Unsupported) -> LayerReport:
    """The report of weights that belong to no layer that can be pruned."""
    got = other.zeros / max(1, other.rows * other.cols)
    return LayerReport(
        other.name,
        other.rows,
        other.cols,
        0.0,
        got,
        0.0,
        0.0,
        0.0,
        0.0,
        "unsupported",
        other.reason,
    )


def zeros(layer: Layer, packed: Packed | None, dense: nn.Module) -> float:
    """Share of a layer's weights that are 0."""
    kept = len(packed.values) if packed else int(layer.read(dense).count_nonzero())
    return 1 - kept / layer.numel if layer.numel else 0.0
