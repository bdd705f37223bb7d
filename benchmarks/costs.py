"""Arithmetic and least memory traffic of every op, by formula: float32, R rows, D columns, N columns of X."""

import math
from dataclasses import dataclass

from benchmarks.layers import LayerShape
from benchmarks.rates import Rates


@dataclass(frozen=True)
class Work:
    """What an op costs.

    Attributes:
        flop: Multiplications and additions that are done.
        bytes: Each input read and each output written once; working memory that a cache can hold is left out.
        plain_flop: The same result by the plain formula, where the op saves arithmetic; otherwise flop.
        arithmetic: Whose rate bounds the flop; see Rates.gflops.
    """

    flop: float
    bytes: float
    plain_flop: float = 0.0
    arithmetic: str = "float32"

    def __post_init__(self) -> None:
        if not self.plain_flop:
            object.__setattr__(self, "plain_flop", self.flop)

    def arithmetic_seconds(self, rates: Rates) -> float:
        """Least time of the flop."""
        return self.flop / rates.gflops(self.arithmetic) / 1e9 if self.flop else 0.0

    def memory_seconds(self, rates: Rates) -> float:
        """Least time of the bytes."""
        return self.bytes / rates.copy / 1e9

    def floor(self, rates: Rates) -> float:
        """Least time on a machine of these rates: that of its arithmetic or of its memory, the longer."""
        return max(self.arithmetic_seconds(rates), self.memory_seconds(rates))


def tap_offsets(kernel: int, stride: int, padding: int) -> int:
    """Distinct offsets between two taps of a square kernel, up to sign: each needs one product of shifted inputs.

    Two pairs of taps see the same products (up to border rows) if both the offset of their inputs and the place of
    the first one on the stride's lattice agree: 13 of 45 pairs for 3 x 3 at stride 1.
    """
    taps = [(y, x) for y in range(kernel) for x in range(kernel)]
    place = {t: tuple((v - padding) % stride for v in t) for t in taps}
    offsets = set()
    for i, first in enumerate(taps):
        for second in taps[i:]:
            offset = second[0] - first[0], second[1] - first[1]
            offsets.add((offset, place[first]))
    return len(offsets)


def hessian(shape: LayerShape, samples: int) -> Work:
    """H += X X^T: N D (D + 1) flop for the symmetric half; convolutions share products between taps.

    With tap offsets: C (C + 1) flop a position for the offset 0, 2 C^2 for each other one; the op takes the cheaper
    of the two forms. Bytes: the inputs once, and H in float64 read and written.
    """
    n, d = shape.samples * samples, shape.cols
    plain = float(shape.groups * n * d * (d + 1))
    channels = shape.channels // shape.groups
    flop = plain
    if shape.kernel > 1:
        offsets = tap_offsets(shape.kernel, shape.stride, shape.padding)
        zero = min(shape.stride, shape.kernel) ** 2  # offset 0, once for each place on the lattice
        shared = zero * channels * (channels + 1) + (offsets - zero) * 2 * channels**2
        flop = min(plain, float(shape.groups * n * shared))
    inputs = math.prod(shape.input_shape(samples))
    return Work(flop, 4.0 * inputs + 16.0 * shape.groups * d * d, plain)


def damped_inverse(cols: int) -> Work:
    """Cholesky D^3 / 3 and inverse 2 D^3 / 3, in float64; H read and A written in float32."""
    return Work(float(cols) ** 3, 8.0 * cols**2, arithmetic="float64")


def obc_trace(rows: int, cols: int, double: bool = False) -> Work:
    """R D^3 / 3: one pivoted Cholesky per row. A and W are read, order and losses are written."""
    arithmetic = "float64" if double else "float32"
    return Work(rows * cols**3 / 3, 4.0 * cols**2 + 12.0 * rows * cols, arithmetic=arithmetic)


def obc_weights(rows: int, cols: int, sparsity: float) -> Work:
    """A solve on the smaller side of k = min(kept, pruned) columns per row, in float64: k^3 / 3 + 2 k^2 + 2 k D.

    Every row is taken to keep the same share.
    """
    k = min(sparsity, 1 - sparsity) * cols
    flop = rows * (k**3 / 3 + 2 * k**2 + 2 * k * cols)
    return Work(flop, 4.0 * cols**2 + 12.0 * rows * cols, arithmetic="float64")


def sparsegpt(rows: int, cols: int, samples: int = 1) -> Work:
    """D^3 / 3 for one Cholesky and R D^2 for the sweep, each sample. H and W read, weights written."""
    return Work(
        samples * (cols**3 / 3 + rows * float(cols) ** 2),
        4.0 * samples * (cols**2 + rows * cols) + 4.0 * rows * cols,
    )
