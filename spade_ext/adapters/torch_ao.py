"""A sparsifier of torch.ao.pruning (torchao's prototype of it works alike) that prunes by SparseGPT or exact OBC."""

from typing import Any

import torch
from torch import nn
from torch.ao.pruning.sparsifier.base_sparsifier import BaseSparsifier

from spade_ext.accumulator import HessianAccumulator
from spade_ext.layer_matrix import Method, as_weight, prune_matrix

__all__ = ["HessianSparsifier"]


class HessianSparsifier(BaseSparsifier):
    """Prune the layers of a prepared model by the Hessians of the inputs that they have seen.

    prepare, calibration by running the model, step, squash_mask, as with every sparsifier of torch.ao.pruning. step
    gives the weights that stay their compensation, so that it replaces values, not only masks. Each step prunes for
    all inputs since prepare.

    Args:
        sparsity_level: The share of each layer's weights to prune; a layer's own in the config.
        n: With m: n of each m consecutive weights go.
        m: Divides the inputs of each layer.
        method: "sparsegpt" or "obc".
        block_size: Columns of a mask block of SparseGPT.
        damp: Damping relative to the mean of the diagonal.

    Example:
        >>> import torch
        >>> from spade_ext.adapters.torch_ao import HessianSparsifier
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
        >>> sparsifier = HessianSparsifier(0.5)
        >>> sparsifier.prepare(model, [{"tensor_fqn": "0.weight"}])
        >>> _ = model(torch.randn(64, 8))
        >>> sparsifier.step()
        >>> sparsifier.squash_mask()
        >>> int((model[0].weight == 0).sum())
        32
    """

    def __init__(
        self,
        sparsity_level: float = 0.5,
        *,
        n: int | None = None,
        m: int | None = None,
        method: Method = "sparsegpt",
        block_size: int = 128,
        damp: float = 0.01,
    ) -> None:
        super().__init__(
            {
                "sparsity_level": sparsity_level,
                "n": n,
                "m": m,
                "method": method,
                "block_size": block_size,
                "damp": damp,
            }
        )
        self._sums: dict[str, HessianAccumulator] = {}
        self._hooks: list[Any] = []

    def prepare(self, model: nn.Module, config: list[dict[str, Any]] | None) -> None:
        """Add masks to the tensors of config (None: every nn.Linear) and watch the inputs of their layers."""
        super().prepare(model, config)  # type: ignore[no-untyped-call]
        for group in self.groups:
            layer = group["module"]
            # The class of a parametrised layer is a new one, of the layer's own.
            sums = self._sums[group["tensor_fqn"]] = HessianAccumulator(layer)

            def add(
                module: nn.Module, args: tuple[Any, ...], sums: HessianAccumulator = sums
            ) -> None:
                sums.update(args[0].detach())

            self._hooks.append(layer.register_forward_pre_hook(add))

    def update_mask(self, module: nn.Module, tensor_name: str, **kwargs: Any) -> None:
        """Prune one layer: its mask, and the values of the weights that stay."""
        fqn = kwargs["tensor_fqn"]
        sums = self._sums[fqn]
        if not sums.count:
            raise RuntimeError(
                f"HessianSparsifier.step: {fqn} has seen no inputs; run the model after prepare"
            )
        parametrized: Any = module.parametrizations
        original = parametrized[tensor_name].original
        matrix = original.detach().flatten(1)
        groups = int(getattr(module, "groups", 1))
        if groups > 1:
            matrix = matrix.reshape(groups, -1, matrix.shape[1])
        pair = None if kwargs["n"] is None or kwargs["m"] is None else (kwargs["n"], kwargs["m"])
        pruned = prune_matrix(
            "HessianSparsifier.step", matrix, sums.hessian, kwargs["sparsity_level"],
            kwargs["method"], pair, kwargs["block_size"], kwargs["damp"],
        )  # fmt: skip
        weight = as_weight(module, pruned, tensor_name)
        with torch.no_grad():
            original.copy_(torch.where(weight != 0, weight, original))
        mask = self.state[fqn]["mask"]
        mask.data = (weight != 0).to(mask.dtype)

    def squash_mask(self, *args: Any, **kwargs: Any) -> None:
        """Make the result permanent and stop watching."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        super().squash_mask(*args, **kwargs)
