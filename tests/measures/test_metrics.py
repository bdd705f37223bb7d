import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from spade_xai import metrics
from spade_xai.measures.stability import gradient_noise_similarity
from spade_xai.measures.text import dffot, dfmit


@pytest.mark.parametrize("levels", [2, 5, 10**6])
def test_auroc_is_that_of_scikit_learn(levels):
    generator = torch.Generator().manual_seed(levels)
    maps = torch.randint(-levels, levels, (6, 9, 7), generator=generator).float() / 3
    masks = torch.rand(6, 9, 7, generator=generator) < 0.2
    got = metrics.auroc(maps, masks)
    expected = [roc_auc_score(m.flatten(), s.flatten()) for s, m in zip(maps, masks, strict=True)]
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(metrics.auroc(-maps, masks), 1 - got)


def test_auroc_of_constant_and_perfect_maps():
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[:, 1:3, 1:3] = True
    assert metrics.auroc(torch.zeros(2, 4, 4), masks).tolist() == [0.5, 0.5]
    assert metrics.auroc(masks.float(), masks).tolist() == [1.0, 1.0]


def test_pointing_game_by_hand():
    masks = torch.tensor([[[1, 0], [0, 0]], [[1, 0], [0, 0]], [[1, 1], [0, 0]]])
    maps = torch.tensor([[[9.0, 1], [2, 3]], [[1.0, 9], [2, 3]], [[5.0, 1], [5, 5]]])
    expected = torch.tensor([1, 0, 1 / 3], dtype=torch.float64)
    torch.testing.assert_close(metrics.pointing_game(maps, masks), expected)


@pytest.mark.parametrize("function", [metrics.auroc, metrics.pointing_game])
@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (torch.zeros(1, 2, 2), torch.zeros(1, 2, 3), "maps and masks must have the same shape"),
        (torch.full((1, 2, 2), math.nan), torch.eye(2)[None], "maps must be finite"),
        (torch.zeros(1, 2, 2), torch.full((1, 2, 2), 0.5), "masks must be bool or 0 and 1"),
        (torch.zeros(1, 2, 2), torch.zeros(1, 2, 2), r"neither empty nor full, got \[0\] pixels"),
        (torch.zeros(0, 2, 2), torch.zeros(0, 2, 2), "maps must hold at least one, got shape"),
        (torch.zeros(1, 2, 2), torch.ones(1, 2, 2), r"neither empty nor full, got \[4\] pixels"),
    ],
)
def test_masks_and_maps_are_checked(function, maps, masks, message):
    with pytest.raises(ValueError, match=f"{function.__name__}: .*{message}"):
        function(maps, masks)


def test_maps_may_be_of_any_dtype_but_must_be_tensors():
    maps = torch.tensor([[[0.0, 0], [1, 1]]])
    masks = torch.tensor([[[False, False], [True, False]]])
    for dtype in (torch.bool, torch.int64, torch.bfloat16):
        assert metrics.auroc(maps.to(dtype), masks).tolist() == [5 / 6]
    for function in (metrics.auroc, metrics.pointing_game):
        with pytest.raises(TypeError, match=r"maps must be a torch\.Tensor, got ndarray"):
            function(maps.numpy(), masks)
        with pytest.raises(TypeError, match=r"masks must be a torch\.Tensor, got NoneType"):
            function(maps, None)


@pytest.mark.parametrize("function", [metrics.insertion, metrics.deletion])
def test_equal_pixels_go_in_reading_order(function):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(64 * 64, 3)), torch.rand(1, 1, 64, 64)
    reading = torch.arange(64 * 64, 0, -1).view(1, 64, 64)
    assert torch.equal(function(model, x, torch.ones(1, 64, 64)), function(model, x, reading))


