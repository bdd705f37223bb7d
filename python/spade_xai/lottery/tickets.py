"""Iterative pruning with rewinding (Frankle and Carbin, ICLR 2019): each round trains what the one before left.

Round 0 trains the dense network. Round k takes the last weights of round k - 1, removes a share of those alive, sets
the others and all biases, norms and running statistics back to the state to rewind to, and trains again.
"""

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from spade_ext.checks import check_int
from spade_xai.choices import misnamed
from spade_xai.lottery import masks as m
from spade_xai.lottery.data.pictures import batches
from spade_xai.lottery.folder import Arm, Pruning, Run
from spade_xai.lottery.gradcam import differentiable_gradcam
from spade_xai.lottery.kernel_scores import gradcam_scores, hessian_scores
from spade_xai.lottery.networks import find_head, find_last_maps
from spade_xai.lottery.storage import RunError, read_json, read_state, write_state, write_text
from spade_xai.lottery.train import Round, Trained, Training, answers, train_round
from spade_xai.tracing.packed import Packed, pack_bits

CRITERIA = ("magnitude", "random", "sparsegpt", "obc", "gradcam", "structured")
CALIBRATION = 128  # training pictures that Hessians and Grad-CAM scores are made of


def find_tickets(
    run: Run,
    pruning: Pruning,
    seed: int = 0,
    *,
    device: torch.device | str = "cpu",
    workers: int = 0,
    progress: bool = False,
) -> Arm:
    """Find the tickets of one arm and seed; rounds that are done are not done again.

    Args:
        run: Data, network and training.
        pruning: How tickets are chosen.
        seed: Of the new last layer, the order of pictures, and random scores.
        device: Where to train.
        workers: Processes that read pictures.
        progress: Whether to draw a bar over all epochs, with the time that is left.

    Returns:
        The arm, whose folder holds theta_rewind.safetensors, ticket_KK.safetensors, ticket_KK.json and log.jsonl.

    Raises:
        ValueError: A setting is out of range.
        RunError: The folder holds tickets of other settings, or the loss is not finite.

    Source: Ghosh and Batmanghelich (arXiv 2307.13698); Frankle and Carbin (ICLR 2019).
    """
    function = "find_tickets"
    _check(function, pruning)
    check_int(function, "seed", seed, 0)
    step = rewind_step(pruning.rewind, run.training, len(run.data.train))
    arm = run.begin_arm(pruning.arm, seed, {"pruning": vars(pruning)})
    donor = _masks_of_magnitude(run, pruning, seed) if pruning.reinit else None
    start = _fresh(run, seed) if pruning.reinit else run.network.make(seed)
    names = m.prunable(start, norms=pruning.norms)
    masks = m.all_alive(start, names)
    rewound = _start_state(arm, start, step)
    total = sum(run.training.epochs_of(k) for k in range(pruning.rounds))
    with tqdm(
        desc=f"{arm.name}, seed {seed}", total=total, unit="epoch", disable=not progress
    ) as bar:
        for number in range(pruning.rounds):
            if arm.file("ticket", number, "json").is_file():
                bar.update(run.training.epochs_of(number))
            else:
                if number:
                    rewound = read_state(arm.path / "theta_rewind.safetensors", "state")[0]
                    masks = donor(number) if donor is not None else _next_masks(arm, number)
                model = start if not number else run.network.make(seed)
                if number:
                    model.load_state_dict(rewound)
                _train(arm, model, masks, number, pruning, step, device, workers, bar)
    return arm


