"""DeepLIFT's multipliers of single functions; see `deep_lift`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spade_xai.attribution import maxima, norms
from spade_xai.attribution.calls import Call, Calls, function_of, replace_signals, signals

_NEAR = 8  # units in the last place: inputs no further apart have the derivative as multiplier

# Functions of one input at a time.
_ELEMENTWISE = set(
    "relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu mish hardswish hardsigmoid hardtanh softplus "
    "softsign sigmoid logsigmoid log_sigmoid tanh tanhshrink hardshrink softshrink threshold clamp clamp_min "
    "clamp_max clip exp expm1 log log1p log2 sqrt rsqrt square reciprocal abs erf sin cos sinc arctan atan sign "
    "pow rpow rtruediv rdiv div truediv true_divide divide where masked_fill".split()
)
# Linear in data that depends on the input, as long as it is one tensor: the gradient is exact.
_LINEAR = set(
    "linear addcmul conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d addmm mm bmm matmul mv "
    "rmatmul baddbmm einsum add radd iadd sub isub rsub subtract neg negative mul rmul imul multiply div truediv "
    "itruediv true_divide divide mean sum cumsum avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d "
    "adaptive_avg_pool2d adaptive_avg_pool3d interpolate upsample batch_norm reshape view view_as reshape_as "
    "flatten unflatten permute transpose t T mT swapaxes swapdims movedim moveaxis contiguous squeeze unsqueeze "
    "getitem setitem select narrow chunk split tensor_split unsafe_chunk unsafe_split unbind cat concat stack "
    "hstack vstack index_select gather pad flip roll expand expand_as broadcast_to repeat repeat_interleave tile "
    "clone to float double half bfloat16 type type_as dropout dropout1d dropout2d dropout3d alpha_dropout "
    "feature_dropout feature_alpha_dropout detach requires_grad get pixel_shuffle pixel_unshuffle channel_shuffle "
    "unfold fold ravel tril triu cpu cuda fill copy index_add scatter_add lerp diagonal alias as_strided".split()
)
_PRODUCTS = set(
    "mul rmul imul multiply matmul rmatmul mm bmm mv addmm baddbmm einsum linear conv1d conv2d conv3d".split()
)
_SUMS = set("add radd iadd sub isub rsub subtract cat concat stack hstack vstack setitem".split())


@dataclass
class Seen:
    """A call in the pass on the baseline."""

    name: str
    inputs: list[Tensor]
    output: Any
    condition: Any = None  # of where


class _Ruled(Calls):
    """Sorts calls: exact gradients pass, the rest have a multiplier."""

    def rule(self, call: Call) -> Any:
        """The result of the call, by the multiplier that it needs."""
        given = signals((*call.args, *call.kwargs.values()))
        if call.in_place and call.name != "setitem":
            call.args = (call.args[0].clone(), *call.args[1:])
        spelled = norms.spelled_out(call)
        if spelled is not None:
            with self:
                return spelled()
        if self._is_linear(call, len(given)):
            return call.run()
        return self.multiplied(call, given)

    def _is_linear(self, call: Call, count: int) -> bool:
        name = call.name
        if name == "batch_norm":
            training = call.kwargs.get("training", call.args[5] if len(call.args) > 5 else False)
            return not training and count == 1
        if name in ("div", "truediv", "itruediv", "true_divide", "divide"):
            return count == 1 and not _is_second(call)
        return name in _SUMS or (name in _LINEAR and count == 1)

    def multiplied(self, call: Call, given: list[Tensor]) -> Any:
        """The result of a call that is not linear."""
        raise NotImplementedError


def _is_second(call: Call) -> bool:
    return not signals(call.args[:1])


class Baseline(_Ruled):
    """The pass on the baseline: notes the inputs and outputs of calls that need a multiplier."""

    def __init__(self, leaf: Tensor) -> None:
        super().__init__(leaf)
        self.seen: list[Seen] = []

    def multiplied(self, call: Call, given: list[Tensor]) -> Any:
        """Run the call on copies, which it may overwrite, and note it."""
        out = function_of(call)(*(x.clone() for x in given))
        if signals(out):
            kept = out.detach() if isinstance(out, Tensor) else None
            condition = call.args[0] if call.name == "where" else None
            self.seen.append(Seen(call.name, [x.detach() for x in given], kept, condition))
        return out


class Multipliers(_Ruled):
    """The pass on x: the k-th call has its multiplier from the k-th of the pass on the baseline."""

    def __init__(self, leaf: Tensor, seen: list[Seen]) -> None:
        super().__init__(leaf)
        self.seen, self.next = seen, 0
        self.approximate: set[str] = set()

    def multiplied(self, call: Call, given: list[Tensor]) -> Any:
        """The result, with a backward pass that multiplies."""
        function = function_of(call)
        out = function(*(x.detach().requires_grad_().clone() for x in given))
        if not signals(out):
            return out
        before = self._before(call, given)
        if call.name in maxima.MAXIMA:
            return maxima.through(call, before.inputs, out)
        if call.name in _ELEMENTWISE and len(given) == 1 and _same_shape(given[0], out):
            return Rescale.apply(function, given[0], before.inputs[0], before.output)
        if call.name == "where":
            a, b = (x.expand(out.shape) for x in given)
            a0, b0 = (x.expand(out.shape) for x in before.inputs)
            return Choice.apply(call.args[0], before.condition, a, b, a0, b0)
        bilinear = call.name in _PRODUCTS and len(given) == 2
        if not bilinear:
            self.approximate.add(call.title)
        count = len(given)
        outs = MeanGradient.apply(function, 1 if bilinear else 16, *given, *before.inputs[:count])
        return outs if isinstance(out, Tensor) else _rebuilt(out, outs)

    def _before(self, call: Call, given: list[Tensor]) -> Seen:
        seen = self.seen[self.next] if self.next < len(self.seen) else None
        self.next += 1
        shapes = [x.shape for x in given]
        if seen is None or seen.name != call.name or [x.shape for x in seen.inputs] != shapes:
            raise RuntimeError(
                f"attribute: deep_lift needs a model that calls the same functions on x and on the baseline, got "
                f"{call.title} on one of them; choose another baseline"
            )
        return seen


def _same_shape(x: Tensor, out: Any) -> bool:
    return isinstance(out, Tensor) and out.shape == x.shape


def _rebuilt(out: Any, tensors: tuple[Tensor, ...]) -> Any:
    """A tuple or list of results with those that carry a gradient replaced."""
    new: Iterator[Tensor] = iter(tensors)
    return replace_signals(tuple(out), new)


class Rescale(torch.autograd.Function):
    """y = f(x) of one input at a time: dx = dy (y - y0) / (x - x0)."""

    @staticmethod
    def forward(ctx: Any, function: Any, x: Tensor, x0: Tensor, y0: Tensor) -> Tensor:
        """Call the function and keep what the rule needs."""
        y: Tensor = function(x.detach().clone())
        ctx.function = function
        ctx.save_for_backward(x, x0, y, y0)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None, None]:
        """Return the multiplied gradient."""
        x, x0, y, y0 = ctx.saved_tensors
        dx = x - x0
        near = dx.abs() <= _NEAR * torch.finfo(x.dtype).eps * (x.abs() + x0.abs())
        with torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            slope = torch.autograd.grad(ctx.function(leaf.clone()).sum(), leaf)[0]
        return None, grads[0] * torch.where(near, slope, (y - y0) / dx), None, None


class Choice(torch.autograd.Function):
    """y = a where c else b: where c is another on the baseline, m_a da + m_b db = y - y0 of least m_a^2 + m_b^2."""

    @staticmethod
    def forward(
        ctx: Any, c: Tensor, c0: Tensor, a: Tensor, b: Tensor, a0: Tensor, b0: Tensor
    ) -> Tensor:
        """Choose and keep what the rule needs."""
        ctx.save_for_backward(c, c0, a, b, a0, b0)
        return torch.where(c, a, b)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the multiplied gradient."""
        c, c0, a, b, a0, b0 = ctx.saved_tensors
        da, db = a - a0, b - b0
        rise = torch.where(c, a, b) - torch.where(c0, a0, b0)
        share = rise / (da * da + db * db).clamp_min(torch.finfo(a.dtype).tiny)
        of_a = torch.where(c == c0, c.to(a), share * da)
        of_b = torch.where(c == c0, (~c).to(b), share * db)
        return None, None, grads[0] * of_a, grads[0] * of_b, None, None