@pytest.mark.parametrize("function", [metrics.insertion, metrics.deletion])
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": len}, TypeError, r"model must be an nn\.Module, got builtin_function"),
        ({"x": torch.full((2, 3, 4, 4), torch.nan)}, ValueError, "x must be finite"),
        ({"maps": torch.full((2, 4, 4), torch.nan)}, ValueError, "maps must be finite"),
        ({"maps": None}, TypeError, r"maps must be a torch\.Tensor, got NoneType"),
        ({"x": torch.ones(0, 3, 4, 4), "maps": torch.ones(0, 4, 4)}, ValueError, "x must hold at least one image"),
        ({"batch_size": 0}, ValueError, "batch_size must be an int of at least 1, got 0"),
        ({"blank": torch.zeros(5)}, ValueError, r"blank must broadcast to x \(2, 3, 4, 4\), got shape"),
        ({"blank": torch.inf}, ValueError, "blank must be finite"),
        ({"target": 1.5}, ValueError, "target must be an int or 2 ints, got shape .* torch.float32"),
        ({"target": "cat"}, TypeError, "target must be an int or 2 ints, got 'cat'"),
    ],
)  # fmt: skip
def test_arguments_of_curves_are_checked(function, changes, error, message):
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    arguments = {"model": model, "x": torch.ones(2, 3, 4, 4), "maps": torch.ones(2, 4, 4)}
    with pytest.raises(error, match=f"{function.__name__}: {message}"):
        function(**{**arguments, **changes})


class TwoClasses(nn.Module):
    """p(class 1) = sigmoid(sum of all pixels); logits in an object."""

    def forward(self, x):
        s = x.sum((1, 2, 3))
        return SimpleNamespace(logits=torch.stack([torch.zeros_like(s), s], 1))


def test_insertion_and_deletion_by_hand():
    x = torch.tensor([[2.0, 1.0], [-1.0, 0.0]]).view(1, 1, 2, 2).double()
    p = lambda s: 1 / (1 + math.exp(-s))  # noqa: E731
    maps = x[:, 0]  # order 2, 1, 0, -1
    inserted = [p(v) for v in (0, 2, 3, 3, 2)]
    area = sum((a + b) / 2 for a, b in itertools.pairwise(inserted)) / 4 / p(2)
    got = metrics.insertion(TwoClasses(), x, maps, steps=4)
    assert got.item() == pytest.approx(area, rel=1e-12)
    deleted = [p(v) for v in (2, 0, -1, -1, 0)]
    area = sum((a + b) / 2 for a, b in itertools.pairwise(deleted)) / 4 / p(2)
    assert metrics.deletion(TwoClasses(), x, maps, 1, steps=4).item() == pytest.approx(
        area, rel=1e-12
    )
    other = metrics.insertion(TwoClasses(), x, maps, [0], steps=4).item()
    area = sum(1 - (a + b) / 2 for a, b in itertools.pairwise(inserted)) / 4 / (1 - p(2))
    assert other == pytest.approx(area, rel=1e-12)


@pytest.mark.parametrize("function", [metrics.insertion, metrics.deletion])
def test_curves_do_not_depend_on_batching_and_keep_inputs(function):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.LazyLinear(3))
    x, maps = torch.randn(3, 3, 8, 8), torch.randn(3, 8, 8)
    model(x)
    before = x.clone()
    whole = function(model, x, maps, steps=13, blank=0.3)
    parts = [
        function(model, x[i : i + 1], maps[i : i + 1], steps=13, blank=0.3, batch_size=4)
        for i in range(3)
    ]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-6, atol=1e-7)
    assert torch.equal(x, before) and whole.dtype == torch.float64
    with pytest.raises(ValueError, match=f"{function.__name__}: maps must be"):
        function(model, x, maps[:2])
    with pytest.raises(
        ValueError, match=f"{function.__name__}: steps must be an int of at least 1"
    ):
        function(model, x, maps, steps=0)
    with pytest.raises(ValueError, match=f"{function.__name__}: target must be an int or 3 ints"):
        function(model, x, maps, [0, 1])
    with pytest.raises(
        ValueError, match=rf"{function.__name__}: target must be in \[0, 2\], got 3"
    ):
        function(model, x, maps, 3)


def test_better_maps_insert_faster_and_delete_faster():
    torch.manual_seed(1)
    x = torch.rand(4, 1, 6, 6).double()
    good, bad = x[:, 0], -x[:, 0]
    model = TwoClasses()
    assert (metrics.insertion(model, x, good, 1) > metrics.insertion(model, x, bad, 1)).all()
    assert (metrics.deletion(model, x, good, 1) < metrics.deletion(model, x, bad, 1)).all()


