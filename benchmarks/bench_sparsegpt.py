"""SparseGPT against the published column loop, and batched over samples."""

import pytest
import torch

from spade_ext import hessian, reference, sparsegpt_prune

SHAPES = {  # rows, columns, block_size
    "conv-256x2304": (256, 2304, 9),
    "fc-1000x2048": (1000, 2048, 1),
    "fc-1000x2048-128": (1000, 2048, 128),
}
SPARSITY = 0.9


def problem(rows, columns, samples=1):
    generator = torch.Generator().manual_seed(columns)
    x = torch.randn(samples, columns + columns // 4, columns, generator=generator).relu()
    return torch.randn(rows, columns, generator=generator), torch.stack([hessian(s) for s in x])


def flop(rows, columns, samples=1):
    return samples * (columns**3 / 3 + rows * columns**2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.benchmark(group="sparsegpt_prune")
def test_sparsegpt(benchmark, record, shape):
    rows, columns, block_size = SHAPES[shape]
    weight, h = problem(rows, columns)
    pruned = sparsegpt_prune(weight, h[0], SPARSITY, block_size=block_size)
    for block in pruned.split(block_size, dim=1):
        assert int((block == 0).sum()) == int(SPARSITY * block.numel() + 1e-6)
    benchmark.pedantic(
        sparsegpt_prune, (weight, h[0], SPARSITY), {"block_size": block_size}, rounds=7
    )
    record(flop=flop(rows, columns))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.benchmark(group="sparsegpt: the published column loop in torch")
def test_published(benchmark, record, shape):
    rows, columns, block_size = SHAPES[shape]
    weight, h = problem(rows, columns)
    arguments = (weight, h[0], SPARSITY, 0, 0, block_size)
    expected = benchmark.pedantic(reference.fasterprune, arguments, rounds=1, warmup_rounds=0)
    ours = sparsegpt_prune(weight, h[0], SPARSITY, block_size=block_size)
    error = [((w - weight) @ h[0] * (w - weight)).sum().item() for w in (ours, expected)]
    record(error_of_layer=error[1], error_of_layer_spade=error[0])


@pytest.mark.parametrize("samples", [1, 8])
@pytest.mark.benchmark(group="sparsegpt_prune batched over samples, 256 x 1152, block 9")
def test_batch(benchmark, record, samples):
    weight, h = problem(256, 1152, samples)
    batch = sparsegpt_prune(weight, h, SPARSITY, block_size=9)
    assert torch.equal(batch[-1], sparsegpt_prune(weight, h[-1], SPARSITY, block_size=9))
    benchmark.pedantic(sparsegpt_prune, (weight, h, SPARSITY), {"block_size": 9}, rounds=7)
    record(flop=flop(256, 1152, samples))
