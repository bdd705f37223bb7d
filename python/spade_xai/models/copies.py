"""A model as its user gives it: checked, copied without its tensors, and the logits of what it answers."""

import copy
from typing import Any

from torch import Tensor, nn


def check_model(function: str, model: object) -> None:
    """Raise TypeError if model is no nn.Module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{function}: model must be an nn.Module, got {type(model).__name__}")


def duplicate(model: nn.Module) -> nn.Module:
    """Return a copy of the modules, in eval mode, that shares their tensors."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(t): t for t in tensors}).eval()


def unwrap(output: Any) -> Tensor:
    """The logits in a model's output: a tensor, or what carries one as `.logits`."""
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"model output must be a torch.Tensor or have .logits, got {type(output).__name__}"
        )
    return logits
