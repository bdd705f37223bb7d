"""Layer-wise relevance propagation for any model, at the level of the functions it calls.

Relevance R travels backwards in place of gradients. Every function a model calls on data that depends on the input
gets a rule, whether the call comes from a module or from the model's own code (see `calls`), so shared modules,
functional calls and residual additions need no rewriting of the model:

    convolution, linear,     rule = "epsilon":     R_i = sum_j x_i w_ij R_j / (z_j + eps sign z_j)
      transposed convolution rule = "alpha_beta":  R_i = sum_j (alpha z_ij^+ / z_j^+ - beta z_ij^- / z_j^-) R_j
                             rule = "z_plus":      alpha_beta with alpha = 1, beta = 0
                             first layer with bounds (l, h): z-box
    pooling by mean, sums    in proportion: epsilon rule with the pooling's own weights
    max pooling, maximum,    the gradient's path: all to the entry that was taken
      reshaping, indexing, concatenation
    x @ W, a constant matrix as a linear layer
    residual addition        in proportion: R_a = a / (a + b) R
    batch norm               folded into the convolution or linear layer that made its input, else unchanged
    activations (ReLU, PReLU, GELU, ...), layer, group and RMS norm, F.normalize, constant factors and terms
                             unchanged: R_x = R_y
    product of two signals   half to each
    softmax (attention), norms and denominators
                             constants: all relevance of A V goes to V, all of x / |x| to x

with z_ij = x_i w_ij, z_j = sum_i z_ij, and z^+, z^- sums over positive and negative terms. By default biases are left
out of z, so that relevance is conserved: the map sums to the target logit, or for alpha_beta and z_plus to its
magnitude.

Sources: Bach et al. (PLoS ONE 2015) for epsilon and alpha-beta; Montavon et al. (2017) for z-plus and z-box; Nam et al.
(2019), which the paper used, for the neglect of biases and the rules of sums and batch norm; Ali et al. (ICML 2022)
and Achtibat et al. (ICML 2024) for softmax, products, layer norm and GELU.
"""

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.weak import WeakIdKeyDictionary

from spade_xai.attribution.calls import (
    Call,
    Calls,
    check_outputs,
    constants,
    function_of,
    is_signal,
    run_under,
    signals,
    wide,
)
from spade_xai.attribution.lrp import functions
from spade_xai.attribution.lrp.attention import multi_head_attention
from spade_xai.attribution.lrp.rules import (
    Function,
    Halves,
    LayerCall,
    LayerRule,
    LinearRule,
    Proportional,
    Unchanged,
)
from spade_xai.choices import misnamed
from spade_xai.exceptions import DegenerateMapWarning
from spade_xai.models.copies import duplicate

RULES = ("epsilon", "alpha_beta", "z_plus")
_MOST_GROWTH = 1e4


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
        model: Takes (x, *extra) and gives logits [B, classes]. Not modified.
        x: Inputs [B, ...], floating point. Not modified.
        target: Classes [B].
        rule: The rule of convolutions and linear layers, one of RULES.
        alpha: For alpha_beta; beta = alpha - 1.
        epsilon: Stabiliser of all denominators: z + epsilon sign(z).
        bias: Whether biases count in the denominators and so absorb relevance.
        bounds: Least and greatest value an input can have; the layers that read x, padded or not, then use the z-box
            rule.
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
        raise ValueError(f"lrp: {misnamed('rule', RULES, rule)}")
    if not alpha >= 1:
        raise ValueError(f"lrp: alpha must be at least 1, got {alpha}")
    if not epsilon > 0:
        raise ValueError(f"lrp: epsilon must be above 0, got {epsilon}")
    if bounds is not None and not (isinstance(bounds, (tuple, list)) and len(bounds) == 2):
        raise TypeError(f"lrp: bounds must be two numbers, got {bounds!r}")
    if bounds is not None and not bounds[0] <= 0 <= bounds[1]:
        raise ValueError(f"lrp: bounds must enclose 0, got {bounds}")
    model = duplicate(model)
    x, extra = wide(x), tuple(wide(v) for v in extra)
    leaf = x.detach().clone().requires_grad_()
    # Parameters are constants here: only data that depends on x carries relevance.
    state = constants(model)
    linear = LinearRule(1.0 if rule == "z_plus" else alpha, epsilon, bias, rule == "epsilon")
    mode = _Propagate(leaf, linear, bounds)
    logits = run_under("lrp", mode, model, state, leaf, extra)
    if not logits.requires_grad:
        raise RuntimeError(
            "lrp: model must end in logits that depend on x, got outputs no relevance passes through; "
            "does it end in softmax?"
        )
    if bounds is not None and not mode.box_used:
        raise ValueError("lrp: bounds need a layer that reads x itself, got a model without one")
    check_outputs(
        "lrp", logits, lambda: functional_call(model, state, (x.detach().clone(), *extra))
    )
    # Rules of positive parts share out magnitude: begun at a negative logit, their maps would be turned over.
    begin = logits.detach() if rule == "epsilon" else logits.detach().abs()
    chosen = torch.zeros_like(logits).scatter_(1, target[:, None], 1) * begin
    result = torch.autograd.grad(logits, leaf, chosen)[0]
    _check_growth(result, chosen.sum(1))
    return result


