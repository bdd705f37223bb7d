"""Random layers that several tests use."""

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
