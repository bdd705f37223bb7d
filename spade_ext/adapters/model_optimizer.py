"""NVIDIA Model Optimizer's create_sgpt_mask by this package's SparseGPT.

import modelopt.torch.sparsity.weight_sparsity.sparsegpt as sparsegpt
from spade_ext.adapters.model_optimizer import create_sgpt_mask

sparsegpt.create_sgpt_mask = create_sgpt_mask  # mode "sparsegpt" of mts.sparsify now runs on spade_ext
"""

import re
from collections.abc import Mapping
from typing import Any

import torch

from spade_ext.sparsegpt import sparsegpt_prune

__all__ = ["create_sgpt_mask"]


def create_sgpt_mask(
    tensor: torch.Tensor, hessian: torch.Tensor, config: Mapping[str, Any]
) -> torch.Tensor:
    """The mask of an n:m pattern by SparseGPT, as Model Optimizer's function of this name gives it.

    Args:
        tensor: Weight of a linear layer [R, D] or of a convolution [R, C, kh, kw]. Not modified.
        hessian: [D, D]: 2 / samples * X X^T. Not modified.
        config: "pattern", such as "2:4 sparsity"; "hessian_damp"; "row_block_size" changes nothing, since rows do not
            depend on each other in an n:m pattern, nor does "col_block_size".

    Returns:
        bool in the shape of tensor, the weights that stay.

    Raises:
        ValueError: A pattern that is not n:m.
        SingularHessianError: H is not positive definite even at damp = 1.

    Example:
        >>> import torch, spade_ext
        >>> from spade_ext.adapters.model_optimizer import create_sgpt_mask
        >>> layer, hessian = torch.nn.Linear(16, 8), spade_ext.hessian(torch.randn(64, 16))
        >>> mask = create_sgpt_mask(layer.weight, hessian, {"pattern": "2:4 sparsity", "hessian_damp": 0.1})
        >>> int(mask.sum())
        64
    """
    match = re.match(r"(\d+):(\d+)", str(config["pattern"]))
    if match is None:
        raise ValueError(
            f"create_sgpt_mask: config['pattern'] must begin with n:m, got {config['pattern']!r}"
        )
    n, m = int(match[1]), int(match[2])
    weight = tensor.detach().flatten(1).float()
    pruned = sparsegpt_prune(
        weight, hessian.to(weight.device).float(), n=n, m=m, damp=config["hessian_damp"]
    )
    return (pruned != 0).reshape(tensor.shape)
