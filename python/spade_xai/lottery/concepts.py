"""Concept banks: a direction in the embedding for each concept, and how well it tells pictures with and without.

"svm" is a linear support vector machine for each concept (Kim et al., ICML 2018; Yuksekgonul et al., ICLR 2023); a
projection is the signed margin (w . phi + b) / ||w||. "logistic" is one linear layer with a sigmoid for all concepts,
whose projections are probabilities.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import rankdata
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import SVC
from torch import Tensor
from torch.nn import functional as F

from spade_xai.choices import misnamed
from spade_xai.lottery.data.pictures import derived_seed
from spade_xai.lottery.storage import read_state, write_state

KINDS = ("svm", "logistic")
GRID = (0.001, 0.01, 0.1, 1.0, 10.0)


@dataclass(frozen=True)
class BankSettings:
    """How a bank is fitted.

    Attributes:
        kind: "svm" or "logistic".
        count: Pictures with and as many without a concept to fit a CAV on; as many again to validate it.
        penalties: C of the SVM, the best by validation is taken.
        rate: Of SGD, for "logistic".
        batch: Pictures per step, for "logistic".
        epochs: For "logistic".
    """

    kind: str = "svm"
    count: int = 100
    penalties: tuple[float, ...] = GRID
    rate: float = 0.01
    batch: int = 128
    epochs: int = 15


@dataclass(frozen=True)
class Bank:
    """Concept directions.

    Attributes:
        kind: "svm" or "logistic".
        names: Of the concepts.
        vectors: float64 [concepts, D], w.
        intercepts: float64 [concepts], b.
        accuracy: Of each concept on pictures that did not fit it.
        auroc: Of each concept on them.
        validated: How many pictures those are.
        repeated: Whether pictures had to be drawn more than once to fit the concept.
        penalty: C that was taken, 0 for "logistic".
    """

    kind: str
    names: tuple[str, ...]
    vectors: Tensor
    intercepts: Tensor
    accuracy: Tensor
    auroc: Tensor
    validated: Tensor
    repeated: Tensor
    penalty: Tensor

    def project(self, embeddings: Tensor) -> Tensor:
        """Projections [N, concepts] of embeddings [N, D], float64: signed margins, or probabilities."""
        margins = embeddings.double() @ self.vectors.T + self.intercepts
        if self.kind == "logistic":
            return margins.sigmoid()
        return margins / self.norms

    @property
    def norms(self) -> Tensor:
        """||w|| of each concept, float64 [concepts]; 1 where w is zero."""
        norms = self.vectors.norm(dim=1)
        return torch.where(norms > 0, norms, 1.0)

    @property
    def known(self) -> Tensor:
        """Whether each concept is told better than by chance: accuracy above 1/2 by two standard errors."""
        chance = 0.5 + 2 * (0.25 / self.validated.double()).sqrt()
        return self.accuracy > chance


def fit_bank(
    embeddings: Tensor,
    labels: Tensor,
    names: tuple[str, ...],
    settings: BankSettings,
    seed: int,
) -> Bank:
    """Fit a bank.

    Args:
        embeddings: Of the concepts' pictures, float [N, D]. Not modified.
        labels: int8 [N, concepts]: 1 with, 0 without, -1 left out.
        names: Of the concepts.
        settings: How.
        seed: Of the draws of pictures.

    Raises:
        ValueError: A concept has fewer than two pictures with or without it.
    """
    if settings.kind not in KINDS:
        raise ValueError(f"fit_bank: {misnamed('kind', KINDS, settings.kind)}")
    for c, name in enumerate(names):
        for value, word in ((1, "with"), (0, "without")):
            found = int((labels[:, c] == value).sum())
            if found < 2:
                raise ValueError(
                    f"fit_bank: concept {name!r} must have at least 2 pictures {word} it, got {found}"
                )
    draws = [_draw(labels[:, c], settings.count, seed, name) for c, name in enumerate(names)]
    x = embeddings.double()
    if settings.kind == "svm":
        fitted = [_svm(x, labels[:, c], draws[c], settings) for c in range(len(names))]
        vectors, intercepts = (
            torch.stack([f[0] for f in fitted]),
            torch.stack([f[1] for f in fitted]),
        )
        penalty = torch.tensor([f[2] for f in fitted], dtype=torch.float64)
    else:
        held = torch.zeros(labels.shape, dtype=torch.bool)
        for c, draw in enumerate(draws):
            held[draw.validation, c] = True
        vectors, intercepts = _logistic(x, labels, held, settings, seed)
        penalty = torch.zeros(len(names), dtype=torch.float64)
    scores = x @ vectors.T + intercepts
    accuracy, auroc = [], []
    for c, draw in enumerate(draws):
        truth, score = labels[draw.validation, c] == 1, scores[draw.validation, c]
        accuracy.append(((score > 0) == truth).double().mean())
        auroc.append(_auroc(score, truth))
    return Bank(
        settings.kind, tuple(names), vectors, intercepts, torch.stack(accuracy),
        torch.tensor(auroc, dtype=torch.float64),
        torch.tensor([len(d.validation) for d in draws]),
        torch.tensor([d.repeated for d in draws]), penalty,
    )  # fmt: skip


@dataclass(frozen=True)
class _Draw:
    fit: Tensor
    validation: Tensor
    repeated: bool


def _draw(labels: Tensor, count: int, seed: int, name: str) -> _Draw:
    """Pictures with and without a concept, as many of each, the same for every ticket; no picture is in both parts.

    Where there are too few to fit, they are drawn with replacement; the pictures to validate are never repeated.
    """
    generator = torch.Generator().manual_seed(derived_seed("concept", seed, name))
    fit, validation, repeated = [], [], False
    available = min(int((labels == value).sum()) for value in (0, 1))
    held = min(count, available // 2)
    for value in (1, 0):
        found = (labels == value).nonzero()[:, 0]
        found = found[torch.randperm(len(found), generator=generator)]
        validation.append(found[:held])
        rest = found[held:]
        if len(rest) < count:
            repeated = True
            rest = rest[torch.randint(len(rest), (count,), generator=generator)]
        fit.append(rest[:count])
    return _Draw(torch.cat(fit), torch.cat(validation), repeated)


def _svm(
    x: Tensor, labels: Tensor, draw: _Draw, settings: BankSettings
) -> tuple[Tensor, Tensor, float]:
    best: tuple[float, SVC, float] | None = None
    fit, truth = x[draw.fit].numpy(), labels[draw.fit].numpy()
    held, held_truth = x[draw.validation].numpy(), labels[draw.validation].numpy()
    for penalty in settings.penalties:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            machine = SVC(C=penalty, kernel="linear", max_iter=100_000).fit(fit, truth)
        score = float(machine.score(held, held_truth))
        if best is None or score > best[0]:
            best = (score, machine, penalty)
    if best is None:
        raise ValueError("fit_bank: penalties must hold at least one C, got none")
    _, machine, penalty = best
    return torch.from_numpy(machine.coef_[0].copy()), torch.tensor(machine.intercept_[0]), penalty


def _logistic(
    x: Tensor, labels: Tensor, held: Tensor, settings: BankSettings, seed: int
) -> tuple[Tensor, Tensor]:
    """One linear layer for all concepts by SGD; labels that are left out or held to validate do not count."""
    generator = torch.Generator().manual_seed(derived_seed("logistic", seed))
    weight = torch.zeros(labels.shape[1], x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(labels.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([weight, bias], lr=settings.rate)
    use = ((labels >= 0) & ~held).double()
    target = labels.clamp_min(0).double()
    for _ in range(settings.epochs):
        for at in torch.randperm(len(x), generator=generator).split(settings.batch):
            logits = F.linear(x[at], weight, bias)
            loss = F.binary_cross_entropy_with_logits(logits, target[at], use[at], reduction="sum")
            optimizer.zero_grad()
            (loss / use[at].sum().clamp_min(1)).backward()
            optimizer.step()
    return weight.detach(), bias.detach()


def _auroc(scores: Tensor, truth: Tensor) -> float:
    """P(score with > score without) + P(equal) / 2, by ranks."""
    ranks = rankdata(scores.numpy())
    positive = truth.numpy()
    n, m = int(positive.sum()), int((~positive).sum())
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m)) if n and m else float("nan")


def write_bank(path: Path, bank: Bank, key: str) -> None:
    """Write a bank as safetensors; key says of which settings."""
    tensors = {
        name: getattr(bank, name)
        for name in (
            "vectors",
            "intercepts",
            "accuracy",
            "auroc",
            "validated",
            "repeated",
            "penalty",
        )
    }
    write_state(path, "bank", tensors, {"kind": bank.kind, "names": list(bank.names), "key": key})


def read_bank(path: Path) -> Bank:
    """Read a bank."""
    tensors, record = read_state(path, "bank")
    return Bank(record["kind"], tuple(record["names"]), **tensors)


def bank_table(bank: Bank) -> list[dict[str, Any]]:
    """Accuracy, AUROC and whether it is above chance, of each concept."""
    return [
        {
            "concept": name,
            "accuracy": float(bank.accuracy[c]),
            "auroc": float(bank.auroc[c]),
            "validated_on": int(bank.validated[c]),
            "above_chance": bool(bank.known[c]),
            "repeated": bool(bank.repeated[c]),
            "C": float(bank.penalty[c]),
        }
        for c, name in enumerate(bank.names)
    ]


def standardized(values: Tensor, like: Tensor) -> Tensor:
    """Projections with the mean and standard deviation of others taken off."""
    spread = like.std(0)
    return (values - like.mean(0)) / torch.where(spread > 0, spread, 1.0)
