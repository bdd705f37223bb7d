"""FastSPADE: SparseGPT, batched over samples and on CUDA over layers."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spade_ext import sparsegpt_prune_layers
from spade_ext.checks import compute_dtype
from spade_ext.memory import least_sparsegpt_scratch
from spade_ext.sparsegpt_factors import SparseGPTFactors
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

MOST_MISSED = 0.01
"""How far below the ratio asked for a block's share of pruned weights may be; blocks are widened to keep it."""


@dataclass(frozen=True)
class Factorised(Prepared):
    """A layer with the factors of its Hessians."""

    factors: SparseGPTFactors


class SparseGPT(PruningMethod):
    """SparseGPT in mask blocks of a convolution's kernel taps, of one column otherwise.

    In each block floor(ratio * rows * columns) weights go. In layers of few rows the blocks hold as many taps (or
    columns) as it takes to come within a hundredth of the ratio.

    Source: Frantar, Alistarh, "SparseGPT" (ICML 2023), Algorithm 1; the blocks are FastSPADE's.
    """

    name = "sparsegpt"
    title = "FastSPADE"
    aliases = ("Batched FastSPADE",)
    place = 1
    samples_together = True

    def prune(
        self,
        prepared: Sequence[Prepared],
        ratios: Sequence[float],
        progress: Report | None = None,
        max_scratch: int | None = None,
    ) -> list[PrunedLayer]:
        """Sweep: samples of one layer with one ratio are a batch, and on CUDA all batches share launches."""
        if any(isinstance(x, Factorised) for x in prepared):
            return super().prune(prepared, ratios, progress, max_scratch)
        return self._batched(prepared, ratios, progress, max_scratch)

    def prune_layer(
        self, prepared: Prepared, ratio: float, max_scratch: int | None = None
    ) -> PrunedLayer:
        """Sweep from the factor, where there is one."""
        x = prepared
        if not isinstance(x, Factorised):
            return self._batched([x], [ratio], None, max_scratch)[0]
        factors = x.factors
        if factors.failed:
            return failed_layer(max(factors.damp))
        w = x.weight[0] if len(x.weight) == 1 else x.weight
        weights, losses = factors.prune(w, ratio, block_size=block_width(x.layer, ratio))
        found = [sum(losses), float(x.whole)]
        return pruned_layer(weights.reshape(x.weight.shape), max(factors.damp), found)

    def settled(self, prepared: Prepared) -> Prepared:
        """The layer with the factors of its Hessians; on CUDA a batch of layers costs little more than its widest."""
        x = prepared
        if isinstance(x, Factorised) or not x.hessian.is_cpu or not all_finite([x.hessian])[0]:
            return x
        hessian = x.hessian.to(compute_dtype(x.weight, x.hessian))
        factors = SparseGPTFactors(hessian, x.damp)
        return Factorised(x.layer, x.weight, x.hessian, x.damp, factors)

    def _batched(
        self,
        prepared: Sequence[Prepared],
        ratios: Sequence[float],
        progress: Report | None,
        max_scratch: int | None,
    ) -> list[PrunedLayer]:
        if not prepared:
            return []
        tasks = list(zip(prepared, ratios, strict=True))
        finite = all_finite([x.hessian for x in prepared])
        batches = [
            [i for i, _ in group]
            for _, group in itertools.groupby(
                enumerate(tasks), lambda task: (task[1][0].layer.name, task[1][1])
            )
        ]
        firsts = [prepared[batch[0]] for batch in batches]
        found = sparsegpt_prune_layers(
            [
                _of_groups(x, len(batch))
                for x, batch in zip(firsts, batches, strict=True)
            ],
            [_stack([prepared[i].hessian for i in batch], [finite[i] for i in batch]) for batch in batches],
            [ratios[batch[0]] for batch in batches],
            block_size=[
                block_width(x.layer, ratios[batch[0]])
                for x, batch in zip(firsts, batches, strict=True)
            ],
            damp=firsts[0].damp,
            progress=progress,
            max_scratch=max_scratch,
        )  # fmt: skip
        weights: list[Tensor] = []
        damps: list[float] = []
        failed: list[bool] = []
        for x, batch, result in zip(firsts, batches, found, strict=True):
            shape = (len(batch), x.layer.groups)
            weights += result.weights.reshape(len(batch), *x.weight.shape).unbind()
            damps += result.damp.reshape(shape).amax(1).tolist()
            failed += result.failed.reshape(shape).any(1).tolist()
        losses = torch.stack(
            [layer_losses(x, w) for x, w in zip(prepared, weights, strict=True)]
        ).tolist()
        return [
            pruned_layer(w, used, loss) if fine and not bad else failed_layer(used)
            for w, used, loss, fine, bad in zip(weights, damps, losses, finite, failed, strict=True)
        ]

    def pruning_bytes(self, layer: Layer, samples: int) -> int:
        """Factors of the Hessian and stacked Hessians; weights and their changes."""
        square = layer.cols**2 * FLOAT32
        return samples * (layer.groups * 2 * square + 8 * layer.numel)

    def cuda_pruning_bytes(self, layers: Sequence[Layer], samples: int) -> int:
        """The samples' Hessians of one layer side by side; all weights."""
        stacked = max(hessian_bytes(x) for x in layers) * samples
        return stacked + samples * sum(FLOAT32 * x.numel for x in layers)

    def kept_bytes(self, layer: Layer) -> int:
        """The factors."""
        return hessian_bytes(layer) // 2 + 48 * FLOAT32 * layer.groups * layer.cols

    def least_scratch(self, layer: Layer, device: torch.device) -> int:
        """That of one sample's group."""
        rows = layer.rows // layer.groups
        return least_sparsegpt_scratch(rows, layer.cols, layer.taps, device)

    def together(self, device: torch.device) -> bool:
        """On CUDA the layers share launches."""
        return device.type == "cuda"


def block_width(layer: Layer, ratio: float) -> int:
    """Columns of a mask block: a kernel's taps (1 without), or the fewest with which it misses the ratio by little.

    Published blocks may miss by MOST_MISSED. Wider ones miss by at most a tenth of the weights that stay.
    """
    rows = layer.rows // layer.groups
    allowed = MOST_MISSED
    for width in range(layer.taps, layer.cols, layer.taps):
        size = rows * width
        if ratio - int(ratio * size + 1e-9) / size <= allowed + 1e-9:
            return width
        allowed = min(MOST_MISSED, (1 - ratio) / 10)
    return max(1, layer.cols)


def _stack(hessians: Sequence[Tensor], fine: Sequence[bool]) -> Tensor:
    """[S * G, D, D], with zeros, which prune everything, in place of Hessians that are not finite."""
    usable = [h if ok else torch.zeros_like(h) for h, ok in zip(hessians, fine, strict=True)]
    return usable[0] if len(usable) == 1 else torch.cat(usable)


def _of_groups(x: Prepared, samples: int) -> Tensor:
    """[R, D] for all samples or, with groups, [S * G, R, D]."""
    return x.weight[0] if len(x.weight) == 1 else x.weight.repeat(samples, 1, 1)