def _check_growth(result: Tensor, begin: Tensor) -> None:
    """Warn where relevance has outgrown the logit that it began as."""
    growth = float((result.flatten(1).abs().sum(1) / begin.abs().clamp_min(1e-30)).max())
    if growth <= _MOST_GROWTH:
        return
    size = f"sum to {growth:.1e} times the logit" if math.isfinite(growth) else "overflow"
    warnings.warn(
        f"lrp: magnitudes of relevance {size}, as sums whose terms nearly cancel divide by almost 0: take "
        "rule='alpha_beta' or 'z_plus', a larger epsilon, or bias=True",
        DegenerateMapWarning,
        stacklevel=2,
    )


class _Propagate(Calls):
    """Calls every function on data that depends on the input by its rule."""

    def __init__(self, x: Tensor, linear: LinearRule, bounds: tuple[float, float] | None) -> None:
        super().__init__(x)
        self.x, self.linear = x, linear
        self.bounds = None
        if bounds is not None:  # of each entry of x
            self.bounds = torch.full_like(x, bounds[0]), torch.full_like(x, bounds[1])
        self.box_used = False
        self.made_by: Any = WeakIdKeyDictionary()  # outputs of layers: (input, layer)

    def rule(self, call: Call) -> Any:
        """The result of the call, with a backward pass that carries relevance."""
        name, args, kwargs = call.name, call.args, call.kwargs
        x: Any = args[0] if args else None
        if name == "batch_norm" and x in self.made_by:
            folded = self._folded(*args, **kwargs)
            if folded is not None:
                return folded
        if name in functions.LAYERS:
            return self._layer(LayerCall(call.function, *args[1:], **kwargs), x)
        if name in functions.SUMS_OF_PRODUCTS:
            return self._sum_of_product(name, *args, **kwargs)
        if name in functions.BOUNDED and signals((args[1:], kwargs)):
            return call.run()  # a maximum of two
        if name in functions.UNCHANGED and is_signal(x):
            return Unchanged.apply(x, lambda v: call.function(v, *args[1:], **kwargs))
        if name in functions.PROPORTIONAL:
            return self._in_proportion(lambda v: call.function(v, *args[1:], **kwargs), x)
        if name in functions.MATRIX_PRODUCTS and len(args) == 2 and _is_weight(args[1]):
            layer = LayerCall(lambda v, w, _: call.function(v, w, **kwargs), args[1])
            return self._layer(layer, x, foldable=False)
        if name == "einsum":
            if len(args) == 3 and is_signal(args[1]) and _is_weight(args[2]):
                layer = LayerCall(lambda v, w, _: call.function(args[0], v, w), args[2])
                return self._layer(layer, args[1], foldable=False)
            given = signals(args)
            return self._in_proportion(function_of(call), *given, scale=1 / len(given))
        if (
            name
            in functions.SUMS
            | functions.PRODUCTS
            | functions.QUOTIENTS
            | functions.MATRIX_PRODUCTS
            | functions.MAXIMA
            and len(args) == 2
        ):
            return self._binary(name, call.function, *args, **kwargs)
        if name == "addcmul":
            with self:
                return args[0] + args[1] * args[2] * kwargs.get("value", 1)
        if name in functions.CONSTANT:
            return _detached(call.run())
        if name == "scaled_dot_product_attention":
            return self._attention(call.function, *args, **kwargs)
        if name == "multi_head_attention_forward":
            with self:  # its parts have rules
                return multi_head_attention(*args, **kwargs)
        out = call.run()
        if name in ("clone", "contiguous", "to") and x is self.x:
            self.x = out
        if name == "pad" and x is self.x and self.bounds is not None:  # a layer reads the padded x
            low, high = (call.function(b, *args[1:], **kwargs) for b in self.bounds)
            self.x, self.bounds = out, (low, high)
        if name not in functions.PASS and signals((out,)):
            raise NotImplementedError(f"lrp: model calls {call.title}, which has no rule")
        return out

    def _in_proportion(self, function: Function, *xs: Tensor, scale: float = 1.0) -> Any:
        return Proportional.apply(function, self.linear, scale, *xs)

    def _layer(self, layer: LayerCall, x: Tensor, foldable: bool = True) -> Any:
        if is_signal(layer.weight):
            name = layer.function.__name__
            raise NotImplementedError(f"lrp: {name} has no rule for weights that depend on x")
        bounds = self.bounds if x is self.x else None
        self.box_used |= bounds is not None
        out = LayerRule.apply(x, layer, self.linear, bounds)
        if foldable:
            self.made_by[out] = x, layer
        return out

    def _sum_of_product(
        self, name: str, term: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1, **kwargs: Any
    ) -> Any:
        """The sum beta term + alpha a b: a layer where b and term are weights, else by its parts."""
        plain = name == "addmm" and beta == alpha == 1 and not kwargs
        if plain and is_signal(a) and not (is_signal(b) or is_signal(term)):
            return self._layer(LayerCall(F.linear, b.t(), term), a)
        if kwargs:
            raise NotImplementedError(f"lrp: {name} has no rule with {', '.join(kwargs)}=")
        with self:
            product = a @ b
            product = product.sum(0) if name == "addbmm" else product
            product = product if alpha == 1 else alpha * product
            # Where beta is 0, the term counts as 0 even if it is not a number.
            return product if beta == 0 else product + (term if beta == 1 else beta * term)

    def _folded(
        self,
        y: Tensor,
        mean: Tensor | None,
        var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Any:
        """A batch norm of a layer's outputs, as one layer; None where it cannot be folded."""
        x, layer = self.made_by[y]
        transposed = "transpose" in layer.function.__name__
        if training or transposed or mean is None or var is None:
            return None
        scale = (var + eps).rsqrt()
        scale = scale if weight is None else scale * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        return self._layer(layer.scaled(scale, shift), x)

    def _attention(
        self, func: Function, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kw: Any
    ) -> Any:
        q, k = q.detach(), k.detach()
        if not v.requires_grad:
            return func(q, k, v, *args, **kw)
        return self._in_proportion(lambda x: func(q, k, x, *args, **kw), v)

    def _binary(self, name: str, func: Function, a: Any, b: Any, **kwargs: Any) -> Any:
        """Sums, products, quotients and maxima of two signals, or of a signal and a constant."""
        if name in functions.QUOTIENTS and is_signal(b):
            b = b.detach()  # a scale
            if not is_signal(a):
                return func(a, b, **kwargs)
        both = is_signal(a) and is_signal(b)
        x = a if is_signal(a) else b

        def of_one(x: Tensor) -> Any:
            return func(x, b, **kwargs) if is_signal(a) else func(a, x, **kwargs)

        if name in functions.MATRIX_PRODUCTS:
            if both:
                return self._in_proportion(lambda p, q: func(p, q, **kwargs), a, b, scale=0.5)
            return self._in_proportion(of_one, x)
        if both and name in functions.SUMS:
            out_of_place = torch.add if "add" in name else torch.sub
            first, second = (b, a) if name == "rsub" else (a, b)
            return self._in_proportion(lambda p, q: out_of_place(p, q, **kwargs), first, second)
        if both and name in functions.PRODUCTS:
            return Halves.apply(a, b)
        if both:  # a maximum
            return func(a, b, **kwargs)
        other = b if is_signal(a) else a
        shape = torch.broadcast_shapes(x.shape, getattr(other, "shape", ()))
        if shape != x.shape:  # spread first, so that relevance of the copies adds up
            x = x.expand(shape)
        return Unchanged.apply(x, of_one)


def _is_weight(value: Any) -> bool:
    """Whether the second factor of a product makes it a linear layer: a constant matrix [inputs, outputs]."""
    return isinstance(value, Tensor) and value.ndim == 2 and not is_signal(value)


def _detached(out: Any) -> Any:
    if isinstance(out, Tensor):
        return out.detach()
    return type(out)([t.detach() for t in out])
