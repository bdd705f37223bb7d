"""How much an error of each layer moves the answer, by the gradient of the answer's log-odds."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from spade_xai.models.copies import duplicate
from spade_xai.models.inputs import channels_last, first_tensor, take
from spade_xai.models.layers import Layer
from spade_xai.tracing.verdict import Probe, logits_of

AT_ONCE = 4  # inputs whose gradients are computed together

USABLE = (1e-15, 1e15)  # norms whose squares are precise in float32


def layer_weights(
    function: str, model: nn.Module, layers: Sequence[Layer], probe: Probe
) -> dict[str, float]:
    """How much relative error each layer may have beside the others: 1 / s, over its geometric mean.

    s is how far errors of a layer's outputs y move the answer's log-odds m, if they are of the size of y and as
    large in every entry: s^2 = mean of |dm/dy|^2 |y|^2 / entries, over the sample and the inputs near it. A layer
    whose outputs cannot be seen gets 1.
    """
    copied = duplicate(model, frozen=True)  # gradients of weights would take a third of the time
    sums: dict[str, list[Tensor]] = {layer.name: [] for layer in layers}
    for batch, answers in zip(probe.batches, probe.answers, strict=True):
        rows = min(len(first_tensor(batch)), 2 * AT_ONCE)
        for start in range(0, rows, AT_ONCE):
            part = slice(start, min(start + AT_ONCE, rows))
            per_row = len(answers) // len(first_tensor(batch))
            wanted = answers[part.start * per_row : part.stop * per_row]
            with torch.enable_grad(), _watched(copied, layers, sums) as starts:
                logits = logits_of(function, copied, channels_last(take(batch, part)))
                value = _log_odds(logits, wanted).sum()
                if starts and value.requires_grad:
                    torch.autograd.grad(value, starts, allow_unused=True)
    found = {name: float(torch.cat(parts).mean()) for name, parts in sums.items() if parts}
    logs = {n: 0.5 * float(torch.tensor(v).double().log()) for n, v in found.items() if v > 0}
    mean = sum(logs.values()) / max(1, len(logs))
    return {x.name: _share(mean - logs[x.name]) if x.name in logs else 1.0 for x in layers}


def _share(log: float) -> float:
    """The exponential, where it is a usable number."""
    return float(torch.tensor(log).clamp(-20, 20).exp())


@contextmanager
def _watched(
    model: nn.Module, layers: Sequence[Layer], sums: dict[str, list[Tensor]]
) -> Iterator[list[Tensor]]:
    """Have the next backward pass add |dm/dy|^2 |y|^2 / entries of each row to the sums.

    Yields:
        The tensors of the forward pass from which on gradients are needed.
    """
    starts: list[Tensor] = []
    seen: set[str] = set()
    handles = [
        model.get_submodule(layer.modules[0]).register_forward_hook(
            _noting(layer.name, sums[layer.name], starts, seen)
        )
        for layer in layers
    ]
    try:
        yield starts
    finally:
        for handle in handles:
            handle.remove()


def _noting(
    name: str, sums: list[Tensor], starts: list[Tensor], seen: set[str]
) -> Callable[..., Any]:
    """Hook that measures a module's output, and its gradient when it comes; what follows may overwrite the output."""

    def hook(module: nn.Module, args: object, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) and output else output
        if not isinstance(first, Tensor) or not first.is_floating_point() or name in seen:
            return None
        seen.add(name)
        if len(first) == 0:
            return None
        kept = first if first.requires_grad else first.detach().requires_grad_()
        size = _squares(first.detach()) / (first.numel() // len(first))
        kept.register_hook(lambda gradient: sums.append(_squares(gradient) * size))
        if kept.grad_fn is not None:
            return None
        starts.append(kept)
        own = kept.clone()  # autograd forbids to overwrite a tensor that gradients start from
        return (own, *output[1:]) if isinstance(output, tuple) else own

    return hook


def _squares(x: Tensor) -> Tensor:
    """The sum of squares of each row, float64."""
    rows = x if x.ndim > 1 else x[:, None]
    dims = tuple(range(1, rows.ndim))
    few_bits = rows.dtype in (torch.float16, torch.bfloat16)
    norms = torch.linalg.vector_norm(rows, 2, dims, dtype=torch.float32 if few_bits else None)
    least, most = USABLE
    if not bool(((norms > least) & (norms < most)).all()):
        norms = torch.linalg.vector_norm(rows, 2, dims, dtype=torch.float64)
    return norms.double().square()


def _log_odds(logits: Tensor, answers: Tensor) -> Tensor:
    """Log p - log(1 - p) of the answers."""
    own = logits.gather(-1, answers[:, None])[:, 0]
    others = logits.scatter(-1, answers[:, None], float("-inf"))
    return own - others.logsumexp(-1)
