"""Multinomial logistic regression with an elastic net on many samples: FISTA, a chunk of samples at a time.

The objective is that of `elastic_net_path`. scikit-learn's SAGA takes one sample per step, in float64 on one core: days
for 1000 classes and 2048 features. Here a step is two matrix products over all samples. The features may lie in a file
that is mapped into memory: no more than a chunk of them is copied.
Source: Beck and Teboulle (SIAM J. Imaging Sci. 2009); restarts: O'Donoghue and Candes (Found. Comput. Math. 2015).
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

CHUNK = 16384  # samples in one product
TOLERANCE = 1e-4  # of the largest change of a weight, in largest weights, as in scikit-learn


class Samples:
    """Some rows of a matrix of features, a chunk at a time.

    Args:
        features: [N, D], floating point. Not modified.
        rows: Which, in rising order, so that a file is read from its beginning to its end.
        device: Where the chunks are to be.
    """

    def __init__(self, features: Tensor, rows: Tensor, device: torch.device) -> None:
        self.features, self.rows, self.device = features, rows.to(features.device), device

    def __len__(self) -> int:
        return len(self.rows)

    def chunks(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """Where each chunk is among the rows, and its features [n, D]."""
        for start in range(0, len(self.rows), CHUNK):
            part = slice(start, start + CHUNK)
            yield part, self.features[self.rows[part]].to(self.device, dtype)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each feature, [D] in float64; the latter is at least 1e-8."""
        total = torch.zeros(self.features.shape[1], dtype=torch.float64, device=self.device)
        for _, x in self.chunks(torch.float64):
            total += x.sum(0)
        centre = total / len(self)
        squares = torch.zeros_like(total)
        for _, x in self.chunks(torch.float64):
            squares += (x - centre).square().sum(0)
        return centre, (squares / (len(self) - 1)).sqrt().clamp_min(1e-8)


class ElasticNet:
    """Fits for falling penalties, each from the weights of the one before.

    Args:
        samples: What it is fitted to; all products are in float32 on their device.
        labels: Classes [N].
        classes: How many.
        centre: Subtracted from the features, [D].
        scale: Divided by, [D], > 0.
        l1_ratio: Share of the L1 term.
    """

    def __init__(
        self,
        samples: Samples,
        labels: Tensor,
        classes: int,
        centre: Tensor,
        scale: Tensor,
        l1_ratio: float,
    ) -> None:
        device = samples.device
        self.samples, self.labels, self.l1_ratio = samples, labels.to(device), l1_ratio
        self.centre, self.scale = (v.to(device, torch.float32) for v in (centre, scale))
        self.weight = torch.zeros(classes, len(centre), device=device)
        self.bias = torch.zeros(classes, device=device)
        self._curvature = 0.5 * max(1.0, self._largest_eigenvalue())

    def fit(self, penalty: float, iterations: int) -> None:
        """Move weight and bias to the minimum for a penalty, by at most so many steps."""
        smooth, sharp = penalty * (1 - self.l1_ratio), penalty * self.l1_ratio
        step = 1 / (self._curvature + smooth)
        weight, bias = self.weight, self.bias
        ahead_weight, ahead_bias, momentum = weight, bias, 1.0
        for _ in range(iterations):
            along_weight, along_bias = self._gradient(ahead_weight, ahead_bias)
            along_weight = along_weight + smooth * ahead_weight
            new_weight = nn.functional.softshrink(ahead_weight - step * along_weight, step * sharp)
            new_bias = ahead_bias - step * along_bias
            moved, moved_bias = new_weight - weight, new_bias - bias
            back = ((ahead_weight - new_weight) * moved).sum() + (
                (ahead_bias - new_bias) * moved_bias
            ).sum()
            after = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            share = (
                0.0 if back > 0 else (momentum - 1) / after
            )  # restart where momentum leads uphill
            momentum = 1.0 if back > 0 else after
            ahead_weight, ahead_bias = new_weight + share * moved, new_bias + share * moved_bias
            weight, bias = new_weight, new_bias
            if float(moved.abs().max()) <= TOLERANCE * float(new_weight.abs().max()):
                break
        self.weight, self.bias = weight, bias

    def greatest_penalty(self) -> float:
        """The least penalty at which W = 0 is optimal: |Z^T (onehot(y) - prior)| / n <= penalty * l1_ratio."""
        shares = torch.bincount(self.labels, minlength=len(self.bias)) / len(self.labels)
        gradient, _ = self._gradient(self.weight * 0, shares.log().float())
        return float(gradient.abs().max()) / max(self.l1_ratio, 1e-3)

    def _gradient(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Of the mean log loss."""
        along_weight, along_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        for part, z in self._standard():
            y = self.labels[part]
            excess = torch.softmax(torch.addmm(bias, z, weight.T), 1)
            excess[torch.arange(len(y), device=y.device), y] -= 1
            along_weight += excess.T @ z
            along_bias += excess.sum(0)
        return along_weight / len(self.labels), along_bias / len(self.labels)

    def _standard(self) -> Iterator[tuple[slice, Tensor]]:
        """Standardised features of each chunk."""
        for part, x in self.samples.chunks(torch.float32):
            yield part, x.sub_(self.centre).div_(self.scale)

    def _largest_eigenvalue(self) -> float:
        """Of Z^T Z / n, from above."""
        gram = self.weight.new_zeros(self.weight.shape[1], self.weight.shape[1])
        for _, z in self._standard():
            gram += z.T @ z
        return float(torch.linalg.eigvalsh(gram / len(self.labels))[-1]) * 1.001
