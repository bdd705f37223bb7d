"""Memory that pruning on a CUDA device takes, beside what was planned; on the fake device.

SPADE_CUDA_LIBRARY names the emulated backend (the target spade_cuda_emulated of tests/cuda).
"""

import pytest
import torch
from test_cuda_calls import memory_of_calls
from test_cuda_traces import placed
from torch import nn

from spade_ext import files as _files
from spade_xai import trace, tune
from spade_xai.models.layers import find_layers
from spade_xai.tracing.memory import plan_memory
from spade_xai.tracing.pruning.method import hessian_bytes
from spade_xai.tracing.pruning.registry import PRUNING_METHODS


@pytest.mark.parametrize("method", ["obc", "sparsegpt"])
def test_pruning_stays_within_max_memory(fake_cuda, on_device, method, monkeypatch):
    model, x = placed(nn.Linear(100, 30), fake_cuda.device), on_device(torch.rand(150, 100))
    options = dict(method=method, sparsity=0.5, augment=None, progress=None)
    scratch = memory_of_calls(monkeypatch)
    expected = trace(model, x, **options)
    free = max(scratch)
    scratch.clear()
    found = trace(model, x, max_memory=800_000, **options)
    assert max(scratch) < 800_000 - 4 * 100**2 and max(scratch) <= free
    assert method == "sparsegpt" or max(scratch) < free
    assert found.agreement(expected) == {"": 1.0}


@pytest.fixture
def pruning_scratch(fake_cuda, monkeypatch):
    """Gives the bytes of scratch of each native call that pruned, since it was last asked."""
    scratch = memory_of_calls(monkeypatch)
    fake_cuda.forget()

    def read():
        calls = [name for name in fake_cuda.native if name.startswith("cuda_")]
        found = [
            size for name, size in zip(calls, scratch, strict=True)
            if not name.startswith("cuda_hessian")
        ]  # fmt: skip
        fake_cuda.forget()
        scratch.clear()
        return found

    return read


def least_memory(model, method, device):
    """Bytes that pruning a model of one layer asks for at least, and what of them is scratch."""
    layers = find_layers(model)
    whole = plan_memory(
        layers, method=PRUNING_METHODS[method], samples=1, max_memory=None, device=device
    ).bytes
    return whole, whole - hessian_bytes(layers[0], 4) - PRUNING_METHODS[method].cuda_pruning_bytes(
        layers, 1
    )


@pytest.mark.parametrize("cols", [20, 65, 576])
@pytest.mark.parametrize("damp", [0.01, 1e-4])  # in float32, in float64
def test_exact_obc_runs_in_the_least_memory_that_is_asked_for(
    fake_cuda, on_device, pruning_scratch, cols, damp
):
    model, x = placed(nn.Linear(cols, 2), fake_cuda.device), on_device(torch.rand(30, cols))
    options = dict(method="obc", sparsity=0.5, augment=None, damp=damp, progress=None)
    whole, least = least_memory(model, "obc", fake_cuda.device)
    trace(model, x, max_memory=whole, **options)
    scratch = pruning_scratch()
    assert len(scratch) == 2 and max(scratch) <= least
    assert damp == 0.01 or max(scratch) == least  # float64 takes the most
    with pytest.raises(ValueError, match=f"max_memory must be at least {whole} bytes"):
        trace(model, x, max_memory=whole - 1, **options)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("channels", [6, 54])
def test_sparsegpt_runs_in_the_least_memory_that_is_asked_for(
    fake_cuda, on_device, pruning_scratch, channels, groups
):
    model = placed(nn.Conv2d(channels, 12, (1, 3), groups=groups), fake_cuda.device)
    x = on_device(torch.rand(5, channels, 3, 4))
    options = dict(method="sparsegpt", sparsity=0.5, augment=None, damp=1e-4, progress=None)
    whole, least = least_memory(model, "sparsegpt", fake_cuda.device)
    trace(model, x, max_memory=whole, **options)
    assert pruning_scratch() == [least]
    with pytest.raises(ValueError, match=f"max_memory must be at least {whole} bytes"):
        trace(model, x, max_memory=whole - 1, **options)


class Heads(nn.Module):
    """Layers of equal inputs."""

    def __init__(self, *rows):
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(100, r) for r in rows)

    def forward(self, x):
        return torch.cat([head(x) for head in self.heads], 1)


def test_scratch_leaves_room_for_the_hessians_of_other_layers(
    fake_cuda, on_device, pruning_scratch
):
    model, x = placed(Heads(8, 8, 8, 8), fake_cuda.device), on_device(torch.rand(150, 100))
    layers = find_layers(model)
    options = dict(method=PRUNING_METHODS["obc"], samples=1, device=fake_cuda.device)
    memory = plan_memory(layers, max_memory=None, **options).bytes
    assert len(plan_memory(layers, max_memory=memory, **options).parts) == 1
    trace(model, x, sparsity=0.5, augment=None, max_memory=memory, progress=None)
    traces, hessian = pruning_scratch()[::2], 4 * 100**2
    assert len(traces) == 4
    for done, scratch in enumerate(traces):
        held = (4 - done) * hessian
        assert scratch <= memory - held - PRUNING_METHODS["obc"].cuda_pruning_bytes(
            layers[done : done + 1], 1
        )


@pytest.mark.parametrize("method", ["obc", "sparsegpt"])
def test_tuning_stays_within_max_memory(fake_cuda, on_device, pruning_scratch, method, monkeypatch):
    write = _files.save_file  # which takes no tensors of the fake device

    def save(tensors, *rest):
        write({name: tensor.cpu() for name, tensor in tensors.items()}, *rest)

    monkeypatch.setattr(_files, "save_file", save)
    model = placed(nn.Conv2d(36, 12, (1, 3), groups=3), fake_cuda.device)
    x = on_device(torch.rand(5, 36, 3, 4))
    whole, least = least_memory(model, method, fake_cuda.device)
    options = dict(grid=[0.0, 0.5], method=method, augment=None, damp=1e-4, progress=None)
    tune(model, [x], lambda sparse, sample: 1.0, max_memory=whole, **options)
    scratch = pruning_scratch()
    assert scratch and max(scratch) <= least
