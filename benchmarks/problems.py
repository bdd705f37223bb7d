"""Random layers to prune: weights and the Hessians of rectified inputs."""

import torch

from spade_ext import hessian


def pruning_problem(rows, cols, samples=1, device="cpu"):
    """Weights [R, D] and Hessians [S, D, D] of 1.25 D random inputs each."""
    generator = torch.Generator().manual_seed(cols)
    weight = torch.randn(rows, cols, generator=generator)
    inputs = torch.randn(samples, cols + cols // 4, cols, generator=generator).relu()
    return weight.to(device), torch.stack([hessian(x.to(device)) for x in inputs])
