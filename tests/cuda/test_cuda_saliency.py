"""Saliency maps, metrics and evaluations on a CUDA device: the CPU's results, and how often the host waits.

The device is a GPU, or the fake one where SPADE_CUDA_LIBRARY names the emulated backend. Only the fake one counts, and
it takes no gradients.
"""

import copy

import pytest
import torch
from classifiers import FEW, residual_case
from test_cuda_traces import placed
from torch import nn

from spade_xai import METHODS, attribute, baselines, metrics, trace
from spade_xai.features.visualize import visualize
from spade_xai.measures.stability import gradient_noise_similarity
from spade_xai.measures.text import dffot, dfmit
from spade_xai.reports.evaluate import evaluate
from spade_xai.reports.explain import explain
from spade_xai.reports.figure import png
from spade_xai.reports.grid import grid
from spade_xai.trojans.trojan import Backdoor, Trojan, fine_tune

TRACED = dict(sparsity=0.5, augmentations=16, progress=False)
CLOSE = {"rtol": 1e-4, "atol": 1e-6}


def classifier():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(150, 4)
    ).eval()  # fmt: skip


def images(count=3):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def masks():
    out = torch.zeros(3, 16, 16, dtype=torch.bool)
    for k in range(3):
        out[k, 2 + k : 9, 3:9] = True
    return out


def scores():
    return torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(2))


class Reader(nn.Module):
    """A classifier of texts, with an attention mask."""

    def __init__(self):
        super().__init__()
        self.embedding, self.classify = nn.Embedding(40, 16), nn.Linear(16, 3)

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, ids, attention_mask):
        x = self.embedding(ids) * attention_mask[..., None]
        return self.classify(x.sum(1))


def text():
    """Token ids, their attention mask and a score of each."""
    ids, mask = torch.randint(1, 40, (2, 9)), torch.ones(2, 9, dtype=torch.long)
    mask[1, 6:] = 0
    return ids, mask, torch.rand(2, 9)


@pytest.mark.parametrize("method", METHODS)
def test_maps_are_those_of_the_cpu(cuda, method):
    model, x, target = residual_case()
    options = FEW.get(method, {})
    expected = attribute(model, x, target, method, **options)
    got = attribute(placed(model, cuda), x.to(cuda), target.to(cuda), method, **options)
    assert got.device == cuda
    torch.testing.assert_close(got.cpu(), expected, **CLOSE)


@pytest.mark.parametrize("method", ["saliency", "integrated_gradients"])
def test_maps_of_texts(cuda, method):
    model, (ids, mask, _) = Reader().eval(), text()
    options = {"method": method, **FEW.get(method, {})}
    expected = attribute(model, ids, 1, kwargs={"attention_mask": mask}, **options)
    there = {"attention_mask": mask.to(cuda)}
    got = attribute(placed(model, cuda), ids.to(cuda), 1, kwargs=there, **options)
    torch.testing.assert_close(got.cpu(), expected, **CLOSE)


def test_maps_of_a_trace(cuda):
    model, x = classifier(), images(1)
    found = trace(placed(model, cuda), x.to(cuda), method="sparsegpt", **TRACED)
    expected = attribute(copy.deepcopy(found.model).cpu(), x, 1, "lrp")
    got = attribute(found.model, x.to(cuda), 1, "lrp")
    assert got.device == cuda
    torch.testing.assert_close(got.cpu(), expected, **CLOSE)


def test_only_single_numbers_of_maps_leave_the_device(fake_cuda):
    model, x, target = residual_case()
    there, inputs = placed(model, fake_cuda.device), fake_cuda.place(x)
    fake_cuda.forget()
    attribute(there, inputs, fake_cuda.place(target), "occlusion")
    assert set(fake_cuda.moved) == {1}


def test_passes_of_a_method_add_no_wait(fake_cuda):
    there, x = placed(classifier(), fake_cuda.device), fake_cuda.place(images(1))
    waits = []
    for batch_size in (2, 64):
        fake_cuda.forget()
        attribute(there, x, 1, "occlusion", batch_size=batch_size, window=2)
        waits.append(len(fake_cuda.waits))
    assert waits[0] == waits[1]


MEASURES = {
    "auroc": lambda to: metrics.auroc(to(scores()), to(masks())),
    "pointing_game": lambda to: metrics.pointing_game(to(scores()), to(masks())),
    "insertion": lambda to: metrics.insertion(to(classifier()), to(images()), to(scores())),
    "deletion": lambda to: metrics.deletion(
        to(classifier()), to(images()), to(scores()), [1, 2, 0]
    ),
    "random_map": lambda to: baselines.random_map(to(images())),
    "sobel": lambda to: baselines.edge_map(to(images())),
    "canny": lambda to: baselines.edge_map(to(images()), detector="canny"),
    "magnitude_prune": lambda to: baselines.magnitude_prune(to(classifier()), 0.5)[5].weight.data,
    "visualize": lambda to: visualize(to(classifier()), 1, (3, 16, 16), steps=4, mean=[0.5] * 3),
}


