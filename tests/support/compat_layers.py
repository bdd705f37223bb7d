"""Layers and inputs for the tests of compat, and the inputs and weights as the published classes see them."""

import torch
from torch import nn
from torch.nn import functional as F

from spade_ext.reference import published


class Conv1D(nn.Module):
    """The linear layer of transformers' GPT-2: weight [in, out]."""

    def __init__(self, outputs, inputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))


def columns(module, x):
    """Inputs of the layer as the published classes see them: X [groups, D, N]."""
    if isinstance(module, nn.Conv2d):
        patches = F.unfold(x, module.kernel_size, module.dilation, module.padding, module.stride)
        return patches.unflatten(1, (module.groups, -1)).permute(1, 2, 0, 3).flatten(2)
    return x.reshape(-1, x.shape[-1]).T[None]


def running_hessian(module, batches, matrix_is_one_sample=True):
    """[groups, D, D] in float64."""
    grouped = []
    for x in batches:
        count = 1 if x.ndim == 2 and matrix_is_one_sample else len(x)
        grouped.append([(part, count) for part in columns(module, x.double())])
    return torch.stack([published.running_hessian(group) for group in zip(*grouped, strict=True)])


CASES = {
    "linear": (lambda: nn.Linear(24, 10), lambda: torch.randn(6, 15, 24)),
    "rows": (lambda: nn.Linear(24, 10), lambda: torch.randn(80, 24)),
    "conv": (lambda: nn.Conv2d(4, 6, 3, padding=1), lambda: torch.randn(5, 4, 6, 6)),
    "groups": (lambda: nn.Conv2d(8, 6, 3, groups=2), lambda: torch.randn(5, 8, 8, 8)),
    "Conv1D": (lambda: Conv1D(10, 24), lambda: torch.randn(6, 15, 24)),
}


def as_rows(module):
    weight = module.weight.detach()
    return weight.T if isinstance(module, Conv1D) else weight.flatten(1)


def assert_same_weights(weight, expected):
    torch.testing.assert_close(weight.double(), expected, rtol=1e-3, atol=1e-5)
    assert torch.equal(weight == 0, expected == 0)
