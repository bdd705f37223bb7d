"""Shared reasons: which pictures are decided by the same connections.

The trace of picture i is run on picture j. Where it keeps j's answer, the connections that decide i suffice for j too.
Pictures that keep each other's answers form groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spade_ext.checks import check_int
from spade_xai.models.copies import unwrap
from spade_xai.progress import Progress
from spade_xai.tracing.trace import trace_many

MOST_GROUPS = 12  # that are looked for where no number is given


@dataclass(frozen=True)
class Reasons:
    """Which traces keep which answers.

    Attributes:
        answers: The answers of the dense model for each picture, [n].
        kept: bool [n, n]; entry (i, j): the trace of picture i gives picture j the dense model's answer.
        probability: [n, n]; what the trace of i gives the dense model's answer for j.
        groups: Number of each picture's group, [n]; the first picture's is 0.
        faithful: bool [n]; whether each trace answers as the dense model does; see `Trace.fidelity`.
    """

    answers: Tensor
    kept: Tensor
    probability: Tensor
    groups: Tensor
    faithful: Tensor

    def within(self) -> float:
        """Share of kept answers between different pictures of one group; NaN if every group has one picture."""
        return self._share(self._same())

    def across(self) -> float:
        """Share of kept answers between pictures of different groups; NaN if there is one group."""
        return self._share(self.groups[:, None] != self.groups)

    def _same(self) -> Tensor:
        same = self.groups[:, None] == self.groups
        return same & ~torch.eye(len(same), dtype=torch.bool)

    def _share(self, pairs: Tensor) -> float:
        return float(self.kept[pairs].double().mean())


def reasons(
    model: nn.Module,
    images: Tensor,
    *,
    groups: int | None = None,
    method: str = "obc",
    seed: int = 0,
    progress: Progress = True,
    **trace_options: Any,
) -> Reasons:
    """Trace each picture, run each trace on all pictures, and group the pictures by the answers that are kept.

    Args:
        model: Classifier. Not modified.
        images: [n >= 2, 3, H, W], as the model takes them.
        groups: Number of groups; None: as `group_pictures` finds it.
        method: As in `trace_many`.
        seed: The seed of augmentations and of clustering.
        progress: True for bars, or callback(stage, done, total).
        **trace_options: Further arguments of `trace_many`.

    Raises:
        ValueError: Fewer than two pictures, or an argument out of its range.
    """
    if images.ndim != 4 or len(images) < 2:
        raise ValueError(f"reasons: images must be [n >= 2, 3, H, W], got {tuple(images.shape)}")
    with torch.no_grad():
        answers = unwrap(model(images)).argmax(1).cpu()
        rows, faithful = [], []
        for found in trace_many(
            model, images, method=method, seed=seed, progress=progress, **trace_options
        ):
            rows.append(unwrap(found.model(images)).softmax(1).cpu())
            faithful.append(found.faithful)
    sparse = torch.stack(rows)  # [trace, picture, class]
    kept = sparse.argmax(2) == answers
    probability = sparse.gather(2, answers.expand(len(rows), -1)[..., None])[..., 0]
    grouped = group_pictures(kept, groups, seed=seed)
    return Reasons(answers, kept, probability, grouped, torch.tensor(faithful))


def group_pictures(kept: Tensor, groups: int | None = None, *, seed: int = 0) -> Tensor:
    """Spectral clustering of pictures that keep each other's answers.

    Two pictures are as close as the share of kept answers among the two directions.

    Args:
        kept: bool [n, n], as in `Reasons`.
        groups: Number of groups, in [1, n]; None: where the eigenvalues of the normalised Laplacian make their largest
            step, at most MOST_GROUPS.
        seed: The seed of k-means on the eigenvectors.

    Returns:
        int64 [n]; groups are numbered in the order in which they appear.

    Source: von Luxburg, "A tutorial on spectral clustering" (2007); scikit-learn's SpectralClustering.
    """
    from sklearn.cluster import SpectralClustering

    count = len(kept)
    if groups is not None and check_int("group_pictures", "groups", groups, 1) > count:
        raise ValueError(f"group_pictures: groups must be at most {count}, got {groups}")
    closeness = (kept.double() + kept.double().T) / 2
    closeness.fill_diagonal_(1.0)
    chosen = _step(closeness) if groups is None else groups
    if chosen == 1:
        return torch.zeros(count, dtype=torch.int64)
    if chosen == count:
        return torch.arange(count)
    floor = 1e-3  # keeps the graph connected, which the solver asks for
    clustering = SpectralClustering(chosen, affinity="precomputed", random_state=seed % 2**32)
    found = clustering.fit_predict(np.maximum(closeness.numpy(), floor))
    return _numbered(found.tolist())


def _step(closeness: Tensor) -> int:
    """Number of eigenvalues before the largest step."""
    scale = closeness.sum(1).rsqrt()
    laplacian = torch.eye(len(closeness), dtype=torch.float64)
    laplacian -= scale[:, None] * closeness * scale
    values = torch.linalg.eigvalsh(laplacian)[: MOST_GROUPS + 1]
    return int(values.diff().argmax()) + 1


def _numbered(labels: Sequence[int]) -> Tensor:
    order: dict[int, int] = {}
    return torch.tensor([order.setdefault(label, len(order)) for label in labels])
