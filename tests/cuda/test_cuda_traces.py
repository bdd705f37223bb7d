"""Traces on a CUDA device: their results beside the CPU's, what leaves it, what the model and the kernels are given.

The device is a GPU, or the fake one where SPADE_CUDA_LIBRARY names the emulated backend (the target
spade_cuda_emulated of tests/cuda); only the fake one tells what leaves it.
"""

import copy
from collections import Counter
from contextlib import nullcontext

import pytest
import torch
from classifiers import Scaled
from problems import relative
from torch import nn

import spade_ext
from spade_ext import _cuda
from spade_xai import trace, trace_many
from spade_xai.tracing.run import TracingRun


@pytest.fixture(autouse=True)
def only_pruning(monkeypatch):
    """The verdict on a trace runs the model a few times; what is counted here is pruning."""
    monkeypatch.setattr(TracingRun, "_judge", lambda *_: None)


def small_network():
    """Convolutions, one of them depthwise, and a linear layer."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 6, 1), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(6 * 16, 5),
    ).eval()  # fmt: skip


def placed(value, device):
    """A copy of a model or tensor on the device."""
    return copy.deepcopy(value).to(device)


def packed_sizes(traces):
    """Entries of what a trace keeps on the host: masks of 8 weights a byte, and kept weights."""
    return Counter(
        len(part) for t in traces for p in t._packed.values() for part in (p.bits, p.values)
    )


def two_images():
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", ["obc", "sparsegpt"])
def test_traces_are_those_of_the_cpu(cuda, method):
    options = dict(method=method, sparsity=0.6, augmentations=16, depthwise=True, progress=None)
    model, images = small_network(), two_images()
    expected = list(trace_many(model, list(images), **options))
    found = list(trace_many(placed(model, cuda), list(images.to(cuda)), **options))
    for got, ours in zip(found, expected, strict=True):
        assert [x.status for x in got.layers] == [x.status for x in ours.layers]
        assert min(got.agreement(ours).values()) > 0.95
        for name, tensor in ours.model.state_dict().items():
            weights = got.model.state_dict()[name]
            assert weights.device == cuda
            same = (weights.cpu() != 0) == (tensor != 0)
            assert relative(weights.cpu() * same, (tensor * same).double()) < 0.05


@pytest.mark.parametrize("method", ["obc", "sparsegpt"])
def test_only_the_packed_trace_leaves_the_device(fake_cuda, method):
    options = dict(method=method, sparsity=0.6, augmentations=4, depthwise=True, progress=None)
    model = placed(small_network(), fake_cuda.device)
    samples = list(fake_cuda.place(two_images()))
    fake_cuda.forget()
    found = list(trace_many(model, samples, **options))
    assert all(name.startswith("cuda_") for name in fake_cuda.native)
    kinds = {"obc": ["obc_trace", "obc_weights_f32"], "sparsegpt": ["sparsegpt_prune"]}[method]
    assert {"cuda_hessian_conv2d", "cuda_hessian_linear"} < set(fake_cuda.native)
    assert {f"cuda_{kind}" for kind in kinds} < set(fake_cuda.native)
    moved = Counter(fake_cuda.moved)
    assert packed_sizes(found) <= moved
    # The rest are statuses, dampings and losses: fewer numbers than the smallest layer has weights.
    assert max((moved - packed_sizes(found)).elements()) < min(
        x.rows * x.cols for x in found[0].layers
    )


def test_layers_and_samples_share_the_call_of_sparsegpt(fake_cuda, on_device):
    images = list(torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    there, samples = placed(small_network(), fake_cuda.device), [on_device(x) for x in images]
    options = dict(method="sparsegpt", sparsity=0.5, augmentations=4, depthwise=True, progress=None)
    fake_cuda.forget()
    assert len(list(trace_many(there, samples, group=3, **options))) == 3
    assert fake_cuda.native.count("cuda_sparsegpt_prune") == 1


def test_without_the_backend_the_model_is_refused(fake_cuda, on_device, monkeypatch):
    monkeypatch.setattr(spade_ext._C, "cuda_is_available", lambda: False)
    monkeypatch.setattr(spade_ext._C, "cuda_unavailable_reason", lambda: "no driver")
    model, x = placed(nn.Linear(12, 6), fake_cuda.device), on_device(torch.rand(30, 12))
    text = r"trace: model must be on device cpu or cuda, got cuda:0 \(no CUDA: no driver\)"
    for there in (None, "cuda"):
        with pytest.raises(ValueError, match=text):
            trace(model, x, augment=None, device=there, progress=None)


@pytest.mark.parametrize("method", ["obc", "sparsegpt"])
def test_weights_stay_on_the_device_layer_after_layer(fake_cuda, on_device, method):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 5))
    x = torch.rand(30, 12)
    options = dict(method=method, sparsity=0.5, augment=None, sequential=True, progress=None)
    expected = trace(model, x, **options)
    there, inputs = placed(model, fake_cuda.device), on_device(x)
    fake_cuda.forget()
    found = trace(there, inputs, **options)
    assert not any(wait == "copy to cuda" for wait in fake_cuda.waits)
    assert found.agreement(expected) == {"0": 1.0, "2": 1.0}


@pytest.mark.parametrize(("method", "waits"), [("obc", 9), ("sparsegpt", 8)])
def test_waits_of_a_trace(fake_cuda, on_device, method, waits):
    model, x = placed(nn.Linear(12, 6), fake_cuda.device), on_device(torch.rand(30, 12))
    fake_cuda.forget()
    trace(model, x, method=method, sparsity=0.5, augment=None, progress=None)
    assert len(fake_cuda.waits) == waits


@pytest.mark.parametrize("kind", ["image", "attention"])
def test_passes_of_the_model_add_no_wait(fake_cuda, kind):
    if kind == "image":
        layers, sample = (
            [nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(64, 2)],
            torch.rand(1, 3, 4, 4),
        )
    else:
        encoder = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
        layers, sample = [encoder, nn.Flatten(), nn.Linear(16, 2)], torch.rand(1, 2, 8)
    model = placed(nn.Sequential(*layers).eval(), fake_cuda.device)
    options = dict(method="sparsegpt", sparsity=0.5, batch_size=16, damp=0.1, progress=None)
    options["augment"] = "resnet" if kind == "image" else lambda x: x + 0.3 * torch.randn_like(x)
    there = fake_cuda.place(sample)
    waits = []
    for augmentations in (16, 80):
        fake_cuda.forget()
        trace(model, there, augmentations=augmentations, **options)
        waits.append(len(fake_cuda.waits))
    assert waits[0] == waits[1] and "copy to cuda" not in fake_cuda.waits


@pytest.mark.parametrize("method", ["obc", "sparsegpt"])
@pytest.mark.parametrize("scale", [1e-19, 1e18, 1e30])
def test_inputs_of_extreme_scales_on_the_device(cuda, method, scale):
    torch.manual_seed(0)
    model, x = Scaled(scale), torch.rand(24, 12)
    options = {"method": method, "sparsity": 0.5, "augment": None, "progress": None}
    with nullcontext() if scale < 1e19 else pytest.warns(spade_ext.DampingWarning, match="first"):
        got = trace(placed(model, cuda), x.to(cuda), **options)
    if scale > 1e19:  # the squares overflow: this layer fails alone
        assert [layer.status for layer in got.layers] == ["failed", "pruned"]
        return
    expected = trace(model, x, **options)
    assert got.agreement(expected) == {"first": 1.0, "second": 1.0}
    for layer, ours in zip(got.layers, expected.layers, strict=True):
        assert layer.status == "pruned" and layer.loss == pytest.approx(ours.loss, rel=1e-3)


class Probe(nn.Module):
    """Gives its inputs to a function, which copies of the module share, and passes them on."""

    def __init__(self, note):
        super().__init__()
        self.note = note

    def forward(self, x):
        self.note(x)
        return x


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_forward_precision_and_layout_reach_the_model(cuda, monkeypatch, precision):
    seen, kinds = [], []

    def note(x):
        tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        seen.append((x.device.type, x.dtype, channels_last, tf32))

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), Probe(note), nn.Conv2d(16, 8, 3), nn.Flatten(),
        nn.Linear(8 * 36, 5),
    ).eval()  # fmt: skip
    inner = _cuda.add_hessian_conv2d

    def noted(x, *rest):
        kinds.append((x.dtype, x.is_contiguous(memory_format=torch.channels_last)))
        inner(x, *rest)

    monkeypatch.setattr(_cuda, "add_hessian_conv2d", noted)
    options = dict(method="sparsegpt", sparsity=0.5, augmentations=8, progress=None)
    options["forward_precision"] = precision
    flags = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    got = trace(placed(model, cuda), image.to(cuda), **options)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    wanted = (True, True) if precision == "tf32" else flags
    assert seen[1:] == [("cuda", dtype, True, wanted)]  # the first pass only finds the layers
    assert kinds == [(torch.float32, True), (dtype, True)]
    assert flags == (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    expected = trace(model, image, **options)
    assert min(got.agreement(expected).values()) > 0.95