@pytest.mark.parametrize("name", MEASURES)
def test_measures_stay_on_the_device(cuda, name):
    expected = MEASURES[name](lambda value: value)
    got = MEASURES[name](lambda value: placed(value, cuda))
    assert got.device == cuda
    # Adam's first steps take the sign of a gradient, of one near 0 too
    near = {"rtol": 0, "atol": 0.02} if name == "visualize" else CLOSE
    torch.testing.assert_close(got.cpu(), expected, **near)


def test_measures_that_end_on_the_cpu(cuda):
    reader, (ids, mask, importance) = Reader().eval(), text()
    there = [placed(value, cuda) for value in (reader, ids, importance)]
    for flips in (dffot, dfmit):
        got = flips(*there, mask=mask.to(cuda))
        assert torch.equal(got, flips(reader, ids, importance, mask=mask))
    values = scores()[0]
    assert metrics.mean(values.to(cuda)) == metrics.mean(values)
    options = {"copies": 12, "layers": ["0"], "batch_size": 5}
    expected = gradient_noise_similarity(classifier(), images(1), 1, **options)
    similar = gradient_noise_similarity(
        placed(classifier(), cuda), images(1).to(cuda), 1, **options
    )
    assert similar == pytest.approx(expected, rel=1e-4)


def test_images_and_passes_of_insertion_add_no_wait(fake_cuda, on_device):
    there, x, maps = (
        placed(classifier(), fake_cuda.device),
        on_device(images()),
        on_device(scores()),
    )
    for target in (None, on_device(torch.tensor([1, 2, 0]))):
        waits = []
        for count, batch_size in ((1, 64), (3, 8)):
            label = target if target is None else target[:count]
            fake_cuda.forget()
            metrics.insertion(there, x[:count], maps[:count], label, batch_size=batch_size)
            waits.append(len(fake_cuda.waits))
        assert waits[0] == waits[1]


def test_shortened_texts_add_no_wait(fake_cuda, on_device):
    ids, mask, importance = (on_device(x[:1]) for x in text())
    there, waits = placed(Reader().eval(), fake_cuda.device), []
    there.classify.weight.data.zero_()  # no label flips: all versions are tried
    for most in (3, 9):
        fake_cuda.forget()
        assert dfmit(there, ids, importance, on_device(torch.arange(9) < most), mask=mask) == 1
        waits.append(len(fake_cuda.waits))
    assert waits[0] == waits[1]


def test_evaluation_is_that_of_the_cpu(cuda):
    methods = {"methods": ["saliency", "lrp"], "tracers": ["FastSPADE"], "controls": ["FastSPADE"]}
    methods |= TRACED
    expected = evaluate(classifier(), (images(), masks()), images(), **methods)
    there = images().to(cuda)
    got = evaluate(placed(classifier(), cuda), (there, masks().to(cuda)), there, **methods)
    for metric, by_method in expected.scores.items():
        for method, maps in by_method.items():
            for column, values in maps.items():
                score = got.scores[metric][method][column]
                near = 1e-3 if column in ("dense", "edges", "random") else 0.3  # masks may differ
                if metric != "pointing_game" or near < 0.3:
                    torch.testing.assert_close(score, values, rtol=near, atol=near)
    assert [x["n"] for x in got.rows()] == [3] * len(expected.rows())


def test_explanations_are_drawn(cuda):
    (found,) = explain(
        placed(classifier(), cuda),
        images(1).to(cuda),
        ["a"],
        methods=["lrp"],
        tracers=["FastSPADE"],
        **TRACED,
    )
    assert found.maps["lrp"]["FastSPADE"].device == cuda
    assert png(grid(found, masks()[0].to(cuda))).startswith(b"\x89PNG")


def test_fine_tuning_on_the_device(cuda):
    patch = Backdoor("patch", torch.rand(4, 4, 4), 3, None)
    data = Trojan([(x, k % 2) for k, x in enumerate(images(8))], [0, 1] * 4, [patch], 2)
    options = {"epochs": 1, "batch_size": 4}
    expected = fine_tune(classifier(), data, **options)
    got = fine_tune(placed(classifier(), cuda), data, **options)
    for found, ours in zip(got.parameters(), expected.parameters(), strict=True):
        assert found.device == cuda
        torch.testing.assert_close(found.detach().cpu(), ours.detach(), **CLOSE)