class MeanGradient(torch.autograd.Function):
    """y = f(x_1, ..., x_n): the gradient's mean over the line from x0 to x, by Gauss-Legendre quadrature."""

    @staticmethod
    def forward(ctx: Any, function: Any, points: int, *xs: Tensor) -> Any:
        """Call the function and keep what the rule needs."""
        half = len(xs) // 2
        ctx.function, ctx.points, ctx.half = function, points, half
        ctx.save_for_backward(*xs)
        with torch.enable_grad():
            out = function(*(x.detach().requires_grad_().clone() for x in xs[:half]))
        if isinstance(out, Tensor):
            return out.detach()
        return tuple(t.detach() for t in signals(out))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        """Return the gradient's mean."""
        xs, x0s = ctx.saved_tensors[: ctx.half], ctx.saved_tensors[ctx.half :]
        nodes, weights = np.polynomial.legendre.leggauss(ctx.points)
        total = [torch.zeros_like(x) for x in xs]
        for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
            with torch.enable_grad():
                leaves = [
                    torch.lerp(b, a, float(node)).detach().requires_grad_()
                    for a, b in zip(xs, x0s, strict=True)
                ]
                outs = signals(ctx.function(*(leaf.clone() for leaf in leaves)))
                slopes = torch.autograd.grad(outs, leaves, grads, allow_unused=True)
            for t, slope in zip(total, slopes, strict=True):
                if slope is not None:
                    t.add_(slope, alpha=float(weight))
        return None, None, *total, *[None] * ctx.half
