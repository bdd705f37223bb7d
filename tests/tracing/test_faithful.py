"""Faithful traces: the verdict, the search for sparsities, and other sparsities from the same elimination."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from spade_xai import UnfaithfulTraceWarning, load_trace, trace, trace_many
from spade_xai.exceptions import MemoryLimitWarning
from spade_xai.models.layers import find_layers
from spade_xai.tracing import faithful
from spade_xai.tracing.layer_weights import layer_weights
from spade_xai.tracing.memory import plan_memory
from spade_xai.tracing.nearby import COUNT, nearby
from spade_xai.tracing.pruning.registry import PRUNING_METHODS
from spade_xai.tracing.sample import TracedSample
from spade_xai.tracing.trial import Trial
from spade_xai.tracing.verdict import Probe

OPTIONS = {"augmentations": 24, "batch_size": 8, "progress": False}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(12 * 25, 10),
    ).eval()  # fmt: skip


@pytest.fixture
def sample():
    return torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def noise(batch):
    return batch + 0.1 * torch.randn_like(batch)


def source(sample, augment=None):
    return TracedSample(sample, augment, len(sample), 0)


@pytest.mark.parametrize("method", ["obc", "sparsegpt", "magnitude"])
def test_the_default_keeps_the_answer_and_prunes(model, sample, method):
    made = trace(model, sample, method=method, augment=noise, **OPTIONS)
    assert made.faithful and made.fidelity().faithful and made.fidelity().reasons == ()
    with torch.no_grad():
        dense, sparse = model(sample).softmax(1)[0], made.model(sample).softmax(1)[0]
    answer = int(dense.argmax())
    assert made.verdict.answer == made.verdict.dense_answer == answer == int(sparse.argmax())
    assert made.verdict.probability == pytest.approx(float(sparse[answer]), rel=1e-4)
    assert made.verdict.dense_probability == pytest.approx(float(dense[answer]), rel=1e-4)
    assert float(sparse[answer]) >= 0.5 * float(dense[answer])
    got = [layer.sparsity_got for layer in made.layers]
    assert max(got) > (0.15 if method == "magnitude" else 0.3)
    for layer in made.layers:
        assert layer.relative_loss <= faithful.MOST_ERROR * 1.01
        assert layer.sparsity_asked in faithful.LEVELS
    many = list(trace_many(model, sample, method=method, augment=noise, **OPTIONS))
    assert many[0].agreement(made) == dict.fromkeys(made.masks(), 1.0)


@pytest.mark.parametrize("method", ["obc", "sparsegpt"])
def test_any_sparsity_comes_from_the_same_elimination(model, sample, method, monkeypatch):
    options = {"method": method, "augment": noise, **OPTIONS}
    made = trace(model, sample, **options)
    expected = trace(model, sample, sparsity=0.5, **options)
    monkeypatch.setattr(
        type(PRUNING_METHODS[method]), "prepare", None
    )  # nothing is eliminated again
    half = made.at(0.5)
    assert half.agreement(expected) == {"0": 1.0, "2": 1.0, "5": 1.0}
    for a, b in zip(half.model.parameters(), expected.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    for got, wanted in zip(half.layers, expected.layers, strict=True):
        assert got.sparsity_asked == 0.5 and got.loss == pytest.approx(wanted.loss, rel=1e-5)
        assert got.status == wanted.status
    assert half.verdict == expected.verdict
    assert expected.at("faithful").agreement(made) == made.agreement(made)
    assert made.at({"5": 0.9}).layers[0].status == "dense"
    assert made.at({"5": 0.9}).at(0.5).agreement(half) == half.agreement(half)


def test_other_traces_do_not_keep_their_eliminations(model, sample, tmp_path):
    (many,) = trace_many(model, sample, sparsity=0.5, augment=noise, **OPTIONS)
    in_turn = trace(model, sample, sparsity=0.5, sequential=True, augment=noise, **OPTIONS)
    in_turn.save(tmp_path / "a")
    loaded = load_trace(tmp_path / "a", model)
    assert loaded.verdict == in_turn.verdict is not None
    for made in (many, in_turn, loaded):
        with pytest.raises(ValueError, match=r"Trace\.at: the trace must come from spade_xai"):
            made.at(0.2)


def test_an_unfaithful_trace_says_so(model, sample, tmp_path):
    with pytest.warns(UnfaithfulTraceWarning, match=r"trace: the trace is not faithful .* class"):
        made = trace(model, sample, sparsity=1.0, augment=noise, **OPTIONS)
    assert not made.faithful and not made.fidelity().faithful
    assert "where the dense model answers" in made.verdict.reasons[0]
    made.save(tmp_path / "a")
    assert load_trace(tmp_path / "a", model).verdict == made.verdict


def test_layers_that_do_not_fit_are_kept_in_files_and_give_the_same(model, sample):
    whole = trace(model, sample, augment=noise, **OPTIONS)
    plan = plan_memory(
        find_layers(model), method=PRUNING_METHODS["obc"], samples=1, max_memory=None
    )
    with pytest.warns(MemoryLimitWarning):
        parts = trace(model, sample, augment=noise, max_memory=plan.bytes - 1, **OPTIONS)
    assert parts.agreement(whole) == whole.agreement(whole)
    assert parts.at(0.7).agreement(whole.at(0.7)) == {"0": 1.0, "2": 1.0, "5": 1.0}


def test_sequential_takes_the_faithful_sparsities(model, sample):
    parallel = trace(model, sample, augment=noise, **OPTIONS)
    made = trace(model, sample, sequential=True, augment=noise, **OPTIONS)
    assert [x.sparsity_asked for x in made.layers] == [x.sparsity_asked for x in parallel.layers]


@pytest.mark.parametrize("most", [0.0, 0.3, 0.6])
def test_the_search_ends_at_the_first_unfaithful_budget(model, sample, monkeypatch, most):
    """With a verdict that fails above a mean sparsity, what is found lies below it, and the next budget above."""
    judged = []

    def judge(self):
        weights = [p for p in self.sparse.parameters() if p.ndim > 1]
        mean = sum(float((w == 0).float().mean()) for w in weights) / len(weights)
        judged.append(mean)
        found = self.dense_verdict()
        return found if mean <= most else replace(found, faithful=False)

    monkeypatch.setattr(Trial, "judge", judge)
    made = trace(model, sample, augment=noise, **OPTIONS)
    got = sum(x.sparsity_got for x in made.layers) / 3
    assert got <= most
    assert max(judged) > most
    assert got == pytest.approx(
        max((mean for mean in judged if mean <= most), default=0.0), abs=1e-6
    )
    assert len(judged) <= len(faithful.BUDGETS) + 2


def test_layers_that_move_the_answer_get_less_error():
    """Against the formula written out for a linear model, whose gradients do not depend on the input."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6, bias=False), nn.Linear(6, 1, bias=False)).double().eval()
    x = torch.randn(1, 5, dtype=torch.float64)
    probe = Probe("test", model, source(x))
    found = layer_weights("test", model, find_layers(model), probe)
    inputs = torch.cat(probe.batches)
    with torch.no_grad():
        first, second = model[0](inputs), model(inputs)
    slopes = {"0": model[1].weight[0], "1": torch.ones(1, dtype=torch.float64)}
    s = {
        name: (slopes[name].square().sum() * y.square().mean(1)).mean().sqrt()
        for name, y in (("0", first), ("1", second))
    }
    middle = (s["0"] * s["1"]).sqrt()
    assert found == {n: pytest.approx(float(middle / v)) for n, v in s.items()}


