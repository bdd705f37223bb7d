"""Random layers that several tests use, and what their orders of elimination must be."""

import torch

from spade_ext import obc_trace


def layer(rows, cols, seed=0, samples=None, dtype=torch.float64):
    """Weights [rows, cols] and the Hessian of correlated, rectified inputs."""
    generator = torch.Generator().manual_seed(seed * 1000 + cols)
    samples = cols + 50 if samples is None else samples
    x = torch.randn(samples, cols, dtype=torch.float64, generator=generator).relu()
    mix = torch.randn(cols, cols, dtype=torch.float64, generator=generator) / max(1, cols) ** 0.5
    x = x + 0.3 * x @ mix
    weight = torch.randn(rows, cols, dtype=torch.float64, generator=generator)
    return weight.to(dtype), (x.T @ x).to(dtype)


def assert_same_order(order, loss, expected, expected_loss, rtol=1e-5):
    """Each row's order is as expected up to a step whose scores differ by less than rtol: the rest follows from it."""
    for r in range(len(order)):
        differs = order[r].cpu().long() != expected[r]
        if differs.any():
            first = int(differs.nonzero()[0])
            torch.testing.assert_close(
                loss[r, first].cpu().double(), expected_loss[r, first], rtol=rtol, atol=0
            )


def relative(got, expected):
    """||got - expected|| / ||expected||."""
    return float((got.double().cpu() - expected).norm() / expected.norm().clamp_min(1e-30))


def grouped(groups, rows, cols, dtype=torch.float32):
    """Weights [groups, rows, cols] and a Hessian for each group."""
    parts = [layer(rows, cols, seed=g, dtype=dtype) for g in range(groups)]
    return torch.stack([w for w, _ in parts]), torch.stack([h for _, h in parts])


def assert_as_alone(trace, weight, h, **options):
    """Each group's order and losses, and weights for these counts, are those of obc_trace of the group alone."""
    counts = torch.randint(
        0, trace.order.shape[2] + 1, weight.shape[:2], generator=torch.Generator().manual_seed(0)
    )
    pruned = trace.prune_rows(counts.to(trace.order.device))
    for g in range(len(weight)):
        alone = obc_trace(weight[g], h[g], **options)
        assert torch.equal(trace.order[g], alone.order)
        for name in ("loss", "weight", "hessian", "hinv"):
            got = getattr(trace, name)[g]
            assert torch.allclose(got.to(alone.loss.dtype), getattr(alone, name), rtol=1e-5)
        expected = alone.prune_rows(counts[g].to(alone.order.device))
        assert torch.allclose(pruned[g].to(expected.dtype), expected, rtol=1e-4, atol=1e-6)
