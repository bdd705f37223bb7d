"""Tickets: exact counts, zeros that stay, rewinding, and interrupted runs that end as uninterrupted ones."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from tiny_runs import THREE, tiny

from spade_ext import sparsegpt_prune
from spade_xai.lottery import masks as m
from spade_xai.lottery import tickets as tk
from spade_xai.lottery.folder import Pruning
from spade_xai.lottery.kernel_scores import hessian_scores
from spade_xai.lottery.storage import RunError, read_state
from spade_xai.lottery.train import Training


def states(arm):
    return {number: arm.ticket(number).state for number in arm.numbers()}


def same(a, b):
    return (
        all(torch.equal(a[k][name], b[k][name]) for k in a for name in a[k])
        and a.keys() == b.keys()
    )


def test_counts_are_exact_in_each_round_and_masks_are_nested(finished_run):
    arm = finished_run.arm("magnitude", 0)
    assert arm.numbers() == [0, 1, 2]
    before = {name: torch.ones_like(mask) for name, mask in arm.ticket(0).masks.items()}
    expected = {name: mask.numel() for name, mask in before.items()}
    for number in arm.numbers():
        ticket = arm.ticket(number)
        counts = {name: int(mask.sum()) for name, mask in ticket.masks.items()}
        if number:
            expected = {name: n - math.floor(n * 3 / 10) for name, n in expected.items()}
        assert counts == expected
        assert all((ticket.masks[name] <= before[name]).all() for name in before)
        assert {n: c[0] for n, c in ticket.record["alive_by_layer"].items()} == counts
        assert ticket.alive == sum(counts.values()) / ticket.record["weights"]
        before = ticket.masks
    assert "fc.weight" in counts and not any("bias" in name for name in counts)


def test_dead_weights_are_exactly_zero_and_the_network_is_plain(finished_run):
    arm = finished_run.arm("magnitude", 0)
    ticket = arm.ticket(2)
    model = arm.model(2)
    for name, mask in ticket.masks.items():
        weight = model.get_parameter(f"network.{name}")
        assert (weight[~mask] == 0).all() and (weight[mask] != 0).any()
    images = finished_run.data.test.images[:5].float() / 255
    logits = read_state(arm.file("logits", 2, "safetensors"), "logits")[0]["test"]
    torch.testing.assert_close(model(images), logits[:5], rtol=1e-4, atol=1e-4)


def test_rounds_begin_at_the_state_to_rewind_to_bit_for_bit(new_run, monkeypatch):
    begun = []
    train_round = tk.train_round

    def watched(job, *args, **options):
        begun.append({n: v.clone() for n, v in job.model.state_dict().items()})
        return train_round(job, *args, **options)

    monkeypatch.setattr(tk, "train_round", watched)
    arm = tk.find_tickets(new_run, THREE, 3)
    theta = read_state(arm.path / "theta_rewind.safetensors", "state")[0]
    assert len(begun) == 3
    for state in begun:
        assert state.keys() == theta.keys()
        assert all(torch.equal(state[name], theta[name]) for name in theta)
    assert any("running_mean" in name for name in theta)


def test_late_rewinding_takes_the_state_of_that_step(tmp_path):
    run = tiny(tmp_path / "run")
    arm = tk.find_tickets(run, replace(THREE, rounds=2, rewind="4it"), 0)
    theta, head = read_state(arm.path / "theta_rewind.safetensors", "state")
    assert head == {"step": 4} and arm.name == "magnitude-rewind4it"
    assert int(theta["stem.1.num_batches_tracked"]) == 4
    again = tk.find_tickets(tiny(tmp_path / "two"), replace(THREE, rounds=2, rewind="1ep"), 0)
    assert read_state(again.path / "theta_rewind.safetensors", "state")[1] == {"step": 3}


@pytest.mark.parametrize("text", ["-1", "6it", "2ep", "x", "1.5ep"])
def test_rewind_must_lie_in_round_0(text):
    with pytest.raises(ValueError, match="find_tickets: rewind must"):
        tk.rewind_step(text, Training(epochs=2, batch=32), 96)


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_interrupted_runs_end_as_uninterrupted_ones(finished_run, tmp_path, monkeypatch, stop):
    """The process dies right after an epoch's checkpoint, or between a ticket's files."""
    run = tiny(tmp_path / "run")
    count = 0
    real = tk.write_log

    def dies(*args):
        nonlocal count
        real(*args)
        count += 1
        if count == stop:
            raise KeyboardInterrupt

    monkeypatch.setattr(tk, "write_log", dies)
    with pytest.raises(KeyboardInterrupt):
        tk.find_tickets(run, THREE, 0)
    monkeypatch.setattr(tk, "write_log", real)
    arm = tk.find_tickets(run, THREE, 0)
    whole = finished_run.arm("magnitude", 0)
    assert same(states(arm), states(whole))
    assert (arm.path / "log.jsonl").read_text() == (whole.path / "log.jsonl").read_text()
    lines = (arm.path / "log.jsonl").read_text().splitlines()
    assert [(json.loads(x)["round"], json.loads(x)["epoch"]) for x in lines] == [
        (k, e) for k in range(3) for e in range(2)
    ]
    assert not (arm.path / "checkpoint.safetensors").exists()


def test_a_killed_process_is_taken_up(finished_run, tmp_path):
    """kill -9 once a checkpoint is there; the run ends with the same bits."""
    path = tmp_path / "run"
    program = (
        "import pathlib, sys; from tiny_runs import THREE, find_tickets, tiny; "
        "find_tickets(tiny(pathlib.Path(sys.argv[1])), THREE, 0)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", program, str(path)]
    process = subprocess.Popen(command, env=environment, cwd=tmp_path)
    checkpoint = path / "magnitude" / "seed_0" / "checkpoint.safetensors"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    arm = tk.find_tickets(tiny(path), THREE, 0)
    assert same(states(arm), states(finished_run.arm("magnitude", 0)))


def test_a_death_between_the_files_of_a_ticket_is_mended(finished_run, tmp_path):
    run = tiny(tmp_path / "run")
    arm = tk.find_tickets(run, replace(THREE, rounds=2), 0)
    arm.file("ticket", 1, "json").unlink()
    tk.find_tickets(run, replace(THREE, rounds=2), 0)
    assert torch.equal(
        arm.ticket(1).state["fc.weight"],
        finished_run.arm("magnitude", 0).ticket(1).state["fc.weight"],
    )


def test_other_settings_and_damaged_files_are_refused(own_run):
    with pytest.raises(RunError, match=r"begun with other settings: pruning must be"):
        tk.find_tickets(own_run, replace(THREE, share=0.2), 0)
    with pytest.raises(RunError, match="run of other training"):
        tiny(own_run.path, rate=0.1)
    arm = own_run.arm("magnitude", 0)
    text = arm.file("ticket", 1, "json").read_text()
    arm.file("ticket", 1, "json").write_text(text.replace('"best_epoch": ', '"best_epoch": 1'))
    with pytest.raises(RunError, match="does not have its digest"):
        arm.ticket(1)


@pytest.mark.parametrize(
    "wrong, text",
    [
        ({"share": 0.0}, "share must be in"),
        ({"criterion": "largest"}, "criterion must be one of magnitude"),
        ({"scope": "row"}, "scope must be one of layer, global"),
        ({"scope": "global", "criterion": "structured"}, "scope must be 'layer' for structured"),
        ({"norms": True, "criterion": "obc"}, "norms must be False"),
        (
            {"reinit": True, "criterion": "random"},
            "reinit takes the masks of criterion 'magnitude'",
        ),
        ({"rounds": 0}, "rounds must be at least 1"),
    ],
)
def test_bad_settings_are_named(new_run, wrong, text):
    with pytest.raises(ValueError, match=text):
        tk.find_tickets(new_run, replace(THREE, **wrong), 0)


def test_fresh_weights_need_the_masks_of_magnitude_and_take_them(own_run, tmp_path):
    with pytest.raises(RunError, match="find its tickets first"):
        tk.find_tickets(tiny(tmp_path / "empty"), replace(THREE, reinit=True), 0)
    arm = tk.find_tickets(own_run, replace(THREE, reinit=True), 0)
    base = own_run.arm("magnitude", 0)
    assert arm.name == "magnitude-reinit"
    assert all(torch.equal(arm.ticket(2).masks[n], v) for n, v in base.ticket(2).masks.items())
    theta = [read_state(a.path / "theta_rewind.safetensors", "state")[0] for a in (arm, base)]
    assert not torch.equal(theta[0]["stem.0.weight"], theta[1]["stem.0.weight"])


@pytest.mark.parametrize("criterion", ["random", "sparsegpt", "obc", "gradcam"])
def test_every_criterion_removes_as_many(new_run, finished_run, criterion):
    arm = tk.find_tickets(new_run, replace(THREE, rounds=2, criterion=criterion), 0)
    other = finished_run.arm("magnitude", 0).ticket(1).masks
    found = arm.ticket(1).masks
    assert {n: int(v.sum()) for n, v in found.items()} == {
        n: int(v.sum()) for n, v in other.items()
    }
    assert any(not torch.equal(found[n], other[n]) for n in found)


def test_structured_pruning_removes_whole_channels_and_no_class(new_run):
    arm = tk.find_tickets(new_run, Pruning(rounds=3, share=0.3, criterion="structured"), 0)
    masks = arm.ticket(2).masks
    assert masks["fc.weight"].all()
    for name, mask in masks.items():
        rows = mask.flatten(1)
        assert (rows.all(1) | ~rows.any(1)).all()
        if name != "fc.weight":
            channels = len(mask)
            for _ in range(2):
                channels -= math.floor(channels * 3 / 10)
            assert int(rows.any(1).sum()) == channels


def test_least_goes_and_ties_go_by_lowest_index():
    masks = {"a": torch.tensor([True, True, False, True]), "b": torch.tensor([[True], [True]])}
    scores = {"a": torch.tensor([2.0, 1.0, 0.0, 1.0]), "b": torch.tensor([[0.5], [9.0]])}
    left = m.remove_least(masks, scores, 0.4, "layer")
    assert left["a"].tolist() == [True, False, False, True] and left["b"].all()
    left = m.remove_least(masks, scores, 0.4, "global")
    assert left["a"].tolist() == [True, False, False, True]
    assert left["b"].tolist() == [[False], [True]]
    assert m.count_removed(100, 0.29) == 29  # 0.29 * 100 is less than 29 in floating point
    with pytest.raises(ValueError, match="scores of a must be finite"):
        m.remove_least(masks, {**scores, "a": torch.full((4,), torch.nan)}, 0.4, "layer")


def test_magnitude_agrees_with_torch(new_run):
    """torch.nn.utils.prune removes the same weights where nothing ties."""
    from torch.nn.utils import prune

    model = new_run.network.make(0)
    names = m.prunable(model)
    masks = m.remove_least(
        m.all_alive(model, names), m.magnitudes(model, m.all_alive(model, names)), 0.3, "global"
    )
    pairs = [(model.get_submodule(n.removesuffix(".weight")), "weight") for n in names]
    total = sum(v.numel() for v in masks.values())
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=m.count_removed(total, 0.3))
    for name, (module, _) in zip(names, pairs, strict=True):
        assert torch.equal(module.weight_mask.bool(), masks[name])


def test_sparsegpt_scores_choose_what_the_kernel_prunes(new_run):
    """One block as wide as the layer removes the least w^2 / U_jj^2."""
    from spade_ext import HessianAccumulator

    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 8, bias=False))
    x = torch.randn(64, 12)
    masks = {"1.weight": torch.ones(8, 12, dtype=torch.bool)}
    scores = hessian_scores(model, masks, [x], "sparsegpt")
    left = m.remove_least(masks, scores, 0.5, "layer")["1.weight"]
    sums = HessianAccumulator(model[1])
    sums.update(x)
    pruned = sparsegpt_prune(model[1].weight.detach(), sums.hessian, 0.5, block_size=12)
    assert torch.equal(left, pruned != 0)


def test_obc_scores_choose_what_the_kernel_prunes():
    from spade_ext import HessianAccumulator, obc_prune

    model = torch.nn.Sequential(torch.nn.Linear(10, 6, bias=False))
    x = torch.randn(64, 10)
    masks = {"0.weight": torch.ones(6, 10, dtype=torch.bool)}
    left = m.remove_least(masks, hessian_scores(model, masks, [x], "obc"), 0.4, "layer")["0.weight"]
    sums = HessianAccumulator(model[0])
    sums.update(x)
    pruned = obc_prune(model[0].weight.detach(), sums.hessian, 0.4)
    assert torch.equal(left, pruned != 0)


def test_losses_that_are_not_finite_are_told(tmp_path):
    run = tiny(tmp_path / "run", rate=1e20)
    with pytest.raises(RunError, match="the loss of round 0, epoch 0, step 1 is"):
        tk.find_tickets(run, THREE, 0)
