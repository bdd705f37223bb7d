"""The forward pass of a trace beside the plain eager one, of the same images, and the Hessians' error by it."""

import pytest
import torch

from benchmarks.networks import network
from benchmarks.suite import Reference
from spade_xai.models.copies import duplicate
from spade_xai.models.efficientnet_lite import EfficientNetLite
from spade_xai.models.inputs import channels_last
from spade_xai.models.layers import find_layers
from spade_xai.tracing.fast_forward import fast_forward
from spade_xai.tracing.hessians import Hessians

NETWORKS = {
    "resnet50": lambda: network("resnet50"),
    "mobilenet_v2": lambda: network("mobilenet_v2"),
    "efficientnet_lite0": lambda: EfficientNetLite("efficientnet_lite0").eval(),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.benchmark(group="forward pass of a trace")
def test_forward(measure, suite, name):
    model = duplicate(NETWORKS[name]()).to(suite.device)
    size, count = (64, 2) if suite.check else (224, 16)
    generator = torch.Generator().manual_seed(0)
    images = channels_last(torch.rand(count, 3, size, size, generator=generator).to(suite.device))
    layers = find_layers(model)
    if suite.check:
        layers = [layer for layer in layers if layer.cols <= 600]
    with torch.no_grad():
        fast = fast_forward(model, layers, images)
        expected, found = (_hessians(m, layers, images) for m in (model, fast))
        error = max(
            float((found[k] - h).norm() / h.norm().clamp_min(1e-30)) for k, h in expected.items()
        )
        assert fast is not model and error < 1e-5
        plain = Reference("the model's eager pass", lambda: model(images))
        measure(lambda: fast(images), reference=plain, images=count, hessian_error=error)


def _hessians(model, layers, images):
    sums = Hessians(model, layers, "bench_forward")
    sums.run([images])
    found = {layer.name: sums.take(layer) for layer in layers}
    return {name: h for name, h in found.items() if h is not None}
