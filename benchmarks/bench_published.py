"""The published classes and ours on the same tensors; needs --published PATH, a checkout of the SPADE code."""

import functools
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from benchmarks.published import load_published, running
from spade_ext import compat

OURS = {
    "trueobs": compat.TrueOBS,
    "sparsegpt": compat.SparseGPT,
    "batched": compat.BatchSparseGPT,
}
SPARSITY = 0.9


@dataclass(frozen=True)
class Case:
    """A class on a layer.

    Attributes:
        kind: As in published.CLASSES.
        rows: Outputs.
        channels: Inputs.
        kernel: Taps along one side; 0 for a linear layer.
        samples: Pruned together.
    """

    kind: str
    rows: int
    channels: int
    kernel: int = 0
    samples: int = 1

    @property
    def counts(self) -> tuple[int, ...]:
        """Arguments of the constructor beside the layer."""
        return (self.samples,) if self.kind == "batched" else ()

    def layer(self) -> nn.Module:
        """The layer, always with the same weights."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            if self.kernel:
                return nn.Conv2d(self.channels, self.rows, self.kernel, padding=1, bias=False)
            return nn.Linear(self.channels, self.rows, bias=False)

    def inputs(self, sample: int) -> torch.Tensor:
        """Inputs of the layer, more columns than D."""
        generator = torch.Generator().manual_seed(sample)
        shape = (2 * self.channels, self.channels)
        if self.kernel:
            shape = (1 + 2 * 9 * self.channels // 196, self.channels, 14, 14)
        return torch.randn(shape, generator=generator).relu()


CASES = {
    "trueobs-conv-16x576": Case("trueobs", 16, 64, 3),
    "sparsegpt-conv-128x1152": Case("sparsegpt", 128, 128, 3),
    "sparsegpt-linear-1000x512": Case("sparsegpt", 1000, 512),
    "batched-conv-64x576": Case("batched", 64, 64, 3, samples=4),
}
SMALL = {
    "trueobs": Case("trueobs", 6, 3, 3),
    "sparsegpt": Case("sparsegpt", 16, 8, 3),
    "batched": Case("batched", 16, 8, 3, samples=2),
}


@pytest.fixture
def published(suite):
    """The published classes; without them there is nothing to compare with."""
    if suite.published is None or suite.device != "cpu":
        pytest.skip("needs --published PATH, on the CPU")
    return load_published(suite.published)


def add(made, case):
    """Give the object each sample's inputs, and itself back."""
    for sample in range(case.samples):
        x = case.inputs(sample)
        made.add_batch(x, case.layer()(x).detach())
        if case.kind == "batched":
            made.inc_model_counter()
    return made


def prune(made, case):
    """Weights [samples, R, D] that the object gives."""
    if case.kind == "trueobs":
        made.prepare_unstr()
        return torch.stack(made.prune_unstr([SPARSITY]))
    blocks = case.kernel**2 or 1
    if case.kind == "sparsegpt":
        made.fasterprune(SPARSITY, blocksize=blocks)
        return made.layer.weight.detach().flatten(1)[None]
    layers = [case.layer() for _ in range(case.samples)]
    made.fasterprune(SPARSITY, layers, blocksize=blocks)
    return torch.stack([layer.weight.detach().flatten(1) for layer in layers])


def make_published(published, case):
    """The published class's object."""
    return published.make(case.kind, case.layer(), *case.counts)


def make_ours(published, case):
    """Our class's object."""
    return OURS[case.kind](case.layer(), *case.counts)


MAKE = {"published": make_published, "spade": make_ours}


@functools.cache
def same_mask(path, case):
    """Share of the weights that both keep or both prune."""
    published = load_published(path)
    with running():
        theirs, ours = (prune(add(make(published, case), case), case) for make in MAKE.values())
    return ((theirs != 0) == (ours != 0)).float().mean().item()


@pytest.mark.parametrize("stage", ["hessian", "prune"])
@pytest.mark.parametrize("whose", MAKE)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.benchmark(group="published code")
def test_published(measure, suite, published, name, whose, stage):
    case = CASES[name]
    case = SMALL[case.kind] if suite.check else case
    if case.kind not in published.classes:
        pytest.skip(f"the checkout has no class for {case.kind}")
    same = same_mask(suite.published, case)
    assert same > 0.99
    make = functools.partial(MAKE[whose], published, case)
    info = {"problem": name, "method": whose, "stage": stage, "same_mask": same}
    with running():
        if stage == "hessian":
            measure(lambda: add(make(), case), **info)
        else:  # pruning uses the sums up
            ready = add(make(), case)
            measure(lambda: prune(ready, case), once=True, **info)
