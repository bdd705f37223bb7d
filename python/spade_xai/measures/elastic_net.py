"""Multinomial logistic regression with an elastic net on many samples: FISTA, a chunk of samples at a time.

The objective is that of `elastic_net_path`. scikit-learn's SAGA takes one sample per step, in float64 on one core: days
for 1000 classes and 2048 features. Here a step is two matrix products over all samples, where the features are.
Source: Beck and Teboulle (SIAM J. Imaging Sci. 2009); restarts: O'Donoghue and Candes (Found. Comput. Math. 2015).
"""

import torch
from torch import Tensor, nn

CHUNK = 16384  # samples in one product
TOLERANCE = 1e-4  # of the largest change of a weight, in largest weights, as in scikit-learn


class ElasticNet:
    """Fits for falling penalties, each from the weights of the one before.

    Args:
        features: [N, D], floating point. Not modified; all products are in float32 on their device.
        labels: Classes [N].
        classes: How many.
        centre: Subtracted from the features, [D].
        scale: Divided by, [D], > 0.
        l1_ratio: Share of the L1 term.
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        classes: int,
        centre: Tensor,
        scale: Tensor,
        l1_ratio: float,
    ) -> None:
        self.features, self.labels, self.l1_ratio = features, labels.to(features.device), l1_ratio
        self.centre, self.scale = (v.to(features.device, torch.float32) for v in (centre, scale))
        self.weight = features.new_zeros(classes, features.shape[1], dtype=torch.float32)
        self.bias = features.new_zeros(classes, dtype=torch.float32)
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
        for part in range(0, len(self.labels), CHUNK):
            z, y = self._standard(part), self.labels[part : part + CHUNK]
            excess = torch.softmax(torch.addmm(bias, z, weight.T), 1)
            excess[torch.arange(len(y), device=y.device), y] -= 1
            along_weight += excess.T @ z
            along_bias += excess.sum(0)
        return along_weight / len(self.labels), along_bias / len(self.labels)

    def _standard(self, start: int) -> Tensor:
        """Standardised features of a chunk."""
        return (self.features[start : start + CHUNK].float() - self.centre) / self.scale

    def _largest_eigenvalue(self) -> float:
        """Of Z^T Z / n, from above."""
        gram = self.weight.new_zeros(self.weight.shape[1], self.weight.shape[1])
        for start in range(0, len(self.labels), CHUNK):
            z = self._standard(start)
            gram += z.T @ z
        return float(torch.linalg.eigvalsh(gram / len(self.labels))[-1]) * 1.001
