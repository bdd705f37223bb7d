"""Random layers that several tests use, and what their orders of elimination must be."""

import torch


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
