"""Fuzz of trace: random models, options, methods, dtypes and shapes, with losses and masks computed again in float64.

SPADE_FUZZ_CALLS is how many traces are made (60 by default), SPADE_FUZZ_SEED where to start (0): the same seed makes
the same traces.
"""

import copy
import math
import random
import warnings
from collections import Counter

import torch
from random_models import CALLS, KINDS, SEED, Unchanged, random_model
from torch.nn import functional as F

from spade_ext import DampingWarning, reference
from spade_xai import load_trace, schedule, trace, trace_many
from spade_xai.exceptions import SparsityWarning, UnfaithfulTraceWarning
from spade_xai.models.layers import find_layers
from spade_xai.tracing.augment import augmented
from spade_xai.tracing.pruning.sparsegpt import block_width


def noise(batch):
    return batch + 0.3 * torch.randn_like(batch)


def options_of(draw, method, layers):
    """Options of a trace, any of which may be drawn with any other."""
    usable = [layer.name for layer in layers if not layer.depthwise]
    ratio = draw.choice([0.0, 0.3, 0.5, 0.9, 1.0, draw.random()])
    options = {
        "method": method,
        "sparsity": draw.choice(
            [ratio, ratio, schedule.linear(0.95), {"*": 0.4, usable[-1]: ratio}, "faithful"]
        ),
        "augment": draw.choice([None, noise]),
        "augmentations": draw.randint(1, 40),
        "batch_size": draw.randint(1, 12),
        "depthwise": draw.random() < 0.5,
        "damp": draw.choice([0.01, 0.01, 0.1, 1e-3]),
        "seed": draw.randrange(1000),
    }
    if draw.random() < 0.2:
        options["layers"] = usable[-1]
        if isinstance(options["sparsity"], dict):
            options["sparsity"] = ratio
    return options


def inputs_of(model, layers, x):
    """What each layer multiplies with, float64: the inputs of its module."""
    found, hooks = {}, []
    for layer in layers:
        hooks.append(
            model.get_submodule(layer.name).register_forward_pre_hook(
                lambda _, args, name=layer.name: found.__setitem__(name, args[0].double())
            )
        )
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return found


def energy(module, weight, x):
    """||W X||^2 in float64, by the layer's own function instead of its Hessian."""
    if isinstance(module, torch.nn.Linear):
        return float(F.linear(x, weight).square().sum())
    convolve = {1: F.conv1d, 2: F.conv2d}[weight.ndim - 2]
    y = convolve(x, weight, None, module.stride, module.padding, module.dilation, module.groups)
    return float(y.square().sum())


def hessian_of(module, x):
    """X X^T in float64 of a layer without groups."""
    if isinstance(module, torch.nn.Linear):
        return reference.hessian(x)
    geometry = [module.kernel_size, module.stride, module.padding, module.dilation]
    if len(module.kernel_size) == 1:
        x = x[:, :, None]
        geometry = [(a, *v) for a, v in zip((1, 1, 0, 1), geometry, strict=True)]
    names = ("kernel_size", "stride", "padding", "dilation")
    return reference.hessian(x, **dict(zip(names, geometry, strict=True)))


def dead_weights(module, x):
    """How many weights multiply only zeros: they may go beyond what is asked."""
    weight = module.weight.detach().double()
    dead = 0
    for index in range(weight[0].numel()):
        one = torch.zeros_like(weight).flatten(1)
        one[:, index] = 1
        one = one.reshape(weight.shape)
        if isinstance(module, torch.nn.Linear):
            live = F.linear(x, one).flatten(0, -2)
        else:
            convolve = {1: F.conv1d, 2: F.conv2d}[weight.ndim - 2]
            y = convolve(
                x, one, None, module.stride, module.padding, module.dilation, module.groups
            )
            live = y.transpose(0, 1).flatten(1).T
        dead += int((live == 0).all(0).sum())
    return dead


def least_zeros(method, layer, ratio):
    """The zeros that the method gives for a ratio."""
    rows, whole = layer.rows // layer.groups, 1e-9
    if method == "magnitude":
        return int(ratio * layer.numel + whole)
    if method == "obc":
        return math.ceil((ratio - whole) * layer.numel)
    width = block_width(layer, ratio)
    starts = range(0, layer.cols, width)
    blocks = [min(width, layer.cols - start) * rows for start in starts]
    return layer.groups * sum(int(ratio * size + whole) for size in blocks)


