"""Layers of a LLaMA of 7 billion weights: SparseGPT beside the published class, and prune_model with its memory."""

import functools
from typing import Any

import pytest
import torch
from torch import nn

import spade_ext
from benchmarks import machine
from benchmarks.problems import pruning_problem
from benchmarks.published import load_published, running
from benchmarks.suite import Reference
from spade_ext import compat

LAYERS = {  # R, D
    "attention, 4096 x 4096": (4096, 4096),
    "MLP, 4096 x 11008": (4096, 11008),
}
SPARSITY = 0.5
BLOCK = 128
TOKENS = 2048  # of one sequence
SEQUENCES = 8  # of prune_model's calibration; a class is given half of them


def shape_of(name: str, check: bool) -> tuple[int, int]:
    """R and D; small ones to check with."""
    return (16, 96) if check else LAYERS[name]


def linear(rows: int, cols: int) -> nn.Linear:
    """The layer, always with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(cols, rows, bias=False)


@functools.cache
def hessian_of(rows: int, cols: int) -> torch.Tensor:
    """The Hessian that both classes prune for."""
    return pruning_problem(1, cols)[1][0]


def sequence(cols: int, tokens: int, seed: int = 0) -> torch.Tensor:
    """Inputs of the layer, [1, T, D]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, tokens, cols, generator=generator).relu()


@pytest.mark.full
@pytest.mark.parametrize("stage", ["hessian", "prune"])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.benchmark(group="published code, wide layers")
def test_class(measure, suite, benchmark, name, stage):
    if suite.published is None or suite.device != "cpu":
        pytest.skip("needs --published PATH, on the CPU")
    published = load_published(suite.published)
    if "sparsegpt" not in published.classes:
        pytest.skip("the checkout has no class SparseGPT")
    rows, cols = shape_of(name, suite.check)
    tokens = 200 if suite.check else TOKENS
    x = sequence(cols, tokens)
    output = x.new_zeros(1, tokens, rows)  # which no class reads
    left: dict[str, torch.Tensor] = {}

    def run(whose: str) -> None:
        layer = linear(rows, cols)
        made = (
            published.make("sparsegpt", layer) if whose == "published" else compat.SparseGPT(layer)
        )
        if stage == "hessian":
            for _ in range(SEQUENCES // 2):
                made.add_batch(x, output)
            left[whose] = made.H
            return
        made.H = hessian_of(rows, cols).clone()
        made.fasterprune(SPARSITY, blocksize=BLOCK)
        left[whose] = layer.weight.detach()

    hessian_of(rows, cols)
    size = f"{tokens * SEQUENCES // 2} tokens" if stage == "hessian" else f"blocks of {BLOCK}"
    with running():
        reference = Reference("published code", lambda: run("published"))
        measure(
            lambda: run("ours"),
            once=True,
            reference=reference,
            problem=f"sparsegpt, {name}, {size}",
            stage=stage,
        )
    theirs, ours = left["published"], left["ours"]
    if stage == "hessian":
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))
        return
    same = float(((theirs == 0) == (ours == 0)).double().mean())
    assert same > 0.99
    benchmark.extra_info["same_mask"] = same


@pytest.mark.full
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.benchmark(group="prune_model, wide layers")
def test_prune_model(measure, suite, benchmark, name):
    rows, cols = shape_of(name, suite.check)
    model = linear(rows, cols).to(suite.device)
    tokens = 20 if suite.check else TOKENS
    batches = [sequence(cols, tokens, seed).to(suite.device) for seed in range(SEQUENCES)]
    seen: dict[str, Any] = {}

    def prune() -> None:
        seen["peak"] = machine.peak_extra_bytes(
            lambda: seen.update(report=spade_ext.prune_model(model, batches, SPARSITY)),
            suite.device,
        )

    measure(prune, once=True)
    (layer,) = seen["report"]
    assert layer.status == "pruned" and abs(layer.sparsity - SPARSITY) < 1e-3
    benchmark.extra_info.update(
        wide_layer=name,
        rows=rows,
        columns=cols,
        tokens=tokens * SEQUENCES,
        peak_extra_bytes=seen["peak"],
        prune_seconds=layer.seconds,
        relative_loss=layer.relative_loss,
    )
