"""llm-compressor's sparsify_weight by this package's SparseGPT: equal masks, the same loss.

import llmcompressor.modifiers.pruning.sparsegpt.base as base
from spade_ext.adapters.llm_compressor import sparsify_weight

base.sparsify_weight = sparsify_weight  # SparseGPTModifier now runs on spade_ext
"""

from collections.abc import MutableMapping

import torch
from torch import nn

from spade_ext.layer_matrix import as_weight, weight_matrix
from spade_ext.sparsegpt import sparsegpt_prune

__all__ = ["sparsify_weight"]


def sparsify_weight(
    module: nn.Module,
    hessians_dict: MutableMapping[nn.Module, torch.Tensor],
    sparsity: float,
    prune_n: int,
    prune_m: int,
    block_size: int,
    dampening_frac: float,
    preserve_sparsity_mask: bool,
) -> tuple[float, torch.Tensor]:
    """Prune a layer as llm-compressor's function of this name does.

    Args:
        module: nn.Linear, nn.Conv2d or transformers Conv1D. Not modified.
        hessians_dict: Holds H = 2 / samples * X X^T of the layer; its entry is taken out.
        sparsity: Share of the weights; as published one more weight of each block goes.
        prune_n: Weights of each prune_m that go, or 0.
        prune_m: See prune_n.
        block_size: Columns of a mask block.
        dampening_frac: Damping relative to the mean of the diagonal.
        preserve_sparsity_mask: Whether weights that are 0 stay 0.

    Returns:
        The loss, and the weight in the layer's shape and dtype. Where H is not positive definite it is more
        damped, with a DampingWarning; llm-compressor prunes by magnitude there.

    Raises:
        ValueError: With preserve_sparsity_mask, more zeros than sparsity asks for.
        SingularHessianError: H is not positive definite even at damp = 1.

    Example:
        >>> import torch, spade_ext
        >>> from spade_ext.adapters.llm_compressor import sparsify_weight
        >>> layer, x = torch.nn.Linear(16, 8), torch.randn(64, 16)
        >>> hessians = {layer: 2 / len(x) * spade_ext.hessian(x)}
        >>> loss, weight = sparsify_weight(layer, hessians, 0.0, 2, 4, 128, 0.01, False)
        >>> int((weight == 0).sum())
        64
    """
    hessian = hessians_dict.pop(module)
    weight = weight_matrix(module).float()
    zeros = None
    if preserve_sparsity_mask:
        zeros = weight == 0
        if not prune_n and float(zeros.double().mean()) > sparsity:
            raise ValueError(
                "sparsify_weight: sparsity must be at least the share of zeros that are to stay, "
                f"{float(zeros.double().mean()):g}, got {sparsity:g}"
            )
    pruned, loss = sparsegpt_prune(
        weight, hessian, sparsity, block_size=block_size, n=prune_n or None, m=prune_m if prune_n else None,
        damp=dampening_frac, extra=0 if prune_n else 1, preserve=zeros, return_loss=True,
    )  # fmt: skip
    return loss.item(), as_weight(module, pruned)
