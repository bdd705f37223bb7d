"""Concept banks, bottlenecks and their stability."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from sklearn.svm import SVC

from spade_xai.lottery import concepts as cp
from spade_xai.lottery import pcbm as pc
from spade_xai.lottery import stability as st
from spade_xai.lottery.stages import bank_file, pcbm_of, projections
from spade_xai.lottery.tcav import tcav_scores


def cloud(n=160, dims=6, seed=0):
    """Embeddings whose first two entries carry two concepts, and the concepts' labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(n, 2, generator=generator) < 0.5).to(torch.int8)
    x = torch.randn(n, dims, generator=generator)
    x[:, :2] += 3 * labels - 1.5
    return x, labels


def test_projections_are_the_margins_of_the_svm():
    x, labels = cloud()
    bank = cp.fit_bank(x, labels, ("a", "b"), cp.BankSettings(count=30, penalties=(0.1,)), 0)
    assert bank.accuracy.min() > 0.85 and bank.known.all()
    for c, name in enumerate(bank.names):
        draw = cp._draw(labels[:, c], 30, 0, name)
        machine = SVC(kernel="linear", C=0.1).fit(
            x[draw.fit].double().numpy(), labels[draw.fit, c].numpy()
        )
        margins = machine.decision_function(x.double().numpy()) / np.linalg.norm(machine.coef_)
        np.testing.assert_allclose(bank.project(x)[:, c], margins, rtol=1e-6, atol=1e-6)
        held = draw.validation
        area = roc_auc_score(labels[held, c].numpy(), margins[held])
        assert float(bank.auroc[c]) == pytest.approx(area)


def test_pictures_that_validate_do_not_fit():
    labels = torch.tensor([1] * 7 + [0] * 30 + [-1] * 5, dtype=torch.int8)
    draw = cp._draw(labels, 10, 0, "few")
    assert not set(draw.fit.tolist()) & set(draw.validation.tolist())
    assert len(draw.fit) == 20 and (labels[draw.fit] == 1).sum() == 10
    assert len(draw.validation) == 6 and draw.repeated
    assert not cp._draw(torch.tensor([0, 1] * 40, dtype=torch.int8), 10, 0, "many").repeated


def test_what_no_direction_tells_is_not_above_chance():
    x, labels = cloud(400)
    noise = torch.randn(400, 6, generator=torch.Generator().manual_seed(9))
    bank = cp.fit_bank(noise, labels, ("a", "b"), cp.BankSettings(count=80), 0)
    assert not bank.known.any()
    with pytest.raises(
        ValueError, match="concept 'a' must have at least 2 pictures with it, got 0"
    ):
        cp.fit_bank(x, torch.zeros_like(labels), ("a", "b"), cp.BankSettings(), 0)
    with pytest.raises(ValueError, match="kind must be one of svm, logistic"):
        cp.fit_bank(x, labels, ("a", "b"), cp.BankSettings(kind="tree"), 0)


def test_logistic_bank_gives_probabilities_and_leaves_out_what_is_not_labelled():
    x, labels = cloud(400)
    settings = cp.BankSettings(kind="logistic", count=40, rate=0.5)
    bank = cp.fit_bank(x, labels, ("a", "b"), settings, 0)
    p = bank.project(x)
    assert ((p > 0) & (p < 1)).all() and bank.accuracy.min() > 0.85
    left_out = labels.clone()
    left_out[x[:, 0] > 2, 0] = -1
    other = cp.fit_bank(x, left_out, ("a", "b"), settings, 0)
    assert not torch.equal(other.vectors[0], bank.vectors[0])


def test_bank_files(tmp_path):
    x, labels = cloud()
    bank = cp.fit_bank(x, labels, ("a", "b"), cp.BankSettings(count=20), 0)
    cp.write_bank(tmp_path / "b.safetensors", bank, "key")
    read = cp.read_bank(tmp_path / "b.safetensors")
    assert read.names == bank.names and torch.equal(read.vectors, bank.vectors)
    assert torch.equal(read.project(x), bank.project(x))


@pytest.mark.parametrize("solver", pc.SOLVERS)
@pytest.mark.parametrize("classes", [2, 3])
def test_bottlenecks_learn_and_two_classes_are_two_rows(solver, classes):
    labels = cloud(300)[1]
    z = labels.double()
    y = labels[:, 0].long() + (labels[:, 1].long() if classes == 3 else 0)
    settings = pc.PCBMSettings(solver=solver, penalty=1e-4, epochs=60, rate=0.05)
    model = pc.fit_pcbm(z, y, classes, settings, 0)
    assert model.weight.shape == (classes, 2)
    found = pc.scores(model.logits(z), y)
    assert found["accuracy"] > (0.99 if classes == 2 else 0.6)
    if solver == "sgd_classifier" and classes == 2:
        assert torch.equal(model.weight[0], -model.weight[1])


