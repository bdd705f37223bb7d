"""A copy of a model on which attribution methods are safe.

Methods that hook modules (DeepLIFT, guided backpropagation) need every activation to be a module of its own,
called once a forward pass and not in place. `prepare` rewrites a copy that shares the parameters with the model.
"""

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from spade_xai.models.copies import check_model, duplicate, unwrap
from spade_xai.models.rewrite import rewritten


class PerCall(nn.Module):
    """A module called several times a forward pass, as one copy for each call."""

    def __init__(self, module: nn.Module, calls: int) -> None:
        super().__init__()
        self.copies = nn.ModuleList(copy.deepcopy(module) for _ in range(calls))
        self.call = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the copy whose turn it is."""
        module = self.copies[self.call % len(self.copies)]
        self.call += 1
        return module(*args, **kwargs)


def prepare(
    model: nn.Module,
    example: Tensor | None = None,
    *,
    kwargs: dict[str, Any] | None = None,
    fuse_batch_norm: bool = False,
) -> nn.Module:
    """Return a copy of model, in eval mode, that is safe for attribution methods.

    In the copy no activation works in place, none is called more than once a forward pass, and, wherever
    torch.fx can trace the model or one of its blocks, functional activations and residual additions are modules.
    Parts that cannot be traced keep their code; activations shared in them are split by call, which needs example.

    Args:
        model: Any module. Not modified; the copy shares its parameters and buffers.
        example: An input of the model, float or token ids. If given, the copy must give the model's outputs on it.
        kwargs: Further arguments of the model's forward, for the run on example.
        fuse_batch_norm: Fold batch norms into the convolution or linear layer before them (such layers are
            new tensors); LRP needs it where a batch norm has negative weights.

    Returns:
        The copy. Names of its layers are those of model.

    Raises:
        TypeError: model is not an nn.Module, example no tensor with entries, or kwargs no dict.
        RuntimeError: No copy gives the model's outputs on example.

    Example:
        >>> import torch
        >>> from spade_xai import attribute, prepare
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(inplace=True))
        >>> x = torch.rand(2, 8)
        >>> ready = prepare(model, x)  # once, for many calls
        >>> attribute(ready, x, method="deep_lift").shape
        torch.Size([2, 8])
    """
    check_model("prepare", model)
    if example is not None and not (isinstance(example, Tensor) and example.numel()):
        what = tuple(example.shape) if isinstance(example, Tensor) else type(example).__name__
        raise TypeError(f"prepare: example must be a tensor that is not empty, got {what}")
    if kwargs is not None and not isinstance(kwargs, dict):
        raise TypeError(f"prepare: kwargs must be a dict, got {type(kwargs).__name__}")
    expected = None if example is None else _run(duplicate(model), example, kwargs)
    worst = 0.0
    for traced in (True, False):
        prepared = duplicate(model)
        if traced:
            prepared = rewritten(prepared, fuse_batch_norm, whole=not kwargs)
        for module in prepared.modules():
            if getattr(module, "inplace", False):
                setattr(module, "inplace", False)  # noqa: B010 - nn.Module types its attributes
        state = "fused" if fuse_batch_norm else "plain"
        setattr(prepared, "_spade_prepared", state)  # noqa: B010
        if expected is None:
            return prepared
        try:
            _split_shared(prepared, example, kwargs)
            got = _run(prepared, example, kwargs)
        except Exception:  # a trace fixed to something this input does not have
            if not traced:
                raise
            continue
        scale = expected.abs().max().clamp_min(1e-30)
        worst = float((got - expected).abs().max() / scale)
        tolerance = 1e-4 if expected.dtype in (torch.float32, torch.float64) else 5e-2
        if worst <= tolerance or torch.allclose(got, expected, equal_nan=True):
            return prepared
    raise RuntimeError(
        "prepare: model must give the same outputs without in-place activations and additions, "
        f"got a relative difference of {worst:.1e}; does it read a tensor it has overwritten?"
    )


def is_prepared(model: nn.Module, *, fused: bool = False) -> bool:
    """Whether model comes from `prepare` (with batch norms folded)."""
    state = getattr(model, "_spade_prepared", None)
    return state == "fused" if fused else state is not None


def _run(model: nn.Module, example: Tensor | None, kwargs: dict[str, Any] | None) -> Tensor:
    assert example is not None
    with torch.no_grad():
        return unwrap(model(example.clone(), **(kwargs or {})))


def _split_shared(model: nn.Module, example: Tensor | None, kwargs: dict[str, Any] | None) -> None:
    """Replace modules without state that are called several times by one copy for each call."""
    calls: Counter[nn.Module] = Counter()
    leaves = [m for m in model.modules() if next(m.children(), None) is None and not m.state_dict()]
    hooks = [m.register_forward_pre_hook(lambda m, _: calls.update([m])) for m in leaves]
    try:
        _run(model, example, kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    split = {m: PerCall(m, n) for m, n in calls.items() if n > 1}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child in split:
                parent._modules[name] = split[child]
    if split:
        model.register_forward_pre_hook(_Restart(list(split.values())))


class _Restart:
    """Forward pre-hook: the next calls are the first of a pass."""

    part_of_model = True

    def __init__(self, modules: list[PerCall]) -> None:
        self.modules = modules

    def __call__(self, module: nn.Module, args: object) -> None:
        for m in self.modules:
            m.call = 0
