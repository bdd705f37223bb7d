"""Layer-wise relevance propagation for any model, at the level of the functions it calls.

Relevance R travels backwards in place of gradients. Every function a model calls on data that depends on the input
gets a rule, whether the call comes from a module or from the model's own code, so shared modules, functional
calls and residual additions need no rewriting of the model:

    convolution, linear      rule = "epsilon":     R_i = sum_j x_i w_ij R_j / (z_j + eps sign z_j)
                             rule = "alpha_beta":  R_i = sum_j (alpha z_ij^+ / z_j^+ - beta z_ij^- / z_j^-) R_j
                             rule = "z_plus":      alpha_beta with alpha = 1, beta = 0
                             first layer with bounds (l, h): z-box
    pooling by mean, sums    in proportion: epsilon rule with the pooling's own weights
    max pooling, reshaping,  the gradient's path: all to the entry that was taken
      indexing, concatenation
    residual addition        in proportion: R_a = a / (a + b) R
    activations (ReLU, GELU, SiLU, ...), batch, layer and group norm, constant factors and terms
                             unchanged: R_x = R_y
    product of two signals   half to each
    softmax (attention)      a constant: all relevance of A V goes to V

with z_ij = x_i w_ij, z_j = sum_i z_ij, and z^+, z^- sums over positive and negative terms. By default biases are left
out of z, so that relevance is conserved: the map sums to the target logit, or for alpha_beta and z_plus to its
magnitude.

Sources: Bach et al. (PLoS ONE 2015) for epsilon and alpha-beta; Montavon et al. (2017) for z-plus and z-box; Nam et al.
(2019), which the paper used, for the neglect of biases and the rules of sums and batch norm; Ali et al. (ICML 2022)
and Achtibat et al. (ICML 2024) for softmax, products, layer norm and GELU.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode, resolve_name

from spade_xai.attribution.lrp.attention import multi_head_attention
from spade_xai.attribution.lrp.rules import (
    Function,
    Halves,
    Layer,
    LayerRule,
    Linear,
    Proportional,
    Unchanged,
)
from spade_xai.models.copies import duplicate

RULES = ("epsilon", "alpha_beta", "z_plus")

# Functions by name, so that x.relu(), F.relu(x), torch.relu(x) and x.relu_() are one: R_x = R_y.
_UNCHANGED = set(
    "relu relu6 leaky_relu elu selu celu gelu silu mish hardswish hardtanh softplus sigmoid hardsigmoid "
    "logsigmoid tanh batch_norm layer_norm group_norm instance_norm rms_norm clamp clamp_min".split()
)
_PROPORTIONAL = set(
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d mean sum "
    "interpolate".split()
)
_LAYERS = {"linear", "conv1d", "conv2d", "conv3d"}
_SUMS = {"add", "radd", "iadd", "sub", "isub", "rsub", "subtract"}
_PRODUCTS = {"mul", "rmul", "imul", "multiply"}
_QUOTIENTS = {"div", "truediv", "itruediv", "true_divide", "divide"}
_MATRIX_PRODUCTS = {"matmul", "bmm", "mm"}
# The gradient carries relevance as it is: to the entry taken or moved.
_PASS = set(
    "max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d max amax reshape view view_as "
    "reshape_as flatten unflatten permute transpose t T mT swapaxes movedim contiguous squeeze unsqueeze getitem "
    "select narrow chunk split unbind cat concat stack index_select gather pad flip roll expand expand_as repeat "
    "clone to float double type_as dropout dropout1d dropout2d alpha_dropout feature_dropout masked_fill detach "
    "requires_grad get".split()
)


def relevance(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    *,
    rule: str = "alpha_beta",
    alpha: float = 1.0,
    epsilon: float = 1e-6,
    bias: bool = False,
    bounds: tuple[float, float] | None = None,
    extra: tuple[Any, ...] = (),
) -> Tensor:
    """Return the relevance of each entry of x for the target logit.

    Args:
        model: Takes (x, *extra) and gives logits [B, classes]. Not modified. Batch norms with negative
            weights should have been folded into the layers before them: `prepare(model, fuse_batch_norm=True)`.
        x: Inputs [B, ...], floating point. Not modified.
        target: Classes [B].
        rule: Of convolutions and linear layers, one of RULES.
        alpha: For alpha_beta; beta = alpha - 1.
        epsilon: Stabiliser of all denominators: z + epsilon sign(z).
        bias: Whether biases count in the denominators and so absorb relevance.
        bounds: Least and greatest value an input can have; the layers that read x then use the z-box rule.
        extra: Further positional arguments of model.

    Returns:
        Relevance in the shape and dtype of x; sums to the logit (epsilon) or its magnitude where no layer absorbs any.

    Raises:
        TypeError: bounds are not two numbers.
        ValueError: An argument is out of range, or bounds are given and no layer reads x itself.
        NotImplementedError: The model calls a function that has no rule.
        RuntimeError: The logits do not depend on x through functions that pass relevance on.
    """
    if rule not in RULES:
        raise ValueError(f"lrp: rule must be one of {', '.join(RULES)}, got {rule!r}")
    if not alpha >= 1:
        raise ValueError(f"lrp: alpha must be at least 1, got {alpha}")
    if not epsilon > 0:
        raise ValueError(f"lrp: epsilon must be above 0, got {epsilon}")
    if bounds is not None and not (isinstance(bounds, (tuple, list)) and len(bounds) == 2):
        raise TypeError(f"lrp: bounds must be two numbers, got {bounds!r}")
    if bounds is not None and not bounds[0] <= 0 <= bounds[1]:
        raise ValueError(f"lrp: bounds must enclose 0, got {bounds}")
    model = duplicate(model)
    leaf = x.detach().clone().requires_grad_()
    # Parameters are constants here: only data that depends on x carries relevance.
    constants = {k: v.detach() for k, v in (*model.named_parameters(), *model.named_buffers())}
    linear = Linear(1.0 if rule == "z_plus" else alpha, epsilon, bias, rule == "epsilon")
    mode = _Propagate(leaf, linear, bounds)
    with torch.enable_grad(), mode:
        logits = functional_call(model, constants, (leaf, *extra))
    if not logits.requires_grad:
        raise RuntimeError(
            "lrp: model must end in logits that depend on x, got outputs no relevance passes through; "
            "does it end in softmax?"
        )
    if bounds is not None and not mode.box_used:
        raise ValueError("lrp: bounds need a layer that reads x itself, got a model without one")
    with torch.no_grad():
        plain = functional_call(model, constants, (x.detach().clone(), *extra))
    if not torch.allclose(logits, plain, rtol=1e-3, atol=1e-3 * float(plain.abs().max())):
        raise RuntimeError(
            "lrp: model must not read tensors it has overwritten, got other logits without in-place functions"
        )
    # Rules of positive parts share out magnitude: begun at a negative logit, their maps would be turned over.
    begin = logits.detach() if rule == "epsilon" else logits.detach().abs()
    chosen = torch.zeros_like(logits).scatter_(1, target[:, None], 1) * begin
    return torch.autograd.grad(logits, leaf, chosen)[0]


class _Propagate(TorchFunctionMode):
    """Calls every function on data that depends on the input by its rule."""

    def __init__(self, x: Tensor, rule: Linear, bounds: tuple[float, float] | None) -> None:
        super().__init__()
        self.x, self.rule, self.bounds = x, rule, bounds
        self.box_used = False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        signals = list(_signals((*args, *kwargs.values())))
        name = getattr(func, "__name__", "").strip("_")
        if not signals:
            return func(*args, **kwargs)
        if name in _LAYERS:
            return self._layer(func, *args, **kwargs)
        if name in _UNCHANGED:
            return Unchanged.apply(args[0], lambda x: func(x, *args[1:], **kwargs))
        if name in _PROPORTIONAL:
            return self._in_proportion(lambda x: func(x, *args[1:], **kwargs), args[0])
        if name in _SUMS | _PRODUCTS | _QUOTIENTS | _MATRIX_PRODUCTS and len(args) == 2:
            return self._binary(name, func, *args, **kwargs)
        if name in ("softmax", "log_softmax"):
            return func(*args, **kwargs).detach()
        if name == "scaled_dot_product_attention":
            return self._attention(func, *args, **kwargs)
        if name == "multi_head_attention_forward":
            with self:  # its parts have rules
                return multi_head_attention(*args, **kwargs)
        out = func(*args, **kwargs)
        if name in ("clone", "contiguous", "to") and args[0] is self.x:
            self.x = out
        if name not in _PASS and next(_signals((out,)), None) is not None:
            raise NotImplementedError(
                f"lrp: model calls {resolve_name(func) or name}, which has no rule"
            )
        return out

    def _in_proportion(self, function: Function, *xs: Tensor, scale: float = 1.0) -> Any:
        return Proportional.apply(function, self.rule, scale, *xs)

    def _layer(
        self,
        func: Function,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *args: Any,
        **kw: Any,
    ) -> Any:
        if weight.requires_grad:
            raise NotImplementedError(
                f"lrp: {func.__name__} has no rule for weights that depend on x"
            )
        bounds = self.bounds if x is self.x else None
        self.box_used |= bounds is not None
        return LayerRule.apply(x, Layer(func, weight, bias, *args, **kw), self.rule, bounds)

    def _attention(
        self, func: Function, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kw: Any
    ) -> Any:
        q, k = q.detach(), k.detach()
        if not v.requires_grad:
            return func(q, k, v, *args, **kw)
        return self._in_proportion(lambda x: func(q, k, x, *args, **kw), v)

    def _binary(self, name: str, func: Function, a: Any, b: Any, **kwargs: Any) -> Any:
        """Sums, products and quotients of two signals, or of a signal and a constant."""
        both = _is_signal(a) and _is_signal(b)
        x = a if _is_signal(a) else b

        def of_one(x: Tensor) -> Any:
            return func(x, b, **kwargs) if _is_signal(a) else func(a, x, **kwargs)

        if name in _MATRIX_PRODUCTS:
            if both:
                return self._in_proportion(lambda p, q: func(p, q, **kwargs), a, b, scale=0.5)
            return self._in_proportion(of_one, x)
        if both and name in _SUMS:
            out_of_place = torch.add if "add" in name else torch.sub
            first, second = (b, a) if name == "rsub" else (a, b)
            return self._in_proportion(lambda p, q: out_of_place(p, q, **kwargs), first, second)
        if both and name in _PRODUCTS:
            return Halves.apply(a, b)
        if both or (name in _QUOTIENTS and not _is_signal(a)):
            raise NotImplementedError("lrp: division by data that depends on x has no rule")
        other = b if _is_signal(a) else a
        shape = torch.broadcast_shapes(x.shape, getattr(other, "shape", ()))
        if shape != x.shape:  # spread first, so that relevance of the copies adds up
            x = x.expand(shape)
        return Unchanged.apply(x, of_one)


def _is_signal(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _signals(values: Any) -> Iterator[Tensor]:
    """Tensors that depend on the input, in arguments nested in lists and tuples."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _signals(value)
        elif _is_signal(value):
            yield value
