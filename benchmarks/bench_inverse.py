"""The damped inverse of Hessians of real layers, against torch."""

import pytest
import torch

from benchmarks.costs import damped_inverse as cost
from benchmarks.problems import pruning_problem
from benchmarks.suite import Reference
from spade_ext import damped_inverse

COLUMNS = [768, 1152, 2304, pytest.param(4608, marks=pytest.mark.full)]


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.benchmark(group="damped inverse")
def test_inverse(measure, suite, columns):
    columns = 96 if suite.check else columns
    _, (h,) = pruning_problem(1, columns, device=suite.device)
    inverse, damp = damped_inverse(h)
    damped = h.double() + damp * h.diagonal().mean() * torch.eye(columns, device=suite.device)
    eye = torch.eye(columns, dtype=torch.float64, device=suite.device)
    residual = ((damped @ inverse.double() - eye).norm() / columns**0.5).item()
    assert residual < 1e-2

    def by_torch():
        return torch.cholesky_inverse(torch.linalg.cholesky(damped)).float()

    measure(
        lambda: damped_inverse(h),
        cost(columns),
        reference=Reference("Cholesky + inverse", by_torch),
        memory=True,
        residual=residual,
        op="damped_inverse",
        problem=f"D = {columns}",
    )
