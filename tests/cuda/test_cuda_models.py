"""Traces of many kinds of models and samples on a CUDA device, given its name, beside those on the CPU.

The device is a GPU, or the fake one where SPADE_CUDA_LIBRARY names the emulated backend.
"""

import pytest
import torch
from torch import nn

from spade_ext import HessianAccumulator
from spade_xai import trace
from spade_xai.tracing.augment import ImageAugment
from spade_xai.tracing.text_augment import TextAugment

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.2, 0.1)


def network(dtype=torch.float32):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(96, 5),
    ).to(dtype)  # fmt: skip


def transformer():
    return nn.Sequential(
        nn.TransformerEncoderLayer(16, 2, 24, batch_first=True), nn.Flatten(), nn.Linear(64, 3)
    )


class Reader(nn.Module):
    """Attention over the tokens of a text."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(40, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.classify = nn.Linear(16, 3)

    def forward(self, input_ids, attention_mask):
        x = self.embedding(input_ids)
        x = x + self.attention(x, x, x, key_padding_mask=attention_mask == 0)[0]
        return self.classify(x.mean(1))


def image(dtype=torch.float32):
    return torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)).to(dtype)


def text():
    ids = torch.randint(1, 40, (1, 9), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def noisy(x):
    return x + 0.3 * torch.randn(x.shape).to(x)  # the CPU's draws on every device


def normalised():
    return (image() - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


SYNONYMS = {token: [token % 39 + 1] for token in range(1, 40)}
CASES = {
    "convnext recipe": (network, image, "convnext"),
    "normalised": (network, normalised, ImageAugment(mean=MEAN, std=STD)),
    "float64": (
        lambda: network(torch.float64), lambda: image(torch.float64), "resnet",
    ),
    "float16": (lambda: network(torch.float16), lambda: image(torch.float16), "resnet"),
    "bfloat16": (lambda: network(torch.bfloat16), lambda: image(torch.bfloat16), "resnet"),
    "attention": (transformer, lambda: torch.ones(1, 4, 16), noisy),
    "text": (Reader, text, TextAugment(SYNONYMS)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", ["obc", "sparsegpt"])
def test_models_and_samples(cuda, monkeypatch, case, method):
    make, sample, augment = CASES[case]
    model, inputs = make().eval(), sample()
    options = {"method": method, "augment": augment, "augmentations": 32, "sparsity": 0.5}
    expected = trace(model, inputs, **options, progress=False)
    summed, update = set(), HessianAccumulator.update

    def noted(accumulator, x):
        summed.add(x.device)
        update(accumulator, x)

    monkeypatch.setattr(HessianAccumulator, "update", noted)
    got = trace(model, inputs, device="cuda", **options, progress=False)
    assert summed == {cuda}
    assert {p.device.type for p in [*model.parameters(), *got.model.parameters()]} == {"cpu"}
    assert [(x.name, x.status) for x in got.layers] == [(x.name, x.status) for x in expected.layers]
    # A GPU draws that recipe's noise by itself, and what is drawn after it is another.
    assert min(got.agreement(expected).values()) > (0.8 if case == "convnext recipe" else 0.95)
    weights = zip(got.model.parameters(), expected.model.parameters(), strict=True)
    assert all(x.dtype == y.dtype for x, y in weights)


def test_sequential(cuda):
    options = {"augment": noisy, "augmentations": 32, "sparsity": 0.5, "progress": False}
    model, inputs = transformer().eval(), torch.ones(1, 4, 16)
    expected = trace(model, inputs, sequential=True, **options)
    got = trace(model, inputs, sequential=True, device="cuda", **options)
    assert min(got.agreement(expected).values()) > 0.9
