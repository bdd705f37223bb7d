"""Sparse FC: a model whose last layer is retrained to be sparse (Wong et al., ICML 2021).

The features that the last layer reads are computed once and standardised. Multinomial logistic regressions with an
elastic-net penalty are fitted to them along a path of penalties, each started from the one before, and the
sparsest is taken whose accuracy on held-out samples is within a tolerance of the path's best.
"""

import os
import warnings
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from tempfile import TemporaryDirectory

import numpy as np
import sklearn
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from spade_ext.checks import check_finite, check_int, check_range, check_tensor
from spade_xai.measures.elastic_net import ElasticNet, Samples
from spade_xai.models.copies import check_model, duplicate, find_module, plain
from spade_xai.models.inputs import call
from spade_xai.progress import Progress, reporting

MOST_SAGA = 10**6
"""Classes times samples up to which scikit-learn's solver is taken."""

# From scikit-learn 1.8 on, l1_ratio alone says it.
_VERSION = tuple(int(n) for n in sklearn.__version__.split(".")[:2])
_ELASTIC_NET = {} if _VERSION >= (1, 8) else {"penalty": "elasticnet"}


@dataclass(frozen=True)
class PathPoint:
    """One fit of the path: y = weight x + bias on the features as they are."""

    weight: Tensor  # [classes, features]
    bias: Tensor  # [classes]
    penalty: float
    sparsity: float
    accuracy: float


def cache_features(
    model: nn.Module,
    layer: str,
    batches: Iterable[Tensor],
    *,
    batch_size: int = 256,
    file: str | os.PathLike[str] | None = None,
) -> Tensor:
    """Return the inputs [N, features] of a linear layer over all samples.

    Args:
        model: Not modified.
        layer: Name of the last linear layer.
        batches: Batches of model inputs.
        batch_size: Samples in one pass; larger batches are split.
        file: Where to write them, in float32. The tensor is then that file, mapped into memory: it needs it as long as
            it lives, and the system reads what is used. None: they are held in memory.

    Raises:
        TypeError: model is no module, layer no name of an nn.Linear, or batches no iterable of tensors.
        ValueError: There are no batches, or the model does not use the layer.
    """
    function = "cache_features"
    check_int(function, "batch_size", batch_size, 1)
    _find_linear(function, model, layer)
    if isinstance(batches, Tensor) or not isinstance(batches, Iterable):
        raise TypeError(
            f"{function}: batches must be an iterable of tensors, got {type(batches).__name__}"
        )
    copy = duplicate(model)
    module = _find_linear(function, copy, layer)
    seen: list[Tensor] = []
    written = columns = 0
    module.register_forward_pre_hook(lambda m, args: seen.append(args[0].flatten(1)))
    with torch.no_grad(), nullcontext() if file is None else open(file, "wb") as output:
        for batch in batches:
            if not isinstance(batch, Tensor):
                raise TypeError(
                    f"{function}: batches must hold tensors, got {type(batch).__name__}"
                )
            for part in batch.split(batch_size):
                call(copy, part)
                if output is not None:
                    for values in seen:
                        values.float().cpu().numpy().tofile(output)
                        written, columns = written + len(values), values.shape[1]
                    seen.clear()
    if file is not None and written:
        mapped = torch.from_file(os.fspath(file), size=written * columns, dtype=torch.float32)
        return mapped.view(written, columns)
    if not seen:
        raise ValueError(f"{function}: batches must give inputs of layer {layer!r}, got none")
    return torch.cat(seen)


def _find_linear(function: str, model: nn.Module, layer: str) -> nn.Linear:
    """The layer of that name."""
    check_model(function, model)
    found = find_module(plain(model), layer)
    if not isinstance(found, nn.Linear):
        got = "no module" if found is None else type(found).__name__
        raise TypeError(f"{function}: layer must name an nn.Linear, got {got} for {layer!r}")
    return found


def _count_classes(function: str, labels: Tensor) -> int:
    """C of labels 0 ... C - 1."""
    integers = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)
    check_tensor(function, "labels", labels, ndim=1, dtypes=integers)
    if not len(labels):
        raise ValueError(f"{function}: labels must not be empty, got shape (0,)")
    return int(labels.max()) + 1