def check_layer(layer, report, dense, sparse, mask, x, method, loose):
    module, pruned = dense.get_submodule(layer.name), sparse.get_submodule(layer.name)
    weight, kept = module.weight.detach().double(), pruned.weight.detach().double()
    assert kept.isfinite().all() and pruned.weight.dtype == module.weight.dtype
    assert torch.equal(mask, kept != 0) and mask.shape == weight.shape
    zeros = int((kept == 0).sum())
    assert abs(report.sparsity_got - zeros / layer.numel) < 1e-9
    asked = least_zeros(method, layer, report.sparsity_asked)
    extra = 0 if method == "magnitude" else dead_weights(module, x)
    assert asked <= zeros <= asked + extra, (asked, zeros, extra)
    loss, whole = energy(module, weight - kept, x), energy(module, weight, x)
    assert abs(report.loss - loss) <= loose * (loss + 0.02 * whole) + 1e-12, (report.loss, loss)
    if whole > 0:
        assert abs(report.relative_loss - loss / whole) <= loose * (loss / whole + 0.02) + 1e-12
    if method != "magnitude" and layer.groups == 1 and loose < 0.01:
        check_against_reference(layer, report, weight, kept, hessian_of(module, x), method)


def check_against_reference(layer, report, weight, kept, h, method):
    """The damped error is that of the float64 reference, up to ties of the order."""
    weight, kept = weight.flatten(1), kept.flatten(1)
    options = {"damp": report.damp}
    if method == "sparsegpt":
        options["block_size"] = block_width(layer, report.sparsity_asked)
    prune = reference.obc_prune if method == "obc" else reference.sparsegpt_prune
    expected = prune(weight, h, report.sparsity_asked, **options)
    live = h.diagonal() > 0
    ridge = report.damp * torch.where(live, h.diagonal(), 1.0).mean()
    damped = h + ridge * torch.eye(len(h), dtype=h.dtype)

    def error(w):
        change = (w - weight) * live
        return float((change @ damped * change).sum())

    assert error(kept) <= 1.05 * error(expected) + 1e-6 * error(torch.zeros_like(weight))


def one(draw, method, path):
    model, shape = random_model(draw, draw.choice(KINDS))
    dtype = draw.choice([torch.float32, torch.float32, torch.float64, torch.bfloat16])
    model = model.to(dtype).train(draw.random() < 0.3)
    layers = find_layers(model)
    options = options_of(draw, method, layers)
    options["progress"] = False
    rows = draw.randint(1, 6) if options["augment"] is None else draw.randint(1, 2)
    sample = torch.randn(rows, *shape).to(dtype)
    same = Unchanged(model, sample)
    form = draw.choice(["trace", "trace", "sequential", "many"])
    if form == "many":
        (result,) = trace_many(model, [sample], group=draw.randint(1, 3), **options)
    else:
        result = trace(model, sample, sequential=form == "sequential", **options)
    same.check()
    if draw.random() < 0.3:
        result.save(path)
        again = load_trace(path, model)
        assert again.layers == result.layers
        for name, mask in again.masks().items():
            assert torch.equal(mask, result.masks()[name])
        result = again
    variants = augmented(
        "fuzz", sample, options["augment"], options["augmentations"], options["seed"]
    )
    sparse, dense = result.model, copy.deepcopy(model).eval()
    reads = inputs_of(sparse if form == "sequential" else dense, layers, torch.cat(list(variants)))
    masks, reports = result.masks(), {report.name: report for report in result.layers}
    assert set(masks) == {
        name for name, report in reports.items() if report.status in ("pruned", "damped")
    }
    loose = 0.1 if dtype == torch.bfloat16 else 1e-3
    for layer in layers:
        name = layer.name
        if name in masks:
            check_layer(
                layer, reports[name], dense, sparse, masks[name], reads[name], method,
                loose,
            )  # fmt: skip
        else:
            assert torch.equal(sparse.get_submodule(name).weight, model.get_submodule(name).weight)
    return method


def test_traces_agree_with_float64(tmp_path):
    seen, names = Counter(), ["obc", "sparsegpt", "magnitude"]  # those that the checks above know
    for number in range(SEED, SEED + CALLS):
        torch.manual_seed(number)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for told in (UnfaithfulTraceWarning, SparsityWarning, DampingWarning):
                warnings.simplefilter("ignore", told)
            try:
                seen[
                    one(
                        random.Random(number),
                        names[number % len(names)],
                        tmp_path / "trace.safetensors",
                    )
                ] += 1
            except Exception as error:
                raise AssertionError(f"trace {number}: {error}") from error
    print(dict(seen))
