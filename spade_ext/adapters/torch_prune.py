"""Exact OBC and SparseGPT as methods of torch.nn.utils.prune, with compensation; masks that stay in fine-tuning."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from spade_ext.checks import check_shape, check_tensor
from spade_ext.layer_matrix import Method, as_weight, prune_matrix, weight_matrix

__all__ = ["ObcPruning", "SparseGPTPruning", "freeze_masks"]


class _Compensated(prune.BasePruningMethod):
    """A mask that was chosen together with new values for the weights that stay."""

    PRUNING_TYPE = "global"  # the mask is that of the whole tensor
    method: Method

    def __init__(self, mask: torch.Tensor) -> None:
        self.mask = mask

    def compute_mask(self, t: torch.Tensor, default_mask: torch.Tensor) -> torch.Tensor:
        """The mask, within what earlier methods have kept."""
        return default_mask * self.mask.to(default_mask)

    @classmethod
    def apply(
        cls, module: nn.Module, name: str, *args: Any, **kwargs: Any
    ) -> prune.BasePruningMethod:
        """Prune `name` of a layer and give the weights that stay their compensation.

        The layer then has name_orig (the compensated weights) and name_mask, as after every method of
        torch.nn.utils.prune; prune.remove makes the result permanent.

        Args:
            module: nn.Linear, nn.Conv2d or transformers Conv1D. Modified.
            name: The name of its parameter, "weight".
            *args: hessian, [D, D] or [groups, D, D]: X X^T of the layer's inputs; then amount, the share of all
                weights that are 0 afterwards, in [0, 1]. Those that an earlier method has pruned stay 0 and count.
            **kwargs: The same by name; n and m for an n:m pattern; block_size (SparseGPT) and damp as in the op.

        Returns:
            The method, as torch.nn.utils.prune's functions hold it.

        Raises:
            ValueError: As the op, or amount below the share that is pruned already.
            SingularHessianError: As the op. The layer is as before.
        """
        pruned = _pruned(cls, module, name, *args, **kwargs)
        applied: prune.BasePruningMethod = super().apply(module, name, mask=pruned != 0)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            original: torch.Tensor = getattr(module, f"{name}_orig")
            original.copy_(torch.where(pruned != 0, pruned, original))
        setattr(module, name, applied.apply_mask(module))  # type: ignore[no-untyped-call]
        return applied


def _pruned(
    cls: type[_Compensated],
    module: nn.Module,
    name: str,
    hessian: torch.Tensor,
    amount: float = 0.0,
    *,
    n: int | None = None,
    m: int | None = None,
    block_size: int = 128,
    damp: float = 0.01,
) -> torch.Tensor:
    function = f"{cls.__name__}.apply"
    matrix = weight_matrix(module, name)
    pair = None if n is None or m is None else (n, m)
    zeros = None
    if hasattr(module, f"{name}_mask"):
        zeros = weight_matrix(module, f"{name}_mask") == 0
        share = float(zeros.double().mean())
        if pair is None and amount < share:
            raise ValueError(
                f"{function}: amount must be at least {share:g}, what is pruned already, got {amount:g}"
            )
    result = prune_matrix(
        function, matrix, hessian, amount, cls.method, pair, block_size, damp, zeros
    )
    return as_weight(module, result, name)


class ObcPruning(_Compensated):
    """Exact OBC as a method of torch.nn.utils.prune; see `apply`.

    Example:
        >>> import torch, spade_ext
        >>> from spade_ext.adapters.torch_prune import ObcPruning
        >>> layer, x = torch.nn.Linear(8, 4), torch.randn(100, 8)
        >>> _ = ObcPruning.apply(layer, "weight", spade_ext.hessian(x), 0.5)
        >>> int((layer.weight == 0).sum())
        16
    """

    method: Method = "obc"


class SparseGPTPruning(_Compensated):
    """SparseGPT as a method of torch.nn.utils.prune; see `apply`.

    Example:
        >>> import torch, spade_ext
        >>> from spade_ext.adapters.torch_prune import SparseGPTPruning
        >>> layer, x = torch.nn.Linear(8, 4), torch.randn(100, 8)
        >>> _ = SparseGPTPruning.apply(layer, "weight", spade_ext.hessian(x), 0.5)
        >>> int((layer.weight == 0).sum())
        16
    """

    method: Method = "sparsegpt"


class Masked(nn.Module):
    """Parametrisation of a weight that keeps the zeros of a mask: weight = original * mask."""

    mask: torch.Tensor

    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The masked weight."""
        return weight.masked_fill(~self.mask, 0)


def freeze_masks(
    model: nn.Module, masks: Mapping[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """Keep pruned weights at 0 while a model is fine-tuned, whatever the optimiser does.

    The weights get a parametrisation, so that neither momentum nor decay brings a pruned one back.
    `torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")` makes the result permanent.

    Args:
        model: Modified.
        masks: By the name of a layer the weights to keep, bool in the shape of the layer's weight. None takes, of
            each layer with a weight of at least two dimensions that has zeros, what is not 0 now.

    Returns:
        The masks, by name of the layer.

    Raises:
        ValueError: No such layer, or another shape.

    Example:
        >>> import torch
        >>> from spade_ext.adapters.torch_prune import freeze_masks
        >>> layer = torch.nn.Linear(4, 2)
        >>> layer.weight.data[:, 0] = 0
        >>> list(freeze_masks(layer))
        ['']
        >>> torch.optim.SGD(layer.parameters(), 0.1).zero_grad()
    """
    function = "freeze_masks"
    if masks is None:
        masks = {
            name: weight != 0
            for name, module in model.named_modules()
            for weight in [module._parameters.get("weight")]
            if weight is not None and weight.ndim > 1 and bool((weight == 0).any())
        }
    named = dict(model.named_modules())
    for name, mask in masks.items():
        weight = getattr(named.get(name), "weight", None)
        if not isinstance(weight, torch.Tensor):
            raise ValueError(f"{function}: masks must name layers with a weight, got {name!r}")
        check_tensor(function, f"masks[{name!r}]", mask, dtypes=(torch.bool,))
        check_shape(function, f"masks[{name!r}]", mask, weight.shape)
    for name, mask in masks.items():
        module = named[name]
        parametrize.register_parametrization(
            module, "weight", Masked(mask.to(module.weight.device))
        )
    return dict(masks)
