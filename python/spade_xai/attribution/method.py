"""What a saliency method is: one record, and the batch it runs on."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from spade_ext.checks import check_finite
from spade_xai.attribution.forward import Forward

Options = dict[str, Any]


@dataclass(frozen=True)
class Option:
    """An option of a method: its default and, where it does not depend on the input, its check."""

    default: Any
    check: Callable[[Any], object] | None = None


@dataclass(frozen=True)
class Job:
    """One batch of one method.

    With `x` [B, ...] floating point, `target` [B] and `extra` what the model takes beside x; `tokens` says that x holds
    the embeddings [B, T, E] of token ids.
    """

    forward: Forward
    x: Tensor
    target: Tensor
    extra: tuple[Any, ...]
    batch_size: int
    seed: int
    tokens: bool = False
    layer: str | None = None  # of methods that look at a feature map

    def captum(self) -> dict[str, Any]:
        """The arguments all captum methods share."""
        # Of one target captum would read the number again for each pass, and wait for the device.
        target = self.target if len(self.target) > 1 else int(self.target)
        extra = self.extra if self.extra else None
        return {"inputs": self.x, "target": target, "additional_forward_args": extra}

    def at(self, x: Tensor) -> "Job":
        """The job of one input, at several others in its place."""
        count = len(x)
        extra = tuple(v.expand(count, *v.shape[1:]) for v in self.extra)
        return replace(self, x=x, target=self.target.expand(count), extra=extra)

    def first(self) -> "Job":
        """The job of the first input alone."""
        extra = tuple(v[:1] for v in self.extra)
        return replace(self, x=self.x[:1], target=self.target[:1], extra=extra)

    def score(self, x: Tensor) -> Tensor:
        """The target's score of each input, [B]."""
        return self.forward(x, *self.extra).gather(1, self.target[:, None])[:, 0]


@dataclass(frozen=True)
class Method:
    """A saliency method.

    Args:
        name: What `attribute` calls it.
        run: Attributions in the shape of job.x, from a batch and all options.
        cost: In words: passes per input.
        use: What it is for, in words.
        read: How to read its maps, in one sentence.
        options: Its options by name.
        signed: Whether the sign says for or against the target; maps of other methods are sums of magnitudes.
        repeats: Whether one input is run many times: then batches hold one input.
        cheap: Whether it takes a few passes per input.
        tokens: How a token's value comes from the entries of its embedding: "sum", "magnitude" or "mean".
        feature_map: Whether `layer` names the layer whose feature map is weighed; for other methods it names the
            layer that is explained in place of the input.
    """

    name: str
    run: Callable[[Job, Options], Tensor]
    cost: str
    use: str
    read: str
    options: dict[str, Option] = field(default_factory=dict)
    signed: bool = False
    repeats: bool = False
    cheap: bool = False
    tokens: str = "sum"
    feature_map: bool = False

    def settings(self, given: Options) -> Options:
        """All options, those given checked."""
        for name, value in given.items():
            if name not in self.options:
                known = ", ".join(self.options) or "none"
                raise TypeError(f"attribute: options of {self.name} are {known}, got {name!r}")
            check = self.options[name].check
            if check is not None:
                check(value)
        return {name: option.default for name, option in self.options.items()} | given

    def of_tokens(self, result: Tensor) -> Tensor:
        """Values [B, T] of tokens from attributions [B, T, E] of their embeddings."""
        if self.tokens == "mean":
            return result.mean(-1)
        return (result.abs() if self.tokens == "magnitude" else result).sum(-1)


def baseline_of(x: Tensor, baseline: float | Tensor, several: bool = False) -> Tensor:
    """The baseline of each input, or for several=True a set of baselines [K, ...]."""
    if isinstance(baseline, bool) or not isinstance(baseline, (int, float, Tensor)):
        kind = type(baseline).__name__
        raise TypeError(f"attribute: baseline must be a number or a tensor, got {kind}")
    value = torch.as_tensor(baseline, dtype=x.dtype, device=x.device)
    check_finite("attribute", "baseline", value)
    try:
        if several:
            value = value if value.ndim == x.ndim else value.expand(1, *x.shape[1:])
            return value.expand(len(value), *x.shape[1:])
        return value.expand_as(x)
    except RuntimeError as error:
        raise ValueError(
            f"attribute: baseline must broadcast to one input {tuple(x.shape[1:])}, "
            f"got shape {tuple(value.shape)}"
        ) from error