def rewind_step(text: str, training: Training, pictures: int) -> int:
    """The optimiser step that "0", "500it" or "2ep" names."""
    match = re.fullmatch(r"(\d+)(it|ep|)", str(text))
    if match is None:
        raise ValueError(f"find_tickets: rewind must be like 0, 500it or 2ep, got {text!r}")
    usable = pictures - (pictures > 1 and pictures % training.batch == 1)
    steps = -(-usable // training.batch)
    step = int(match[1]) * (steps if match[2] == "ep" else 1)
    if not 0 <= step < steps * training.epochs_of(0):
        raise ValueError(
            f"find_tickets: rewind must lie before the end of round 0, {steps * training.epochs_of(0)} steps, "
            f"got {text}, which is step {step}"
        )
    return step


def _check(function: str, pruning: Pruning) -> None:
    check_int(function, "rounds", pruning.rounds, 1, 99)
    if not 0 < pruning.share < 1:
        raise ValueError(f"{function}: share must be in (0, 1), got {pruning.share}")
    if pruning.criterion not in CRITERIA:
        raise ValueError(f"{function}: {misnamed('criterion', CRITERIA, pruning.criterion)}")
    if pruning.scope not in m.SCOPES:
        raise ValueError(f"{function}: {misnamed('scope', m.SCOPES, pruning.scope)}")
    if pruning.scope == "global" and pruning.criterion == "structured":
        raise ValueError(f"{function}: scope must be 'layer' for structured pruning, got 'global'")
    if pruning.norms and pruning.criterion in ("sparsegpt", "obc", "structured"):
        raise ValueError(
            f"{function}: norms must be False for criterion {pruning.criterion!r}, got True"
        )
    if pruning.reinit and pruning.criterion != "magnitude":
        raise ValueError(
            f"{function}: reinit takes the masks of criterion 'magnitude', got {pruning.criterion!r}"
        )


def _fresh(run: Run, seed: int) -> nn.Module:
    """Weights that have nothing to do with those of the arm whose masks are used."""
    return run.network.make(seed + 10_000, fresh=True)


def _masks_of_magnitude(run: Run, pruning: Pruning, seed: int) -> Callable[[int], m.Masks]:
    name = Pruning(**{**vars(pruning), "reinit": False}).arm
    try:
        base = run.arm(name, seed)
    except RunError:
        raise RunError(
            f"find_tickets: reinit needs the masks of arm {name}, seed {seed}: find its tickets first"
        ) from None

    def of(number: int) -> m.Masks:
        return base.ticket(number).masks

    return of


def _start_state(arm: Arm, start: nn.Module, step: int) -> dict[str, Tensor]:
    state = {name: value.detach().clone() for name, value in start.state_dict().items()}
    if step == 0 and not (arm.path / "theta_rewind.safetensors").is_file():
        write_state(arm.path / "theta_rewind.safetensors", "state", state, {"step": 0})
    return state


def _next_masks(arm: Arm, number: int) -> m.Masks:
    tensors, head = read_state(arm.file("next", number - 1, "safetensors"), "masks")
    return {
        name: Packed(tuple(shape), tensors[name], torch.empty(0)).mask()
        for name, shape in head["shapes"].items()
    }


def _train(
    arm: Arm,
    model: nn.Module,
    masks: m.Masks,
    number: int,
    pruning: Pruning,
    step: int,
    device: torch.device | str,
    workers: int,
    bar: Any,
) -> None:
    """One round, its ticket's files, and the masks of the next."""
    run = arm.run

    def keep(state: dict[str, Tensor]) -> None:
        write_state(arm.path / "theta_rewind.safetensors", "state", state, {"step": step})

    def on_epoch(epochs: list[dict[str, Any]]) -> None:
        write_log(arm, number, epochs)
        last = epochs[-1]
        bar.set_postfix_str(
            f"round {number}, loss {last['loss']:.3f}, accuracy {last['validation_accuracy']:.3f}"
        )
        bar.n = before + len(epochs)
        bar.refresh()

    before = bar.n

    model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    job = Round(
        model, run.network, masks, arm.seed, number,
        watch=None if number else run.data.test,
        capture=(step, keep) if not number and step else None,
    )  # fmt: skip
    checkpoint = arm.path / "checkpoint.safetensors"
    done = train_round(
        job, run.training, run.data.train, run.data.validation, checkpoint,
        workers=workers, on_epoch=on_epoch,
    )  # fmt: skip
    if number + 1 < pruning.rounds and not pruning.reinit:
        left = next_masks(model, masks, run, pruning, arm.seed, number)
        tensors = {name: pack_bits(mask.flatten()) for name, mask in left.items()}
        shapes = {name: list(mask.shape) for name, mask in left.items()}
        write_state(arm.file("next", number, "safetensors"), "masks", tensors, {"shapes": shapes})
    finish_ticket(arm, model, masks, number, done, workers)


def next_masks(
    model: nn.Module, masks: m.Masks, run: Run, pruning: Pruning, seed: int, number: int
) -> m.Masks:
    """Masks of the next round, from the last weights of this one."""
    share = pruning.share
    criterion = pruning.criterion
    if criterion == "structured":
        weights = {name: model.get_parameter(name).detach().cpu() for name in masks}
        return m.remove_channels(masks, weights, share, find_head(model))
    if criterion == "magnitude":
        scores = m.magnitudes(model, masks)
    elif criterion == "random":
        scores = m.random_scores(masks, "random", seed, number)
    else:
        scores = _calibrated_scores(model, masks, run, criterion)
    return m.remove_least(masks, scores, share, pruning.scope)


def _calibrated_scores(
    model: nn.Module, masks: m.Masks, run: Run, criterion: str
) -> dict[str, Tensor]:
    """Scores made of the first training pictures of each class in turn."""
    data, network = run.data, run.network
    device = next(model.parameters()).device
    chosen = data.train.subset(balanced(data.train.labels, CALIBRATION))
    model.eval()
    if criterion == "gradcam":
        layer = find_last_maps(model, torch.zeros(1, 3, network.size, network.size, device=device))
        pictures = (
            (network.normalize(images.to(device)), labels.to(device))
            for _, images, labels in batches(chosen, network.size, 1)
        )
        return gradcam_scores(
            model, masks, pictures, lambda net, x, y: differentiable_gradcam(net, layer, x, y)
        )
    images = (
        network.normalize(images.to(device)) for _, images, _ in batches(chosen, network.size, 32)
    )
    return hessian_scores(model, masks, images, criterion)


def balanced(labels: Tensor, count: int) -> list[int]:
    """Indices of at most count pictures, classes taking turns in the order of the pictures."""
    by_class = [(labels == c).nonzero()[:, 0].tolist() for c in labels.unique()]
    turns = itertools.zip_longest(*by_class)
    return [k for turn in turns for k in turn if k is not None][:count]


def finish_ticket(
    arm: Arm, model: nn.Module, masks: m.Masks, number: int, done: Trained, workers: int
) -> None:
    """Write a ticket of the best weights with its accuracies, and drop the checkpoint."""
    run = arm.run
    model.load_state_dict(done.best)
    logits = answers(model, run.network, run.data.test, run.training.batch, workers=workers)
    right = (logits.argmax(1) == run.data.test.labels).double().mean()
    counts = m.alive(masks)
    living, all_ = (sum(c[i] for c in counts.values()) for i in (0, 1))
    record = {
        "number": number,
        "seed": arm.seed,
        "alive": living / all_,
        "alive_weights": living,
        "weights": all_,
        "alive_by_layer": {name: list(c) for name, c in counts.items()},
        "best_epoch": done.best_epoch,
        "validation_accuracy": done.epochs[done.best_epoch]["validation_accuracy"],
        "test_accuracy": float(right),
        "epochs": done.epochs,
    }
    if done.answers is not None:
        write_state(
            arm.file("answers", number, "safetensors"), "answers", {"answers": done.answers}
        )
    write_state(arm.file("logits", number, "safetensors"), "logits", {"test": logits})
    arm.write_ticket(number, masks, done.best, record)
    Path(arm.path / "checkpoint.safetensors").unlink(missing_ok=True)


def write_log(arm: Arm, number: int, epochs: list[dict[str, Any]]) -> None:
    """log.jsonl of all epochs so far: those of finished tickets and of the one in training."""
    done = [
        record
        for k in arm.numbers()
        if k < number
        for record in read_json(arm.file("ticket", k, "json"), "ticket")["epochs"]
    ]
    write_text(arm.path / "log.jsonl", "".join(json.dumps(r) + "\n" for r in (*done, *epochs)))
