"""Grad-CAM three ways, its drift, and the terms of the loss that hold it."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from spade_xai.lottery import gradcam as gc
from spade_xai.lottery.difficulty import correlation, forgetting, measures_of, thirds
from spade_xai.lottery.difficulty import difficulty as rank
from spade_xai.lottery.drift import drift, relevance
from spade_xai.lottery.maps import MapSettings, maps_stage
from spade_xai.lottery.networks import ShapesResNet, find_head, find_last_maps
from spade_xai.lottery.penalties import GradCAMPenalty, one_minus_cosine
from spade_xai.lottery.regularize import arm_name, regularize
from spade_xai.lottery.storage import finite, read_json, read_state


@pytest.fixture
def network():
    model = ShapesResNet(6).double()
    model(torch.rand(16, 3, 32, 32, dtype=torch.float64))  # running statistics
    return (
        model.eval(),
        torch.rand(5, 3, 32, 32, dtype=torch.float64),
        torch.tensor([0, 1, 2, 3, 5]),
    )


def test_layers_are_found(network):
    model, images, _ = network
    assert find_head(model) == "fc" and find_last_maps(model, images) == "stages"


def test_three_ways_to_the_same_map(network):
    """captum's, one by hand, the differentiable one, and the one of the last stage."""
    model, images, labels = network
    found = gc.gradcam(model, "stages", images, labels)
    maps = model.stages(model.stem(images)).detach().requires_grad_()
    logits = model.fc(model.flatten(model.pool(maps)))
    (slope,) = torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), maps)
    by_hand = F.relu((slope.mean((2, 3), keepdim=True) * maps).sum(1))
    assert by_hand.abs().max() > 0
    torch.testing.assert_close(found, by_hand)
    torch.testing.assert_close(gc.differentiable_gradcam(model, "stages", images, labels), by_hand)
    torch.testing.assert_close(gc.last_stage_gradcam(maps, model.fc, labels), by_hand)
    assert gc.ends_in_mean_pooling(model, "stages", "fc", images)
    assert not gc.ends_in_mean_pooling(model, "stages.1", "fc", images)


