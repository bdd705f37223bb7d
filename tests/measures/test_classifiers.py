"""Measures on classifiers as people have them: one logit, logits far apart, a lost dimension, and bad tensors."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from spade_xai import metrics
from spade_xai.measures.stability import gradient_noise_similarity
from spade_xai.measures.text import dffot, dfmit

CURVES = [metrics.insertion, metrics.deletion]


class OneLogit(nn.Module):
    """z = the sum of the image, shifted."""

    def __init__(self, shift=0.0, squeeze=False):
        super().__init__()
        self.shift, self.squeeze = shift, squeeze

    def forward(self, x):
        z = x.sum((1, 2, 3)) + self.shift
        return z.squeeze() if self.squeeze else z[:, None]


class Apart(nn.Module):
    """Two classes whose logits are a distance apart, of which the image decides the rest."""

    def __init__(self, distance):
        super().__init__()
        self.distance = distance

    def forward(self, x):
        total = x.sum((1, 2, 3))
        return torch.stack([total, 0 * total + self.distance], 1)


@pytest.mark.parametrize("squeeze", [False, True])
@pytest.mark.parametrize("target", [None, 0])
def test_one_logit_is_scored_by_its_sigmoid(target, squeeze):
    x, maps = torch.rand(3, 1, 4, 4) - 0.5, torch.rand(3, 4, 4)
    model = OneLogit(-1.0, squeeze)
    for curve in CURVES:
        found = curve(model, x, maps, target, steps=16, batch_size=5, progress=False)
        for b in range(3):
            order = maps[b].flatten().argsort(descending=True)
            p = []
            for k in range(17):
                inside = torch.zeros(16, dtype=torch.bool)
                inside[order[:k]] = True
                kept = inside if curve is metrics.insertion else ~inside
                p.append(torch.sigmoid((x[b].flatten() * kept).double().sum() - 1))
            full = p[-1] if curve is metrics.insertion else p[0]
            expected = torch.trapezoid(torch.stack(p) / full, dx=1 / 16)
            assert float(found[b]) == pytest.approx(float(expected), rel=1e-5)
    with pytest.raises(ValueError, match=r"target must be in \[0, 0\], got 1"):
        metrics.insertion(model, x, maps, 1, progress=False)


def test_maps_of_one_logit_are_told_apart():
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 0] = 3.0
    good, bad = x[:, 0], -x[:, 0]
    a, b = (metrics.insertion(OneLogit(-5.0), x, m, progress=False) for m in (good, bad))
    assert a > b + 0.5


@pytest.mark.parametrize("curve", CURVES)
def test_a_class_whose_probability_underflows_has_a_score(curve):
    """The ratio of probabilities is that of a class that does not underflow, as p is exp(z) / exp(distance)."""
    x, maps = torch.rand(2, 1, 6, 6), torch.rand(2, 6, 6)
    far = curve(Apart(1200.0).double(), x.double(), maps, 0, progress=False)
    near = curve(Apart(60.0).double(), x.double(), maps, 0, progress=False)
    torch.testing.assert_close(far, near)
    torch.testing.assert_close(
        curve(Apart(1200.0), x, maps, 1, progress=False), torch.ones(2).double()
    )


def test_scores_that_overflow_and_logits_that_are_not_finite_are_told():
    x, maps = torch.full((1, 1, 4, 4), -100.0), torch.rand(1, 4, 4)
    with pytest.raises(ValueError, match="insertion: target must not be all but impossible"):
        metrics.insertion(Apart(900.0), x, maps, 0, progress=False)
    with pytest.raises(ValueError, match="insertion: model must give finite logits"):
        metrics.insertion(OneLogit(float("inf")), x, maps, progress=False)


@pytest.mark.parametrize(
    ("output", "shape"),
    [(lambda x: x, r"\(2, 1, 4, 4\)"), (lambda x: x.sum(), r"\(\)"), (lambda x: x[:1, 0, 0], r"\(1, 4\)")],
)  # fmt: skip
@pytest.mark.parametrize("curve", CURVES)
def test_outputs_of_another_shape_are_told(curve, output, shape):
    class Other(nn.Module):
        def forward(self, x):
            return output(x)

    with pytest.raises(
        ValueError, match=rf"logits \[B, classes\], got shape {shape} for a batch of 2"
    ):
        curve(Other(), torch.rand(1, 1, 4, 4), torch.rand(1, 4, 4), steps=1, progress=False)


class OneVote(nn.Module):
    """Yes if the votes (ids - 10) of the attended tokens sum to more than 0."""

    def __init__(self, squeeze):
        super().__init__()
        self.squeeze = squeeze

    def forward(self, ids, attention_mask):
        z = ((ids - 10.0) * attention_mask).sum(1, keepdim=True)
        return SimpleNamespace(logits=z.squeeze(-1) if self.squeeze else z)


@pytest.mark.parametrize("squeeze", [False, True])
def test_flips_of_one_logit(squeeze):
    ids = torch.tensor([[15, 9, 9, 10], [12, 12, 7, 10], [15, 11, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]])
    scores = (ids - 10.0) * mask
    model = OneVote(squeeze)
    assert dffot(model, ids, scores, mask=mask).tolist() == [1, 1, 0]
    assert dfmit(model, ids, scores, mask=mask).tolist() == [1 / 4, 1 / 4, 1.0]


def test_stability_of_one_logit():
    similarity = gradient_noise_similarity(OneLogit(), torch.rand(1, 1, 4, 4), 0, copies=3)
    assert similarity["input"] == pytest.approx(1)
    with pytest.raises(ValueError, match=r"target must be in \[0, 0\], got 1"):
        gradient_noise_similarity(OneLogit(), torch.rand(1, 1, 4, 4), 1, copies=3)


BAD = {
    "meta": (torch.empty(1, 1, 4, 4, device="meta"), "the meta device"),
    "sparse": (torch.rand(1, 1, 4, 4).to_sparse(), "layout torch.sparse_coo"),
    "complex": (torch.rand(1, 1, 4, 4) * 1j, "complex64"),
    "quantised": (torch.quantize_per_tensor(torch.rand(1, 1, 4, 4), 0.1, 0, torch.quint8), "quint8"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", BAD)
def test_tensors_without_real_values_are_refused(kind):
    bad, what = BAD[kind]
    x, maps, text = torch.rand(1, 1, 4, 4), torch.rand(1, 4, 4), torch.ones(1, 4).long()
    calls = {
        "x": lambda: metrics.insertion(OneLogit(), bad, maps),
        "maps": lambda: metrics.deletion(OneLogit(), x, bad),
        "blank": lambda: metrics.insertion(OneLogit(), x, maps, blank=bad),
        "masks": lambda: metrics.auroc(x, bad),
        "scores": lambda: dfmit(OneVote(False), text, bad),
        "mask": lambda: dffot(OneVote(False), text, text.float(), mask=bad),
    }
    for name, call in calls.items():
        with pytest.raises(
            TypeError, match=rf"{name} must be a dense tensor of real numbers, got .*{what}"
        ):
            call()
    with pytest.raises(TypeError, match=rf"x must be a dense tensor of real numbers, got .*{what}"):
        gradient_noise_similarity(OneLogit(), bad, 0)