def test_weights_of_layers_survive_what_follows_in_place():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    inplace = nn.Sequential(plain[0], nn.ReLU(inplace=True), plain[2]).eval()
    x = torch.randn(1, 5)
    found = [
        layer_weights("test", m, find_layers(m), Probe("test", m, source(x)))
        for m in (plain, inplace)
    ]
    assert found[0] == pytest.approx(found[1])
    assert not any(p.grad is not None for p in plain.parameters())


def test_inputs_near_a_sample_are_near_it_and_always_the_same():
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before, state = image.clone(), torch.get_rng_state()
    batch = nearby("test", source(image))
    assert torch.equal(image, before) and torch.equal(torch.get_rng_state(), state)
    assert batch.shape == (COUNT, 3, 32, 32) and torch.equal(batch, nearby("test", source(image)))
    assert batch.amin() >= image.amin() and batch.amax() <= image.amax()
    assert not any(torch.equal(x, image[0]) for x in batch[::3])
    shifted = batch[1]  # the middle of the image is somewhere in it
    assert any(
        torch.equal(shifted[:, 4 + y : 28 + y, 4 + x : 28 + x], image[0, :, 4:28, 4:28])
        for y in range(-2, 3)
        for x in range(-2, 3)
    )
    signals = {"x": torch.randn(2, 7), "scale": torch.ones(2, 1)}
    near = nearby("test", TracedSample(signals, None, 2, 0))
    assert near["x"].shape == (COUNT, 7) and torch.equal(near["scale"], torch.ones(COUNT, 1))
    tokens = torch.tensor([[1, 2, 3]])
    assert nearby("test", source(tokens)) is None
    drawn = nearby("test", TracedSample(tokens, lambda t: t.flip(1), 100, 0))
    assert torch.equal(drawn, torch.tensor([[3, 2, 1]]).expand(COUNT, 3))


