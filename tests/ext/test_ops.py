"""The ops as torch.library sees them: schemas, fake kernels, torch.compile."""

import pytest
import torch
from problems import layer
from torch._subclasses import FakeTensorMode

import spade_ext

WEIGHT, HESSIAN = layer(4, 16, dtype=torch.float32)
OPS = torch.ops.spade_ext


@pytest.mark.parametrize(
    "op, arguments",
    [
        (OPS.hessian, (torch.randn(9, 5), [], [], [], [], 1, "zeros", "auto", "default", 0)),
        (OPS.hessian, (torch.randn(2, 4, 6, 6).double(), [3, 2], [1, 2], [1, 1, 0, 0], [1, 1], 2,
                       "zeros", "direct", "default", 1)),
        (OPS.damped_inverse, (HESSIAN, 0.01, 0)),
        (OPS.obc_trace, (WEIGHT, HESSIAN, 2, 0.01, 0)),
        (OPS.obc_prune, (WEIGHT, HESSIAN, 0.5, None, None, None, 0.01, 0)),
        (OPS.obc_prune, (WEIGHT.half(), HESSIAN, 0.0, 2, 4, None, 0.01, 0)),
        (OPS.sparsegpt_prune, (WEIGHT, HESSIAN, 0.5, 4, None, None, 0.01, 0)),
        (OPS.sparsegpt_prune, (WEIGHT, HESSIAN.expand(3, 16, 16), 0.0, 4, 2, 4, 0.01, 0)),
    ],
)  # fmt: skip
def test_opcheck(op, arguments):
    torch.library.opcheck(op.default, arguments)


def test_compiles_as_one_graph():
    def prune(x, images, weight):
        h = spade_ext.hessian(x)
        conv = spade_ext.hessian(images, kernel_size=3, padding="same")
        exact = spade_ext.obc_prune(weight, h, 0.5)
        return exact + spade_ext.sparsegpt_prune(weight, h, 0.5, block_size=4), conv * 2

    arguments = torch.randn(40, 16), torch.randn(2, 3, 5, 5), WEIGHT
    compiled = torch.compile(prune, fullgraph=True, backend="aot_eager")
    for got, expected in zip(compiled(*arguments), prune(*arguments), strict=True):
        assert torch.equal(got, expected)


def test_the_damping_of_cuda_tensors_is_on_the_cpu():
    with FakeTensorMode():
        h = torch.empty(4, 4, device="cuda")
        inverse, used = torch.ops.spade_ext.damped_inverse(h, 0.01, 0)
    assert inverse.device.type == "cuda" and used.device.type == "cpu"