def elastic_net_path(
    features: Tensor,
    labels: Tensor,
    *,
    steps: int = 20,
    smallest: float = 1e-3,
    l1_ratio: float = 0.99,
    validation: float = 0.2,
    iterations: int = 200,
    seed: int = 0,
    solver: str = "auto",
    device: torch.device | str | None = None,
    progress: Progress = True,
) -> list[PathPoint]:
    """Fit the path of penalties, from the least one at which all weights are zero downwards.

    Each fit minimises mean log loss + penalty (l1_ratio |W|_1 + (1 - l1_ratio) |W|^2 / 2) over standardised features.

    Args:
        features: [N, D]. Not modified.
        labels: Classes [N], each of 0 ... C - 1 present.
        steps: Number of penalties, spaced geometrically.
        smallest: Least penalty as a share of the greatest.
        l1_ratio: Share of the L1 term; 0.99 in the paper.
        validation: Share of the samples held out to measure accuracy.
        iterations: Most passes of the solver for one penalty.
        seed: The seed of the split and the solver.
        solver: "saga", scikit-learn's in float64 on the CPU; "fista", in float32 and a chunk of samples at a time, for
            many samples and classes; "auto": the first where classes times samples are at most MOST_SAGA.
        device: Where "fista" computes; None: where the features are.
        progress: True for a bar, or callback(stage, done, total).

    Returns:
        The fits in order of falling penalty.

    Raises:
        TypeError: features are no floats or labels no integers.
        ValueError: Wrong shape, NaN or Inf, a class without samples, or an option out of range.
    """
    function = "elastic_net_path"
    check_int(function, "steps", steps, 1)
    if not 0 < check_range(function, "smallest", smallest, 0.0, 1.0):
        raise ValueError(f"{function}: smallest must be above 0, got {smallest}")
    check_range(function, "l1_ratio", l1_ratio, 0.0, 1.0)
    check_range(function, "validation", validation, 0.0, 1.0)
    check_int(function, "iterations", iterations, 1)
    check_int(function, "seed", seed, 0, 2**32 - 1)
    if solver not in ("auto", "saga", "fista"):
        raise ValueError(f"{function}: solver must be auto, saga or fista, got {solver!r}")
    check_tensor(function, "features", features)
    classes = _count_classes(function, labels)
    if features.ndim != 2 or labels.shape != (len(features),):
        raise ValueError(
            "elastic_net_path: features must be [N, D] and labels [N], "
            f"got {tuple(features.shape)} and {tuple(labels.shape)}"
        )
    check_finite(function, "features", features)
    if len(labels.unique()) != classes or classes < 2:
        raise ValueError("elastic_net_path: labels must hold every class of 0 ... C - 1, C >= 2")
    y = labels.cpu()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    held = max(1, round(validation * len(y)))
    test, train = order[:held], order[held:]
    if len(y[train].unique()) != classes:
        raise ValueError("elastic_net_path: labels must leave every class in the training part")
    if solver == "fista" or (solver == "auto" and classes * len(train) > MOST_SAGA):
        place = features.device if device is None else torch.device(device)
        seen, held_out = (Samples(features, r.sort().values, place) for r in (train, test))
        return _by_fista(
            seen, held_out, y.to(place), classes, steps, smallest, l1_ratio, iterations, progress
        )
    x = features.double().cpu()
    centre, scale = x[train].mean(0), x[train].std(0).clamp_min(1e-8)
    z, target = ((x[train] - centre) / scale).numpy(), y[train].numpy()
    saga = LogisticRegression(
        solver="saga",
        l1_ratio=l1_ratio,
        warm_start=True,
        max_iter=iterations,
        random_state=seed,
        **_ELASTIC_NET,
    )
    greatest = _greatest_penalty(z, target, classes, l1_ratio)
    path, held_out = [], Samples(x, test, x.device)
    with reporting(progress, "sparse FC path") as report, warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for step in range(steps):
            penalty = greatest * smallest ** (step / max(1, steps - 1))
            saga.C = 1 / (penalty * len(z))
            saga.fit(z, target)
            w, b = torch.from_numpy(saga.coef_), torch.from_numpy(saga.intercept_)
            path.append(_point(w, b, penalty, centre, scale, held_out, y))
            if report is not None:
                report(step + 1, steps)
    return path


