"""Post-hoc concept bottleneck models of tickets (Yuksekgonul, Wang and Zou, ICLR 2023).

g(x) = W z + b of the concepts' projections z, fitted with an elastic net. PCBM-h adds a linear residual R phi on the
embedding, fitted with g fixed.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import rankdata
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor
from torch.nn import functional as F

from spade_xai.choices import misnamed
from spade_xai.lottery.concepts import standardized
from spade_xai.lottery.data.pictures import derived_seed
from spade_xai.lottery.storage import read_state, write_state

SOLVERS = ("adam", "sgd_classifier")


@dataclass(frozen=True)
class PCBMSettings:
    """How a PCBM is fitted.

    Attributes:
        solver: "adam", or "sgd_classifier" of scikit-learn, which the method's own code uses.
        penalty: Weight of the elastic net; alpha of SGDClassifier.
        l1_ratio: Share of the L1 term.
        rate: Of Adam.
        epochs: Of Adam.
        batch: Pictures per step of Adam.
        standardize: Take mean and standard deviation of the training projections off.
        residual: Fit PCBM-h as well.
    """

    solver: str = "adam"
    penalty: float = 1e-5
    l1_ratio: float = 0.99
    rate: float = 0.01
    epochs: int = 100
    batch: int = 128
    standardize: bool = False
    residual: bool = False


@dataclass(frozen=True)
class PCBM:
    """A fitted bottleneck.

    Attributes:
        weight: float64 [classes, concepts].
        bias: float64 [classes].
        residual: float64 [classes, D] of PCBM-h; None where it was not asked for.
    """

    weight: Tensor
    bias: Tensor
    residual: Tensor | None = None

    def logits(self, z: Tensor, embeddings: Tensor | None = None) -> Tensor:
        """Logits [N, classes] of projections [N, concepts]; with embeddings those of PCBM-h."""
        out = z.double() @ self.weight.T + self.bias
        if embeddings is not None:
            if self.residual is None:
                raise ValueError("PCBM.logits: embeddings need a residual, and none was fitted")
            out = out + embeddings.double() @ self.residual.T
        return out


def fit_pcbm(
    z: Tensor,
    labels: Tensor,
    classes: int,
    settings: PCBMSettings,
    seed: int,
    embeddings: Tensor | None = None,
) -> PCBM:
    """Fit a bottleneck on training pictures.

    Args:
        z: Projections [N, concepts]. Not modified.
        labels: Classes [N].
        classes: Rows of W; two classes are two rows.
        settings: How.
        seed: Of the order of pictures.
        embeddings: [N, D], for the residual.
    """
    if settings.solver not in SOLVERS:
        raise ValueError(f"fit_pcbm: {misnamed('solver', SOLVERS, settings.solver)}")
    if settings.solver == "adam":
        weight, bias = _adam(z.double(), labels, classes, settings, seed, None)
    else:
        weight, bias = _sgd_classifier(z, labels, classes, settings, seed)
    made = PCBM(weight, bias)
    if not settings.residual:
        return made
    if embeddings is None:
        raise ValueError("fit_pcbm: embeddings must be given for the residual, got None")
    offset = made.logits(z)
    residual, _ = _adam(embeddings.double(), labels, classes, settings, seed, offset)
    return PCBM(weight, bias, residual)


def _adam(
    x: Tensor,
    labels: Tensor,
    classes: int,
    settings: PCBMSettings,
    seed: int,
    offset: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy + penalty (l1_ratio |W|_1 + (1 - l1_ratio) |W|_2^2), from W = 0; given logits are added."""
    generator = torch.Generator().manual_seed(derived_seed("pcbm", seed))
    weight = torch.zeros(classes, x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    learned = [weight, bias] if offset is None else [weight]
    optimizer = torch.optim.Adam(learned, lr=settings.rate, fused=True)
    for _ in range(settings.epochs):
        for at in torch.randperm(len(x), generator=generator).split(settings.batch):
            logits = F.linear(x[at], weight, bias)
            if offset is not None:
                logits = logits + offset[at]
            net = settings.l1_ratio * weight.abs().sum()
            net = net + (1 - settings.l1_ratio) * weight.square().sum()
            loss = F.cross_entropy(logits, labels[at]) + settings.penalty * net
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return weight.detach(), bias.detach()


def _sgd_classifier(
    z: Tensor, labels: Tensor, classes: int, settings: PCBMSettings, seed: int
) -> tuple[Tensor, Tensor]:
    solver = SGDClassifier(
        loss="log_loss", penalty="elasticnet", alpha=settings.penalty, l1_ratio=settings.l1_ratio,
        max_iter=10_000, random_state=seed,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        solver.fit(z.numpy(), labels.numpy())
    if len(solver.classes_) != classes:
        raise ValueError(
            f"fit_pcbm: labels must hold all {classes} classes, got {len(solver.classes_)}"
        )
    weight, bias = torch.from_numpy(solver.coef_), torch.from_numpy(solver.intercept_)
    if (
        len(weight) == 1
    ):  # of two classes scikit-learn keeps one row: softmax of -m/2 and m/2 is the sigmoid of m
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    return weight, bias


def scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy, balanced accuracy and AUROC: of two classes that of the second, else the mean, one against the rest."""
    predicted = logits.argmax(1)
    classes = range(logits.shape[1]) if logits.shape[1] > 2 else [1]
    probability = logits.double().softmax(1)
    areas = []
    for c in classes:
        positive = (labels == c).numpy()
        n, m = int(positive.sum()), int((~positive).sum())
        if n and m:
            ranks = rankdata(probability[:, c].numpy())
            areas.append((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))
    return {
        "accuracy": float((predicted == labels).double().mean()),
        "balanced_accuracy": float(balanced_accuracy_score(labels.numpy(), predicted.numpy())),
        "auroc": float(sum(areas) / len(areas)) if areas else float("nan"),
    }


def top_concepts(weights: Tensor, count: int = 3) -> Tensor:
    """Indices of the largest signed weights of each row, [rows, count]; ties go by lowest index."""
    return weights.argsort(dim=1, descending=True, stable=True)[:, :count]


def contributions(model: PCBM, z: Tensor, labels: Tensor) -> Tensor:
    """w_yc z_c of each picture for its class y, [N, concepts]: its largest are the picture's local explanation."""
    return model.weight[labels] * z.double()


def write_pcbm(path: Path, model: PCBM, record: dict[str, Any]) -> None:
    """Write a bottleneck as safetensors with a record of its settings and scores."""
    tensors = {"weight": model.weight, "bias": model.bias}
    if model.residual is not None:
        tensors["residual"] = model.residual
    write_state(path, "pcbm", tensors, record)


def read_pcbm(path: Path) -> tuple[PCBM, dict[str, Any]]:
    """Read a bottleneck and its record."""
    tensors, record = read_state(path, "pcbm")
    return PCBM(tensors["weight"], tensors["bias"], tensors.get("residual")), record


def prepared(z: Tensor, train: Tensor, settings: PCBMSettings) -> Tensor:
    """Projections as the bottleneck reads them."""
    return standardized(z, train) if settings.standardize else z
