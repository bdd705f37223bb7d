"""Fuzz of the ops on tensors: random sizes, dtypes, strides, scales and patterns against the float64 reference.

SPADE_FUZZ_CALLS is how many calls are made (100 by default), SPADE_FUZZ_SEED where to start (0): the same seed makes
the same calls. An op may refuse what leaves the range of its dtype; everything else must be right.
"""

import os
import random
from collections import Counter

import torch

from spade_ext import (
    damped_inverse,
    hessian,
    obc_prune,
    obc_trace,
    reference,
    sparsegpt_prune,
)

CALLS = int(os.environ.get("SPADE_FUZZ_CALLS", "100"))
SEED = int(os.environ.get("SPADE_FUZZ_SEED", "0"))
SCALES = [1.0, 1.0, 1.0, 1e-35, 1e-20, 1e-10, 1e10, 1e20, 1e35]
TINY = 1e-30


def strided(draw, x):
    """The same numbers in other memory: as they are, transposed, with gaps, or one dimension reversed twice."""
    kind = draw.randrange(4)
    if kind == 1:
        return x.mT.contiguous().mT
    if kind == 2:
        gaps = x.new_full((*x.shape[:-1], 2 * x.shape[-1]), torch.nan)
        gaps[..., ::2] = x
        return gaps[..., ::2]
    return x[None].expand(2, *x.shape)[1] if kind == 3 else x


def layer(draw):
    """Weights [R, D] of some scale and dtype, and H of a ridge, so that no order hangs on the last digit alone."""
    rows, cols = draw.randint(1, 12), draw.choice([1, 2, 4, 7, 8, 12, 16, 33, 40])
    x = torch.randn(3 * cols, cols, dtype=torch.float64)
    h = x.T @ x
    if draw.random() < 0.2:
        h[cols // 2] = h[:, cols // 2] = 0  # a dead column
    dtype = draw.choice([torch.float32, torch.float32, torch.float64])
    weight = torch.randn(rows, cols, dtype=torch.float64).to(dtype) * draw.choice(SCALES)
    return strided(draw, weight), strided(draw, h.to(draw.choice([dtype, torch.float64])))


def pattern_of(draw, cols, blocks):
    """Options of an op: unstructured, n:m or blocks."""
    divisors = [m for m in range(1, cols + 1) if cols % m == 0]
    kind = draw.randrange(3)
    if kind == 1:
        m = draw.choice(divisors)
        return {"n": draw.randint(0, m), "m": m}
    sparsity = draw.choice([0.0, 0.3, 0.5, 0.9, 1.0, draw.random()])
    if kind == 2 and blocks:
        return {"sparsity": sparsity, "block": draw.choice(divisors)}
    return {"sparsity": sparsity}


def error_of(pruned, weight, h):
    """tr((W - W') H (W - W')^T) at the scale of the weights, damped as the ops damp."""
    scale = float(weight.abs().max()) or 1.0
    change = (pruned.double() - weight) / scale
    dead = h.diagonal() == 0
    damped = h + torch.diag(dead.double() + 0.01 * torch.where(dead, 1.0, h.diagonal()).mean())
    change[:, dead] = 0
    return float((change @ damped * change).sum())


def check_pruned(op, expected, weight, h, slack):
    assert torch.isfinite(op).all() and op.dtype == weight.dtype and op.shape == weight.shape
    assert int((op == 0).sum()) == int((expected == 0).sum())
    wide = weight.double()
    assert error_of(op, wide, h) <= slack * error_of(expected, wide, h) + 1e-9


def fuzz_hessian(draw):
    scale = draw.choice([1.0, 1.0, 1e-24, 1e-17, 1e-10, 1e10, 1e17, 1e20])
    dtype = draw.choice([torch.float32, torch.float64, torch.bfloat16])
    kernel = {}
    if draw.random() < 0.5:
        channels = draw.choice([1, 2, 4, 6])
        x = torch.randn(draw.randint(1, 3), channels, draw.randint(1, 8), draw.randint(1, 8))
        kernel = {
            "kernel_size": (draw.randint(1, 3), draw.randint(1, 3)), "stride": draw.randint(1, 2),
            "padding": draw.randint(0, 2), "groups": draw.choice([1, channels]),
        }  # fmt: skip
    else:
        x = torch.randn(draw.randint(1, 40), draw.choice([1, 3, 16, 50]))
    x = strided(draw, (x * scale).to(dtype))
    if kernel and any(
        x.shape[2 + i] + 2 * kernel["padding"] < kernel["kernel_size"][i] for i in (0, 1)
    ):
        kernel["padding"] = 2
    expected = reference.hessian(x.double(), **kernel)
    result = torch.float64 if dtype == torch.float64 else torch.float32
    most = float(expected.max())
    try:
        h = hessian(x, **kernel)
    except ValueError as error:
        limits = torch.finfo(result)
        assert most > limits.max or most < limits.tiny, error
        return "refused"
    assert h.dtype == result
    tolerance = 1e-12 if result == torch.float64 else 2e-6
    assert float((h.double() - expected).abs().max()) <= tolerance * max(most, TINY**2)
    return "right"


def fuzz_damped_inverse(draw):
    _, h = layer(draw)
    h = h * draw.choice([1.0, 1e-12, 1e12])
    expected, _ = reference.damped_inverse(h.double(), 0.01)
    inverse, used = damped_inverse(h, 0.01)
    assert used == 0.01
    tolerance = 1e-10 if h.dtype == torch.float64 else 1e-4
    assert float((inverse.double() - expected).abs().max()) <= tolerance * float(expected.max())
    return "right"


def fuzz_obc_prune(draw):
    weight, h = layer(draw)
    options = pattern_of(draw, weight.shape[1], blocks=True)
    expected = reference.obc_prune(weight.double(), h.double(), **options)
    check_pruned(obc_prune(weight, h, **options), expected, weight, h.double(), 1 + 1e-3)
    return "right"


def fuzz_obc_trace(draw):
    weight, h = layer(draw)
    trace = obc_trace(weight, h)
    order = trace.order.long().sort(1).values
    assert torch.equal(order, torch.arange(weight.shape[1]).expand_as(order))
    sparsity = draw.random()
    expected = obc_prune(weight, h, sparsity)
    assert torch.equal(trace.prune(sparsity).to(weight.dtype), expected)
    return "right"


def fuzz_sparsegpt_prune(draw):
    weight, h = layer(draw)
    options = pattern_of(draw, weight.shape[1], blocks=False)
    if "sparsity" in options:
        options["block_size"] = draw.choice([1, 3, 8, 128])
    expected = reference.sparsegpt_prune(weight.double(), h.double(), **options)
    check_pruned(sparsegpt_prune(weight, h, **options), expected, weight, h.double(), 1 + 2e-2)
    return "right"


OPS = [fuzz_hessian, fuzz_damped_inverse, fuzz_obc_prune, fuzz_obc_trace, fuzz_sparsegpt_prune]


def test_calls_agree_with_the_reference():
    seen = Counter()
    for number in range(SEED, SEED + CALLS):
        draw = random.Random(number)
        torch.manual_seed(number)
        op = draw.choice(OPS)
        try:
            seen[op.__name__, op(draw)] += 1
        except Exception as error:
            raise AssertionError(f"call {number} of {op.__name__}: {error}") from error
    print(dict(seen))
    if CALLS >= 100:
        assert {name for name, _ in seen} == {op.__name__ for op in OPS}