def test_elastic_net_and_residual():
    x, labels = cloud(300)
    y = (x[:, 3] > 0).long()  # not in the concepts, but in the embedding
    z = labels.double()
    plain = pc.fit_pcbm(z, y, 2, pc.PCBMSettings(epochs=40, residual=True), 0, x)
    assert pc.scores(plain.logits(z), y)["accuracy"] < 0.65
    assert pc.scores(plain.logits(z, x), y)["accuracy"] > 0.9
    strong = pc.fit_pcbm(z, y, 2, pc.PCBMSettings(epochs=40, penalty=1.0), 0)
    assert strong.weight.abs().sum() < 0.2 * plain.weight.abs().sum() + 0.05
    with pytest.raises(ValueError, match="embeddings need a residual"):
        strong.logits(z, x)
    with pytest.raises(ValueError, match="solver must be one of adam"):
        pc.fit_pcbm(z, y, 2, pc.PCBMSettings(solver="lbfgs"), 0)


def test_scores_agree_with_scikit_learn():
    torch.manual_seed(3)
    y = torch.randint(0, 3, (90,))
    logits = torch.randn(90, 3)
    found = pc.scores(logits, y)
    area = roc_auc_score(y.numpy(), logits.softmax(1).numpy(), multi_class="ovr")
    assert found["auroc"] == pytest.approx(area)
    two = pc.scores(logits[:, :2], y.clamp(max=1))
    assert two["auroc"] == pytest.approx(
        roc_auc_score(y.clamp(max=1), logits[:, :2].softmax(1)[:, 1])
    )


def test_local_concepts_are_weights_times_projections():
    model = pc.PCBM(torch.tensor([[1.0, -2.0], [0.5, 3.0]]), torch.zeros(2))
    z = torch.tensor([[2.0, 1.0], [1.0, 1.0]])
    found = pc.contributions(model, z, torch.tensor([0, 1]))
    assert found.tolist() == [[2.0, -2.0], [0.5, 3.0]]
    assert pc.top_concepts(torch.tensor([[1.0, 3.0, 3.0, 2.0]])).tolist() == [[1, 2, 3]]


def test_identical_tickets_have_stability_1_and_opposite_ones_the_least():
    w = torch.randn(4, 12)
    assert all(
        torch.allclose(v, torch.ones(4, dtype=v.dtype)) for v in vars(st.stability(w, w)).values()
    )
    other = st.stability(w, -w)
    assert (other.jaccard_top3 == 0).all() and torch.allclose(
        other.spearman, -torch.ones(4, dtype=torch.float64)
    )
    a, b = torch.randn(2, 5, 9)
    found = st.stability(a, b).spearman
    expected = [spearmanr(x, y).statistic for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_rank_biased_overlap_by_hand():
    """Rankings abc and bac: agreement 0, 1, 1 at depths 1, 2, 3."""
    found = st.rank_biased_overlap(
        torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[2.0, 3.0, 1.0]]), 0.9
    )
    assert float(found) == pytest.approx(0.1 * (0 + 0.9 + 0.81) + 0.9**3)


def test_chance_is_what_random_rows_share():
    for concepts in (8, 108):
        floor = float(st.random_rows(2, concepts, draws=4000).jaccard_top3[0])
        assert st.chance_jaccard(concepts, 3) == pytest.approx(floor, abs=0.02)
    values = torch.tensor([st.chance_jaccard(8, 3), 1.0], dtype=torch.float64)
    assert st.adjusted(values, st.chance_jaccard(8, 3)).tolist() == pytest.approx([0, 1])
    assert st.adjusted(values, 1.0).isnan().all()
    with pytest.raises(ValueError, match=r"weights and dense must be \[classes, concepts\]"):
        st.stability(torch.zeros(2, 3), torch.zeros(3, 2))


def test_stages_use_the_tickets_own_embeddings(finished_run):
    """Projections of a ticket are what its network and its bank give."""
    arm = finished_run.arm("magnitude", 1)
    model, head = arm.model(2), finished_run.layers[0]
    read = []
    model.get_submodule(head).register_forward_pre_hook(lambda m, args: read.append(args[0]))
    with torch.no_grad():
        model(finished_run.data.test.images.float() / 255)
    bank = cp.read_bank(bank_file(finished_run, arm, 2))
    torch.testing.assert_close(
        projections(finished_run, arm, 2)[1], bank.project(read[0]), rtol=1e-4, atol=1e-4
    )
    record = pcbm_of(finished_run, arm, 2)[1]
    assert (
        set(record["test"]) == set(record["test_h"]) == {"accuracy", "balanced_accuracy", "auroc"}
    )


def test_tcav_of_the_log_probability(finished_run):
    """captum's score is the share of pictures whose log-probability grows along the concept."""
    arm = finished_run.arm("magnitude", 0)
    model, head = arm.model(0), finished_run.layers[0]
    bank = cp.read_bank(bank_file(finished_run, arm, 0))
    images = finished_run.data.test.images[:8].float() / 255
    sign, magnitude = tcav_scores(model, head, bank, images, 1)
    read = []
    layer = model.get_submodule(head)
    handle = layer.register_forward_pre_hook(
        lambda m, args: read.append(args[0].detach().requires_grad_())
    )
    with torch.no_grad():
        model(images)
    handle.remove()
    layer(read[0]).log_softmax(1)[:, 1].sum().backward()
    along = read[0].grad.double() @ bank.vectors.T
    assert sign.tolist() == pytest.approx((along > 0).double().mean(0).tolist())
    torch.testing.assert_close(
        magnitude.double(), (along / bank.norms).mean(0), rtol=1e-3, atol=1e-5
    )