def test_the_differentiable_forms_have_one_gradient(network):
    model, images, labels = network
    grads = []
    for form in ("twice", "last"):
        model.zero_grad()
        if form == "twice":
            maps = gc.differentiable_gradcam(model, "stages", images, labels)
        else:
            with gc.feature_maps(model, "stages") as seen:
                model(images)
                maps = gc.last_stage_gradcam(seen.take(), model.fc, labels)
        maps.square().sum().backward()
        grads.append([p.grad.clone() for n, p in model.named_parameters() if n != "fc.bias"])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_gradient_of_the_term(network):
    """gradcheck over the feature maps and the last layer's weight."""
    torch.manual_seed(1)
    maps = torch.rand(3, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(2, 4, dtype=torch.float64, requires_grad=True)
    dense, labels = torch.rand(3, 9, dtype=torch.float64), torch.tensor([0, 1, 1])

    def term(a, w):
        head = nn.Linear(4, 2).double()
        del head.weight
        head.weight = w
        found = gc.last_stage_gradcam(a, head, labels).flatten(1)
        return 1 - torch.cosine_similarity(found, dense, dim=1).mean()

    assert torch.autograd.gradcheck(term, (maps, weight))
    zero = torch.zeros(2, 9, requires_grad=True)
    one_minus_cosine(zero, torch.rand(2, 9)).backward()
    assert zero.grad.isfinite().all()


def test_term_of_the_dense_network_with_itself_is_the_share_of_zero_maps(network):
    model, images, labels = network
    maps = gc.gradcam(model, "stages", images, labels)
    zero = float((maps.flatten(1).max(1).values == 0).double().mean())
    assert zero < 1
    penalty = GradCAMPenalty(1.0, copy.deepcopy(model), "stages", "fc", last_stage=True)
    with penalty.start(model):
        model(images)
        value = penalty.value(model, images, labels, torch.arange(5)).detach()
    assert float(value) == pytest.approx(zero, abs=1e-5)


def test_second_pass_leaves_the_network_as_it_was(network):
    model, images, labels = network
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    penalty = GradCAMPenalty(1.0, copy.deepcopy(model).eval(), "stages.1", "fc", last_stage=False)
    with penalty.start(model):
        penalty.value(model, images, labels, torch.arange(5)).backward()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(m.training and m.track_running_stats for m in norms)


def test_enlarged_maps_have_a_maximum_of_1_or_are_zero():
    maps = torch.rand(3, 4, 4)
    maps[1] = 0
    found = gc.enlarged(maps, 16)
    assert found.shape == (3, 16, 16) and found.flatten(1).max(1).values.tolist() == [1, 0, 1]


def test_drift_of_equal_moved_and_zero_maps():
    dense = torch.zeros(3, 10, 10)
    dense[:, 2:5, 2:5] = 1 + torch.rand(3, 3, 3)
    maps = dense.clone()
    maps[1] = dense[1].roll((4, 0), (0, 1))
    maps[2] = 0
    found = drift(maps, dense)
    assert found.spearman.tolist()[0] == pytest.approx(1) and float(found.iou_top[0]) == 1
    assert float(found.iou_threshold[1]) == 0 and float(found.distance[1]) == pytest.approx(
        4 / 200**0.5
    )
    assert found.zero.tolist() == [False, False, True] and found.distance[2].isnan()
    assert float(found.cosine[2]) == float(found.spearman[2]) == float(found.iou_top[2]) == 0
    with pytest.raises(ValueError, match=r"drift: maps and dense must be \[B, H, W\] of one shape"):
        drift(maps, dense[:2])


def test_relevance_of_a_map_inside_and_of_a_zero_map():
    regions = torch.zeros(2, 6, 6, dtype=torch.bool)
    regions[:, :3] = True
    maps = torch.zeros(2, 6, 6)
    maps[0, 1, 1], maps[0, 5, 5] = 3.0, 1.0
    found = relevance(maps, regions)
    assert found["energy"].tolist() == [0.75, 0.0] and found["pointing_game"].tolist() == [1, 0.5]


def test_stage_compares_with_the_dense_network(finished_run):
    arm = finished_run.arm("magnitude", 0)
    same, other = (read_state(arm.file("drift", k, "safetensors"), "drift")[0] for k in (0, 2))
    moved = ~same["drift/zero"]
    assert (same["drift/iou_threshold"][moved] == 1).all()
    assert other["drift/iou_threshold"].mean() < 1
    assert torch.equal(same["insertion/own"], same["insertion/dense"])
    assert {"relevance/energy", "relevance/pointing_game", "relevance/auroc"} <= set(other)


def test_other_methods_and_traces(own_run):
    maps_stage(own_run, MapSettings("saliency", limit=4))
    arm = own_run.arm("magnitude", 0)
    maps = read_state(arm.file("maps", 1, "safetensors"), "maps")[0]["maps"]
    assert maps.shape == (4, 32, 32) and (maps >= 0).all()
    for k in (1, 2):  # two tickets suffice for traces
        for kind in ("ticket", "maps", "drift"):
            for suffix in ("json", "safetensors"):
                own_run.arm("magnitude", 1).file(kind, k, suffix).unlink(missing_ok=True)
    arm.file("ticket", 2, "json").unlink()
    maps_stage(own_run, MapSettings(limit=4, traces=1, augmentations=8))
    found = read_state(arm.file("drift", 1, "safetensors"), "drift")[0]
    assert (
        found["traced/iou_threshold"].shape == (1,)
        and found["traced/answer_kept"].dtype == torch.bool
    )
    with pytest.raises(ValueError, match="method must be one of gradcam, saliency"):
        maps_stage(own_run, MapSettings("gradient"))


@pytest.mark.parametrize(
    "form, layer", [("gradcam", None), ("concepts", None), ("gradcam", "stages.1")]
)
def test_weight_0_is_the_plain_ticket_bit_for_bit(own_run, form, layer):
    for kind in ("ticket", "bank", "maps", "drift", "pcbm"):  # one seed suffices
        for path in own_run.arm("magnitude", 0).run.path.glob(f"magnitude/seed_1/{kind}_*"):
            path.unlink()
    record = regularize(own_run, [5.0], form=form, layer=layer, tickets=[1])
    assert record["zero_equals_plain"] and record["weights"] == [0.0, 5.0]
    held = own_run.arm(arm_name("magnitude", form, layer, 5.0), 0).ticket(1)
    plain = own_run.arm("magnitude", 0).ticket(1)
    assert all(torch.equal(held.masks[n], m) for n, m in plain.masks.items())
    assert not torch.equal(held.state["fc.weight"], plain.state["fc.weight"])
    first, last = held.record["epochs"][0]["penalty"], held.record["epochs"][-1]["penalty"]
    free = own_run.arm(arm_name("magnitude", form, layer, 0.0), 0).ticket(1).record["epochs"]
    assert 0 < last < free[-1]["penalty"] and first > 0
    zero = {r["measure"]: r["minus_plain"]["mean"] for r in record["rows"] if r["weight"] == 0}
    assert set(zero.values()) == {0.0}
    assert read_json(own_run.path / "regularize.json", "regularize")["runs"] == [finite(record)]


def test_difficulty_counts_forgetting_and_thirds():
    answers = torch.tensor([[0, 1, 0], [0, 0, 1], [0, 1, 1], [1, 0, 1]])
    assert forgetting(answers, torch.tensor([0, 1, 2])).tolist() == [1, 2, 4]
    values = torch.arange(9, dtype=torch.float64)
    found = thirds(-values, values)
    assert [found[k]["mean"] for k in ("easy", "middle", "hard")] == [7, 4, 1]
    row = correlation(torch.arange(30.0), -torch.arange(30.0).double(), 0, draws=50)
    assert row["spearman"] == pytest.approx(-1) and row["interval"] == pytest.approx([-1, -1])
    assert correlation(torch.zeros(9), torch.rand(9), 0)["spearman"] is None


def test_difficulty_of_a_run(own_run):
    record = rank(own_run)
    arms = own_run.arms()
    hard = measures_of(own_run, arms)
    logits = [read_state(a.file("logits", 0, "safetensors"), "logits")[0]["test"] for a in arms]
    labels = own_run.data.test.labels
    expected = sum(F.cross_entropy(x.double(), labels, reduction="none") for x in logits) / 2
    torch.testing.assert_close(hard["loss"], expected)
    assert {r["pictures"] for r in record["rows"]} == {"all", "right"}
    assert {r["ticket"] for r in record["rows"]} == {1, 2}