class Head(nn.Module):
    """Classes from a mean over places; drop: as a forward pass with .squeeze() gives them."""

    def __init__(self, classes, drop):
        super().__init__()
        self.body, self.head, self.drop = nn.Conv2d(3, 8, 3), nn.Linear(8, classes), drop

    def forward(self, x):
        pooled = self.body(x).relu().mean((2, 3), keepdim=True)
        return self.head(pooled.squeeze() if self.drop else pooled.flatten(1))


def test_a_forward_pass_that_drops_the_batch_of_one_is_judged():
    torch.manual_seed(0)
    plain, image = Head(5, drop=False).eval(), torch.rand(1, 3, 16, 16)
    squeezing = Head(5, drop=True).eval()
    squeezing.load_state_dict(plain.state_dict())
    made = [
        trace(m, image, sparsity=0.5, augmentations=16, progress=False) for m in (plain, squeezing)
    ]
    assert made[0].fidelity().sample == made[1].fidelity().sample
    assert made[0].verdict.dense_answer == made[1].verdict.dense_answer


def test_a_single_logit_is_judged_by_its_sign():
    torch.manual_seed(0)
    model, image = Head(1, drop=False).eval(), torch.rand(1, 3, 16, 16)
    made = trace(model, image, sparsity=0.3, augmentations=16, progress=False)
    sparse = made.model
    with torch.no_grad():
        z = model(image)
        model.head.bias -= 2 * z[0] if z > 0 else 0  # below 0
        sparse.head.bias.copy_(model.head.bias + 2 * model(image).abs()[0])  # and above
        assert model(image) < 0 < sparse(image)
    fidelity = made.fidelity()
    assert fidelity.sample.label == 0.0 and fidelity.sample.cosine == -1.0
    assert not fidelity.faithful
    assert (fidelity.verdict.dense_answer, fidelity.verdict.answer) == (0, 1)
    assert fidelity.verdict.probability == pytest.approx(float(sparse(image).sigmoid()), rel=1e-4)


def test_outputs_that_do_not_fit_are_refused():
    model = nn.Sequential(nn.Linear(4, 3), nn.Flatten(0))
    with pytest.raises(
        ValueError, match=r"trace: model must give logits \[B, classes\], got shape"
    ):
        trace(model, torch.rand(2, 4), augment=None, progress=False)
