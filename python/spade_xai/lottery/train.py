"""Training one round: masked weights stay exactly 0, and an interrupted round ends as an uninterrupted one."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spade_xai.lottery.data.pictures import Pictures, Variation, batches, derived_seed
from spade_xai.lottery.masks import Masks, apply_masks, mask_gradients
from spade_xai.lottery.networks import Network, logits_and_auxiliary
from spade_xai.lottery.storage import RunError, read_state, write_state
from spade_xai.models.copies import unwrap


@dataclass(frozen=True)
class Training:
    """How a round is trained: SGD with momentum, a rate that falls by steps.

    Attributes:
        epochs: Of each round.
        first_epochs: Of round 0; None: as many.
        batch: Pictures per step.
        rate: Of learning.
        momentum: Of SGD.
        decay: Of weights.
        step: Epochs after which the rate is multiplied by gamma, again and again.
        gamma: See step.
        crop: Random resized crops of training pictures.
        flip: Random horizontal flips of them.
        precision: "float32", or "bfloat16" by autocast.
    """

    epochs: int
    first_epochs: int | None = None
    batch: int = 32
    rate: float = 1e-3
    momentum: float = 0.9
    decay: float = 1e-4
    step: int = 30
    gamma: float = 0.1
    crop: bool = True
    flip: bool = True
    precision: str = "float32"

    def epochs_of(self, number: int) -> int:
        """Epochs of a round."""
        return self.epochs if number or self.first_epochs is None else self.first_epochs


class Penalty(Protocol):
    """A term of the loss beside cross-entropy."""

    weight: float

    def start(self, model: nn.Module) -> Any:
        """A context in which the penalty sees the model's forward passes."""

    def value(self, model: nn.Module, images: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        """The penalty of the pictures that the model has just been run on."""


@dataclass
class Round:
    """A round to train.

    Attributes:
        model: With its starting weights; holds the last weights afterwards.
        network: Its preprocessing.
        masks: Living weights.
        seed: Of the order and the cuts of pictures, and of dropout.
        number: Of the round.
        watch: Pictures whose answers are noted after each epoch; None: none.
        capture: Step of the optimiser and what to call with the state then; None: none.
        penalty: A term of the loss; None: none.
    """

    model: nn.Module
    network: Network
    masks: Masks
    seed: int
    number: int
    watch: Pictures | None = None
    capture: tuple[int, Callable[[dict[str, Tensor]], None]] | None = None
    penalty: Penalty | None = None


@dataclass
class Trained:
    """What a round gives beside the last weights.

    Attributes:
        best: State of the epoch with the best validation accuracy, the first of equals.
        best_epoch: Its number.
        epochs: Record of each epoch.
        answers: int16 [epochs, pictures] of the watched pictures; None where none were watched.
    """

    best: dict[str, Tensor]
    best_epoch: int
    epochs: list[dict[str, Any]]
    answers: Tensor | None


def train_round(
    job: Round,
    training: Training,
    train: Pictures,
    validation: Pictures,
    checkpoint: Path,
    *,
    workers: int = 0,
    on_epoch: Callable[[list[dict[str, Any]]], None] | None = None,
) -> Trained:
    """Train a round to its end, from its checkpoint if there is one.

    Args:
        job: The round. Its model is changed in place.
        training: Settings.
        train: Pictures to train on.
        validation: Pictures to choose the best epoch by.
        checkpoint: File written whole after each epoch, with all that the next epoch needs.
        workers: Processes that read pictures.
        on_epoch: Called with the records so far, after each epoch and when a checkpoint was read.

    Raises:
        RunError: The loss is not finite, or the checkpoint is of another round.
    """
    model = job.model
    optimizer = torch.optim.SGD(
        model.parameters(), lr=training.rate, momentum=training.momentum,
        weight_decay=training.decay, fused=True,
    )  # fmt: skip
    done = Trained({}, 0, [], None)
    if checkpoint.is_file():
        _resume(checkpoint, job, optimizer, done)
        if on_epoch is not None:
            on_epoch(done.epochs)  # the run may have ended before it heard of the last one
    apply_masks(model, job.masks)
    moved = {name: mask.to(next(model.parameters()).device) for name, mask in job.masks.items()}
    for epoch in range(len(done.epochs), training.epochs_of(job.number)):
        rate = training.rate * training.gamma ** (epoch // training.step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss, penalty = _epoch(job, training, train, optimizer, moved, epoch, workers)
        logits = answers(model, job.network, validation, training.batch, workers=workers)
        accuracy = float((logits.argmax(1) == validation.labels).double().mean())
        record = {"round": job.number, "epoch": epoch, "rate": rate, "loss": loss}
        if penalty is not None:
            record["penalty"] = penalty
        record["validation_accuracy"] = accuracy
        if job.watch is not None:
            given = answers(model, job.network, job.watch, training.batch, workers=workers)
            row = given.argmax(1).to(torch.int16)[None]
            done.answers = row if done.answers is None else torch.cat([done.answers, row])
        if not done.epochs or accuracy > done.epochs[done.best_epoch]["validation_accuracy"]:
            done.best_epoch, done.best = epoch, _copy(model)
        done.epochs.append(record)
        _save(checkpoint, job, optimizer, done)
        if on_epoch is not None:
            on_epoch(done.epochs)
    return done


def _epoch(
    job: Round,
    training: Training,
    train: Pictures,
    optimizer: torch.optim.Optimizer,
    masks: Masks,
    epoch: int,
    workers: int,
) -> tuple[float, float | None]:
    """Mean loss and mean penalty of one pass over the training pictures."""
    model, device = job.model, next(job.model.parameters()).device
    seed = derived_seed("epoch", job.seed, job.number, epoch)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    if len(order) > 1 and len(order) % training.batch == 1:
        order = order[:-1]  # batch norm has no variance of one picture
    steps = -(-len(order) // training.batch)
    variation = Variation(training.crop, training.flip, seed)
    devices = [device] if device.type == "cuda" else []
    loss_sum = penalty_sum = 0.0
    watching = nullcontext() if job.penalty is None else job.penalty.start(model)
    with torch.random.fork_rng(devices=devices), watching:
        torch.manual_seed(seed)
        source = batches(
            train, job.network.size, training.batch, order=order, variation=variation,
            workers=workers,
        )  # fmt: skip
        for step, (index, images, labels) in enumerate(source):
            if job.capture is not None and epoch * steps + step == job.capture[0]:
                job.capture[1](_copy(model))
            model.train()
            images = job.network.normalize(images.to(device))
            labels = labels.to(device)
            optimizer.zero_grad(set_to_none=True)
            with _autocast(training, device):
                output, auxiliary = logits_and_auxiliary(model(images))
                loss = F.cross_entropy(output.float(), labels)
                if auxiliary is not None and job.network.auxiliary:
                    loss = loss + job.network.auxiliary * F.cross_entropy(auxiliary.float(), labels)
                total = loss
                if job.penalty is not None:
                    penalty = job.penalty.value(model, images, labels, index)
                    penalty_sum += float(penalty.detach()) * len(index)
                    total = loss + job.penalty.weight * penalty
            if not torch.isfinite(total):
                raise RunError(
                    f"find_tickets: the loss of round {job.number}, epoch {epoch}, step {step} is "
                    f"{float(total.detach())}: a smaller rate may help"
                )
            total.backward()
            mask_gradients(model, masks)
            optimizer.step()
            apply_masks(model, masks)
            loss_sum += float(loss.detach()) * len(index)
    count = len(order)
    return loss_sum / count, None if job.penalty is None else penalty_sum / count


def _autocast(training: Training, device: torch.device) -> Any:
    if training.precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


@torch.no_grad()
def answers(
    model: nn.Module, network: Network, pictures: Pictures, batch: int, *, workers: int = 0
) -> Tensor:
    """Logits of all pictures, float32 [N, classes] on the CPU; the model is in eval mode afterwards."""
    model.eval()
    device = next(model.parameters()).device
    size = max(batch, 64)
    found = [
        unwrap(model(network.normalize(images.to(device)))).float().cpu()
        for _, images, _ in batches(pictures, network.size, size, workers=workers)
    ]
    return torch.cat(found)


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def _save(path: Path, job: Round, optimizer: torch.optim.Optimizer, done: Trained) -> None:
    tensors = {f"model/{name}": value for name, value in job.model.state_dict().items()}
    tensors |= {f"best/{name}": value for name, value in done.best.items()}
    for name, parameter in job.model.named_parameters():
        buffer = optimizer.state.get(parameter, {}).get("momentum_buffer")
        if buffer is not None:
            tensors[f"momentum/{name}"] = buffer
    if done.answers is not None:
        tensors["answers"] = done.answers
    record = {"round": job.number, "best_epoch": done.best_epoch, "epochs": done.epochs}
    write_state(path, "checkpoint", {k: v.clone() for k, v in tensors.items()}, record)


def _resume(path: Path, job: Round, optimizer: torch.optim.Optimizer, done: Trained) -> None:
    tensors, record = read_state(path, "checkpoint")
    if record["round"] != job.number:
        raise RunError(f"find_tickets: {path} must be of round {job.number}, got {record['round']}")
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "momentum": {}}
    for name, value in tensors.items():
        kind, _, key = name.partition("/")
        if kind in parts:
            parts[kind][key] = value
    job.model.load_state_dict(parts["model"])
    for name, parameter in job.model.named_parameters():
        if name in parts["momentum"]:
            # in the parameter's order in memory, by which the fused step reads both
            buffer = torch.empty_like(parameter, requires_grad=False)
            optimizer.state[parameter]["momentum_buffer"] = buffer.copy_(parts["momentum"][name])
    done.best, done.best_epoch = parts["best"], record["best_epoch"]
    done.epochs, done.answers = record["epochs"], tensors.get("answers")
