"""The rules of layer-wise relevance propagation, as functions whose backward pass carries relevance."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Function = Callable[..., Any]


class LinearRule:
    """The rule of convolutions and linear layers, and its parameters."""

    def __init__(self, alpha: float, epsilon: float, bias: bool, proportional: bool) -> None:
        self.alpha, self.beta = alpha, alpha - 1
        self.epsilon, self.bias, self.proportional = epsilon, bias, proportional

    def stable(self, z: Tensor) -> Tensor:
        """Keep denominators away from 0."""
        return z + self.epsilon * torch.where(z < 0, -1.0, 1.0).to(z)

    def share(
        self, parts: list[tuple[Tensor, Function]], offset: Tensor | None, r: Tensor
    ) -> Tensor:
        """sum_k x_k * f_k'^T (R / z) with z = sum_k f_k(x_k) + offset, for linear maps f_k."""
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_() for x, _ in parts]
            terms = [f(leaf) for leaf, (_, f) in zip(leaves, parts, strict=True)]
            z = sum(t.detach() for t in terms)
            if offset is not None:
                z = z + offset
            s = r / self.stable(z)
            grads = torch.autograd.grad(terms, leaves, [s] * len(terms))
        shares = [x.detach() * g for x, g in zip(leaves, grads, strict=True)]
        return torch.stack(shares).sum(0)

    def backward(self, layer: "LayerCall", x: Tensor, r: Tensor) -> Tensor:
        """Relevance of x [B, ...] from relevance r of the layer's outputs."""
        b = layer.bias if self.bias else None
        if self.proportional:
            return self.share([(x, layer.map(layer.weight))], layer.shape_bias(b, r), r)
        positive, negative = layer.weight.clamp_min(0), layer.weight.clamp_max(0)
        xp, xn = x.clamp_min(0), x.clamp_max(0)
        plus = [(xp, layer.map(positive)), (xn, layer.map(negative))]
        offset = layer.shape_bias(None if b is None else b.clamp_min(0), r)
        out = self.alpha * self.share(plus, offset, r)
        if self.beta:
            minus = [(xp, layer.map(negative)), (xn, layer.map(positive))]
            offset = layer.shape_bias(None if b is None else b.clamp_max(0), r)
            out = out - self.beta * self.share(minus, offset, r)
        return out

    def box(self, layer: "LayerCall", x: Tensor, r: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """z-box: z_ij = x_i w_ij - l_i w_ij^+ - h_i w_ij^-, with bounds l and h in the shape of x."""
        parts = [
            (x, layer.map(layer.weight)),
            (low, layer.map(-layer.weight.clamp_min(0))),
            (high, layer.map(-layer.weight.clamp_max(0))),
        ]
        return self.share(parts, layer.shape_bias(layer.bias if self.bias else None, r), r)


class LayerCall:
    """One call of a convolution or linear function with its weight, bias and settings."""

    def __init__(
        self,
        function: Function,
        weight: Tensor,
        bias: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        self.function, self.weight, self.bias = function, weight, bias
        self.args, self.kwargs = args, kwargs

    def map(self, weight: Tensor) -> Function:
        """Return x -> w x, without bias."""
        return lambda x: self.function(x, weight, None, *self.args, **self.kwargs)

    def shape_bias(self, bias: Tensor | None, out: Tensor) -> Tensor | None:
        """The bias in a shape that broadcasts to the outputs."""
        if bias is None or self.function is F.linear:
            return bias
        return bias.view(-1, *[1] * (self.weight.ndim - 2))

    def scaled(self, scale: Tensor, shift: Tensor) -> "LayerCall":
        """The layer followed by y * scale + shift per output: a batch norm folded into it."""
        weight = self.weight * scale.view(-1, *[1] * (self.weight.ndim - 1))
        bias = shift if self.bias is None else self.bias * scale + shift
        return LayerCall(self.function, weight, bias, *self.args, **self.kwargs)


class LayerRule(torch.autograd.Function):
    """y = layer(x); backward by a LinearRule."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        layer: LayerCall,
        rule: LinearRule,
        bounds: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """Call the function and keep what the rule needs."""
        ctx.layer, ctx.rule, ctx.bounds = layer, rule, bounds
        ctx.save_for_backward(x)
        return layer.function(x, layer.weight, layer.bias, *layer.args, **layer.kwargs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        """Return the relevance of the inputs from that of the outputs."""
        (x,) = ctx.saved_tensors
        if ctx.bounds is not None:
            return ctx.rule.box(ctx.layer, x, grads[0], *ctx.bounds), None, None, None
        return ctx.rule.backward(ctx.layer, x, grads[0]), None, None, None


class Unchanged(torch.autograd.Function):
    """y = f(x) of the same shape; R_x = R_y."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Function) -> Tensor:
        """Call the function and keep what the rule needs."""
        return function(x.clone())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Return the relevance of the inputs from that of the outputs."""
        return grads[0], None


class Proportional(torch.autograd.Function):
    """y = f(x_1, ..., x_n), linear or bilinear; R_k = scale * x_k * (df/dx_k)^T (R / y)."""

    @staticmethod
    def forward(
        ctx: Any, function: Function, rule: LinearRule, scale: float, *xs: Tensor
    ) -> Tensor:
        """Call the function and keep what the rule needs."""
        ctx.function, ctx.rule, ctx.scale = function, rule, scale
        ctx.save_for_backward(*xs)
        return function(*xs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the relevance of the inputs from that of the outputs."""
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_() for x in ctx.saved_tensors]
            y = ctx.function(*leaves)
            share = ctx.scale * grads[0] / ctx.rule.stable(y.detach())
            back = torch.autograd.grad(y, leaves, share)
        return None, None, None, *(x.detach() * g for x, g in zip(leaves, back, strict=True))


class Halves(torch.autograd.Function):
    """y = a b; R_a = R_b = R / 2, summed over what was broadcast."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        """Call the function and keep what the rule needs."""
        ctx.shapes = a.shape, b.shape
        return a * b

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        """Return the relevance of the inputs from that of the outputs."""
        return tuple((grads[0] / 2).sum_to_size(shape) for shape in ctx.shapes)