def test_mean_and_paired_by_hand():
    estimate = metrics.mean([1.0, 2.0, 6.0])
    assert (estimate.mean, estimate.n) == (3.0, 3)
    assert estimate.standard_error == pytest.approx(math.sqrt(7 / 3))
    difference = metrics.paired(torch.tensor([1.0, 2.0, 6.0]), [0.5, 1.5, 5.5])
    assert difference.mean == pytest.approx(0.5) and difference.standard_error == pytest.approx(0)
    assert math.isnan(metrics.mean([3.0]).standard_error)
    assert str(difference) == "0.5 ± 0 (n = 3)"
    with pytest.raises(ValueError, match="mean: values must hold at least one sample"):
        metrics.mean([])
    with pytest.raises(ValueError, match="mean: values must be finite"):
        metrics.mean([math.inf])
    with pytest.raises(ValueError, match="paired: a and b must hold the same samples"):
        metrics.paired([1.0, 2.0], [1.0])


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4 * 36, 3)
    ).double()


def test_gradient_noise_similarity_is_the_mean_over_pairs():
    model, x = small_net(), torch.randn(1, 1, 8, 8).double()
    options = {"noise": 0.5, "copies": 7, "layers": ["0"], "seed": 3}
    got = gradient_noise_similarity(model, x, 2, **options)
    noise = torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(3)) * 0.5
    noisy = (x + noise).requires_grad_()
    hidden = model[0](noisy)
    logits = model[3](hidden.relu().flatten(1))
    for name, tensor in (("input", noisy), ("0", hidden)):
        g = torch.autograd.grad(logits[:, 2].sum(), tensor, retain_graph=True)[0].flatten(1)
        cosine = torch.nn.functional.cosine_similarity(g[:, None], g[None], dim=2)
        expected = (cosine.sum() - cosine.trace()) / 42
        assert got[name] == pytest.approx(float(expected), abs=1e-9)
    again = gradient_noise_similarity(model, x, 2, batch_size=3, **options)
    assert again == pytest.approx(got, abs=1e-9)
    assert not model[0]._forward_hooks
    still = gradient_noise_similarity(model, x, 2, noise=0.0, copies=3)
    assert still["input"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"x": torch.zeros(2, 1, 8, 8)},
            r"x must be one input \[1, ...\], got shape \(2, 1, 8, 8\)",
        ),
        ({"copies": 1}, "copies must be an int of at least 2, got 1"),
        ({"noise": -1.0}, "noise must be at least 0, got -1.0"),
        ({"layers": ["conv"]}, r"layers must name modules, got \['conv'\]"),
    ],
)
def test_gradient_noise_similarity_errors(change, message):
    arguments = {"model": small_net(), "x": torch.zeros(1, 1, 8, 8).double(), "target": 0} | change
    with pytest.raises(ValueError, match=f"gradient_noise_similarity: {message}"):
        gradient_noise_similarity(**arguments)


class Votes(nn.Module):
    """Class 1 if the votes (ids - 10) of the attended tokens sum to more than 0."""

    def forward(self, ids, attention_mask):
        s = ((ids - 10.0) * attention_mask).sum(1)
        return SimpleNamespace(logits=torch.stack([torch.zeros_like(s), s], 1))


def test_decision_flips_by_hand():
    # votes: (+5 -1 -1 0), (+2 +2 -3 0), (+5 +1 pad pad), special token first in the last: (+9 -1 -1 -1)
    ids = torch.tensor([[15, 9, 9, 10], [12, 12, 7, 10], [15, 11, 0, 0], [19, 9, 9, 9]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]])
    tokens = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]])
    scores = (ids - 10.0) * mask
    options = {"tokens": tokens, "mask": mask}
    assert dffot(Votes(), ids, scores, **options).tolist() == [1, 1, 0, 0]
    expected = [1 / 4, 1 / 4, 2 / 2, 1.0]
    assert dfmit(Votes(), ids, scores, **options).tolist() == expected
    assert dfmit(Votes(), ids, -scores, batch_size=1, **options).tolist()[0] == 1.0
    with pytest.raises(ValueError, match="ids and scores must have the same shape"):
        dfmit(Votes(), ids, scores[:2])