def _by_fista(
    train: Samples,
    test: Samples,
    y: Tensor,
    classes: int,
    steps: int,
    smallest: float,
    l1_ratio: float,
    iterations: int,
    progress: Progress,
) -> list[PathPoint]:
    """The path by `ElasticNet`."""
    centre, scale = train.moments()
    net = ElasticNet(train, y[train.rows.to(y.device)], classes, centre, scale, l1_ratio)
    greatest = net.greatest_penalty()
    path = []
    with reporting(progress, "sparse FC path") as report:
        for step in range(steps):
            penalty = greatest * smallest ** (step / max(1, steps - 1))
            net.fit(penalty, iterations)
            path.append(
                _point(net.weight.double(), net.bias.double(), penalty, centre, scale, test, y)
            )
            if report is not None:
                report(step + 1, steps)
    return path


def sparse_fc(
    model: nn.Module,
    layer: str,
    batches: Iterable[Tensor],
    labels: Tensor,
    *,
    tolerance: float = 0.05,
    seed: int = 0,
    scratch: str | os.PathLike[str] | None = None,
    progress: Progress = True,
) -> tuple[nn.Module, PathPoint]:
    """Return a copy of model with a sparse last layer, and the fit it comes from.

    Args:
        model: Not modified; the copy shares all other tensors.
        layer: Name of the last linear layer.
        batches: Batches of training inputs.
        labels: Their classes, in the same order.
        tolerance: Most accuracy given up against the best of the path; the sparsest such fit is taken.
        seed: The seed of the split and the solver.
        scratch: Folder for a temporary file with the features of all samples, 4 N D bytes: memory then does not grow
            with their number. None: they are held in memory.
        progress: True for a bar, or callback(stage, done, total).
    """
    dense = _find_linear("sparse_fc", model, layer)
    classes = _count_classes("sparse_fc", labels)
    check_range("sparse_fc", "tolerance", tolerance, 0.0, 1.0)
    if classes != dense.out_features:
        raise ValueError(
            f"sparse_fc: labels must have the {dense.out_features} classes of layer {layer!r}, got {classes}"
        )
    place = nullcontext() if scratch is None else TemporaryDirectory(dir=scratch)
    with place as folder:
        file = None if folder is None else os.path.join(folder, "features.f32")
        features = cache_features(model, layer, batches, file=file)
        path = elastic_net_path(
            features, labels, seed=seed, device=dense.weight.device, progress=progress
        )
        del features
    best = max(p.accuracy for p in path)
    chosen = max((p for p in path if p.accuracy >= best - tolerance), key=lambda p: p.sparsity)
    new = nn.Linear(dense.in_features, dense.out_features).to(dense.weight)
    with torch.no_grad():
        new.weight.copy_(chosen.weight)
        new.bias.copy_(chosen.bias)
    sparse = duplicate(model)
    old = _find_linear("sparse_fc", sparse, layer)
    for parent in list(sparse.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new
    return sparse, chosen


def _greatest_penalty(z: np.ndarray, y: np.ndarray, classes: int, l1_ratio: float) -> float:
    """The least penalty at which W = 0 is optimal: |Z^T (onehot(y) - prior)| / n <= penalty * l1_ratio."""
    one_hot = np.eye(classes)[y]
    gradient = z.T @ (one_hot - one_hot.mean(0)) / len(z)
    return float(np.abs(gradient).max() / max(l1_ratio, 1e-3))


def _point(
    w: Tensor,
    b: Tensor,
    penalty: float,
    centre: Tensor,
    scale: Tensor,
    held_out: Samples,
    y: Tensor,
) -> PathPoint:
    """Undo the standardisation: w (x - c) / s + b = (w / s) x + (b - w c / s)."""
    if len(w) == 1:  # scikit-learn keeps one row for two classes: logits (0, w x + b)
        w, b = torch.cat([torch.zeros_like(w), w]), torch.cat([torch.zeros_like(b), b])
    weight = w / scale
    bias = b - weight @ centre
    right = 0
    truth = y[held_out.rows.to(y.device)]
    for part, x in held_out.chunks(torch.float64):
        right += int(((x @ weight.T + bias).argmax(1) == truth[part]).sum())
    sparsity = float((weight == 0).double().mean())
    return PathPoint(weight.cpu(), bias.cpu(), penalty, sparsity, right / len(held_out))
