"""Weights that a module computes from other tensors before each pass, settled as plain parameters."""

from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


def computes_weight(hook: Any) -> bool:
    """Whether a forward pre-hook is one with which torch computes a weight: weight_norm, spectral_norm or prune."""
    return isinstance(hook, (WeightNorm, SpectralNorm, BasePruningMethod))


def settle_weights(module: nn.Module) -> None:
    """Replace the computed weights of a module in eval mode by parameters with their values.

    torch's own functions for this write into the parameters they find or change the module's class, both of which a
    copy shares with its model. Here only the module changes.

    Args:
        module: A copy, whose submodules are left as they are.
    """
    for key, hook in list(module._forward_pre_hooks.items()):
        if computes_weight(hook):
            del module._forward_pre_hooks[key]
            name, value, sources = _computed(module, hook)
            for source in sources:
                module._parameters.pop(source, None)
                module._buffers.pop(source, None)
            _settle(module, name, value)
    if parametrize.is_parametrized(module):
        found = module.parametrizations
        assert isinstance(found, nn.ModuleDict)
        values = {
            name: (getattr(module, name), next(p.parameters(), None) is not None)
            for name, p in found.items()
        }
        module.__class__ = parametrize.type_before_parametrizations(module)
        del module._modules["parametrizations"]
        for name, (value, trained) in values.items():
            _settle(module, name, value, trained)


def _computed(module: nn.Module, hook: Any) -> tuple[str, Tensor, tuple[str, ...]]:
    """Name and value of the weight that a hook computes, and the names of the tensors that it comes from."""
    if isinstance(hook, WeightNorm):
        name = hook.name
        return name, hook.compute_weight(module), (f"{name}_g", f"{name}_v")
    if isinstance(hook, SpectralNorm):
        name = hook.name
        value = hook.compute_weight(module, do_power_iteration=False)
        return name, value, (f"{name}_orig", f"{name}_u", f"{name}_v")
    name = hook._tensor_name
    return name, hook.apply_mask(module), (f"{name}_orig", f"{name}_mask")


def _settle(module: nn.Module, name: str, value: Tensor, trained: bool = True) -> None:
    module.__dict__.pop(name, None)
    own = value.detach().clone()
    if trained:
        module._parameters[name] = None
        setattr(module, name, nn.Parameter(own))
    else:
        module.register_buffer(name, own)
