"""DeepLIFT's rescale rule for functions that captum's DeepLift treats as linear.

captum runs input and baseline as the two halves of one batch and replaces the gradient of some modules (ReLU,
sigmoid, tanh, ...) by the multiplier m = (f(x) - f(x0)) / (x - x0). For all others it uses the plain gradient, so
that attributions no longer sum to f(x) - f(x0). `rescaled` adds exact multipliers for element-wise functions, layer
norm and products, wherever they are called from.

Source: Shrikumar et al. (ICML 2017), section 3.5.1, and its product rule in Lundberg and Lee (NeurIPS 2017).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_EPSILON = 1e-6  # below this difference of inputs the multiplier is the derivative


class _Elementwise(torch.autograd.Function):
    """y = f(x) on halves (x, x0): dx = dy (y - y0) / (x - x0)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        y = function(x.clone())
        ctx.function = function
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        x, y = ctx.saved_tensors
        (x1, x0), (y1, y0) = x.chunk(2), y.chunk(2)
        dx = x1 - x0
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            slope = torch.autograd.grad(ctx.function(leaf.clone()).sum(), leaf)[0]
        m = torch.where(dx.abs() < _EPSILON, slope.chunk(2)[0], (y1 - y0) / dx)
        return grads[0] * torch.cat([m, m]), None


class _LayerNorm(torch.autograd.Function):
    """y = g c s + b with c = x - mean(x), s = (mean(c^2) + eps)^-1/2, on halves (x, x0).

    The product rule gives d(c s) = dc (s + s0) / 2 + ds (c + c0) / 2, and ds = k dv with k = (s - s0) / (v - v0),
    v = mean(c^2), dv = mean(dc (c + c0)): all exact, so contributions sum to y - y0.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dims: int, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> Tensor:
        ctx.dims, ctx.eps = dims, eps
        ctx.save_for_backward(x, weight if weight is not None else torch.ones((), device=x.device))
        return F.layer_norm(x, x.shape[-dims:], weight, bias, eps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        x, weight = ctx.saved_tensors
        axes = tuple(range(-ctx.dims, 0))
        c = x - x.mean(axes, keepdim=True)
        v = (c * c).mean(axes, keepdim=True)
        s = (v + ctx.eps).rsqrt()
        (c1, c0), (s1, s0) = c.chunk(2), s.chunk(2)
        # (s - s0) / (v - v0) = -(s s0)^2 / (s + s0), since s^-2 - s0^-2 = v - v0
        k = -((s1 * s0) ** 2) / (s1 + s0)
        mean_c = (c1 + c0) / 2
        out = []
        for grad in grads[0].chunk(2):
            g = grad * weight
            through_s = (g * mean_c).sum(axes, keepdim=True) * k * 2 * mean_c
            g = g * (s1 + s0) / 2 + through_s / math.prod(x.shape[-ctx.dims :])
            out.append(g - g.mean(axes, keepdim=True))
        return torch.cat(out), None, None, None, None


class _Product(torch.autograd.Function):
    """y = a b on halves: da = dy (b + b0) / 2, db = dy (a + a0) / 2."""

    @staticmethod
    def forward(ctx: FunctionCtx, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        return (
            (grads[0] * _mean_of_halves(b)).sum_to_size(a.shape),
            (grads[0] * _mean_of_halves(a)).sum_to_size(b.shape),
        )


def _mean_of_halves(x: Tensor) -> Tensor:
    a, b = x.chunk(2)
    mean = (a + b) / 2
    return torch.cat([mean, mean])


_ELEMENTWISE = {
    F.gelu, F.silu, F.mish, F.hardswish, F.hardsigmoid, F.hardtanh, F.relu6, F.selu, F.celu,
    F.elu, F.softplus, F.leaky_relu, F.relu, torch.relu, Tensor.relu,
    F.sigmoid, torch.sigmoid, Tensor.sigmoid, F.tanh, torch.tanh, Tensor.tanh,
    torch.exp, Tensor.exp, torch.sqrt, Tensor.sqrt, torch.square, Tensor.square, torch.pow, Tensor.pow, Tensor.__pow__,
}  # fmt: skip
_PRODUCTS = {torch.mul, Tensor.mul, Tensor.__mul__, torch.multiply, Tensor.multiply}


class _Rescale(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        x = args[0] if args else None
        halves = isinstance(x, Tensor) and x.requires_grad and x.ndim > 0 and len(x) % 2 == 0
        if not halves:
            return func(*args, **kwargs)
        assert isinstance(x, Tensor)
        if func in _ELEMENTWISE:
            return _Elementwise.apply(x, lambda v: func(v, *args[1:], **kwargs))
        if func is F.layer_norm:
            return _layer_norm(*args, **kwargs)
        if func in _PRODUCTS and len(args) == 2 and not kwargs:
            y = args[1]
            same = isinstance(y, Tensor) and y.ndim == x.ndim and y.shape[0] == x.shape[0]
            if same and y.requires_grad and not isinstance(y, nn.Parameter):
                return _Product.apply(x, y)
        return func(*args, **kwargs)


def _layer_norm(
    x: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Any:
    return _LayerNorm.apply(x, len(normalized_shape), weight, bias, eps)


class Rescaled(nn.Module):
    """A model whose backward pass, on a batch of inputs followed by their baselines, has DeepLIFT's multipliers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model with the rules in place."""
        with _Rescale():
            return self.model(*args, **kwargs)
