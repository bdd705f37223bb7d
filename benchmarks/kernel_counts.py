"""Arithmetic and memory traffic of every CUDA kernel by shape, as docs/cuda.md counts them: R rows, D columns.

Counted is what a kernel cannot do without: arithmetic on pivots that are dropped, partial sums and rereads that the
L2 cache may hold are left out. Launches that only read, write or order a few numbers have no count.
"""

import math
from collections.abc import Iterable

from benchmarks import costs
from benchmarks.costs import Work
from benchmarks.layers import LayerShape

Counts = dict[str, list[Work]]
"""Work by kernel, an entry for each time that its launches ran one after another on other sizes."""

PANEL = 128  # pivots, and columns of a lazy block, between two passes over a matrix
CHOLESKY_PANEL = 64
BY_WARP, SINGLE = 64, 576  # most columns of an elimination in registers, of one in a single launch
CANDIDATES = 16  # pivots that one reading of the panel may give
TENSOR = "three fp16 products"


def together(counts: Iterable[Counts]) -> Counts:
    """The counts of one after another."""
    total: Counts = {}
    for part in counts:
        for kernel, works in part.items():
            total.setdefault(kernel, []).extend(works)
    return total


def works_of(counts: Counts) -> list[Work]:
    """Everything that is counted."""
    return [work for works in counts.values() for work in works]


def _left(cols: int, panel: int) -> list[int]:
    """Columns that remain after each panel but the last."""
    return list(range(cols - panel, 0, -panel))


def obc_trace(rows: int, cols: int, update: str = "ffma") -> Counts:
    """Order and losses of all D eliminations: R D^3 / 3 flop.

    With more than 576 columns m, after each panel of 128 pivots the update of a packed triangle: 128 m^2 flop, m^2 / 2
    floats read and written (first read from the shared inverse), so R D^3 / 3 flop and 4 R D^3 / (3 128) bytes in all.

    Args:
        rows: R.
        cols: D.
        update: "ffma" or "fp16".
    """
    results = 4.0 * cols**2 + 12.0 * rows * cols
    flop = rows * cols**3 / 3
    if cols <= BY_WARP:
        return {"obc_warp": [Work(flop, results)]}
    if cols <= SINGLE:  # U, D^2 / 2 floats per row, goes to memory
        return {"obc_single": [Work(flop, results + 2.0 * rows * cols**2)]}
    left = _left(cols, PANEL)
    stored = 4  # bytes of an entry of U that the update reads: a float, or two halves
    panel = sum(PANEL**2 * m for m in [cols, *left])
    # A round of 16 pivots with t columns in the panel reads t m entries of U; U goes to memory, also as halves.
    reread = sum(4.0 * m * PANEL / CANDIDATES * PANEL / 2 for m in [cols, *left])
    written = sum(m * PANEL * (8.0 if update == "fp16" else 4.0) for m in [cols, *left])
    update_bytes = sum(4.0 * m**2 + stored * PANEL * m for m in left) - 2.0 * left[0] ** 2
    update_work = Work(
        float(rows * sum(PANEL * m**2 for m in left)),
        rows * update_bytes + 4.0 * cols**2,
        arithmetic=TENSOR if update == "fp16" else "float32",
    )
    return {
        "obc_start": [Work(0.0, 20.0 * rows * cols)],
        "obc_panel": [Work(float(rows * panel), rows * (reread + written) + results)],
        "obc_update_half" if update == "fp16" else "obc_update_ffma": [update_work],
    }


def obc_pattern(rows: int, cols: int, block: int = 1) -> Counts:
    """The elimination in double: D^3 / 2 FMA a row, and a number of U read for every four, or for `block` if fewer."""
    fma = rows * cols**3 / 2
    return {"obc_pattern": [Work(2 * fma, 8 * fma / min(4, block), arithmetic="float64")]}


def obc_weights(rows: int, cols: int, sparsity: float) -> Counts:
    """Weights at a sparsity from an order."""
    return {"obc_solve": [costs.obc_weights(rows, cols, sparsity)]}


def hessian(
    shape: LayerShape,
    samples: int,
    *,
    itemsize: int = 4,
    channels_last: bool = False,
    precision: str = "default",
) -> Counts:
    """H += X X^T of so many samples; three products of float32 inputs are counted once.

    Args:
        shape: The layer.
        samples: Images, or sequences of a linear layer.
        itemsize: Bytes of a number: 4, or 2 of float16 and bfloat16.
        channels_last: Layout of images; linear inputs are so by themselves.
        precision: "default" or "fast".
    """
    plain = costs.hessian(shape, samples)
    three = itemsize == 4 and precision == "default"
    arithmetic = TENSOR if three else "one fp16 product"
    channels = shape.channels // shape.groups
    pointwise = shape.kernel <= 1
    numbers = float(math.prod(shape.input_shape(samples)))
    if pointwise:  # pixels that a stride leaves out are not read
        numbers = float(shape.samples * samples * shape.channels)
    packed = (pointwise and shape.groups == 1) or (channels >= 32 and shape.kernel**2 <= 81)
    in_place = itemsize == 2 and channels % 8 == 0 and (channels_last or not shape.kernel)
    counts: Counts = {"assemble_kernel": [Work(0.0, 16.0 * shape.groups * shape.cols**2)]}
    if itemsize == 4:
        counts["largest_kernel"] = [Work(0.0, 4 * numbers)]
    width = 4 if three else 2
    if packed and not in_place:
        counts["pack_kernel"] = [Work(0.0, (itemsize + width) * numbers)]
    if packed:
        work = Work(plain.flop, width * numbers, plain.plain_flop, arithmetic)
        counts["gram_kernel"] = [work]
    else:
        work = Work(plain.plain_flop, itemsize * numbers, plain.plain_flop, arithmetic)
        counts["gather_kernel"] = [work]
    return counts


def sparsegpt(rows: int, cols: int, samples: int = 1, *, double: bool = True) -> Counts:
    """SparseGPT of S samples: D^3 / 3 flop for the factor of each and R D^2 for the sweep.

    Args:
        rows: R.
        cols: D.
        samples: S.
        double: The factor is in float64; see docs/cuda.md.
    """
    size, arithmetic = (8, "float64") if double else (4, "float32")
    panel = CHOLESKY_PANEL
    left, blocks = _left(cols, panel), math.ceil(cols / PANEL)
    triangle = samples * cols**2 / 2
    weights = float(samples * rows * cols)

    def factor(flop: float, bytes_: float) -> list[Work]:
        return [Work(samples * flop, samples * bytes_, arithmetic=arithmetic)]

    right = _left(cols, PANEL)
    return {
        "load_reversed": [Work(0.0, triangle * (4 + size))],
        "factor_diagonal": factor(2 / 3 * panel**2 * cols, 2.0 * size * panel * cols),
        "solve_panel": factor(
            sum(panel**2 * m for m in left), sum(2.0 * size * panel * m for m in left)
        ),
        "update_trailing": factor(
            sum(panel * m**2 for m in left), sum(float(size) * m**2 for m in left)
        ),
        "store_factor": [Work(0.0, triangle * (4 + size))],
        "turn_weights": [Work(0.0, 4.0 * rows * cols + 4.0 * weights)],
        "invert_blocks": [Work(samples * blocks * PANEL**3 / 3, 8.0 * samples * cols * PANEL)],
        "weights_now": [Work(weights * PANEL, 12.0 * weights)],
        "prune_lazy_block": [Work(weights * PANEL, 8.0 * weights)],
        "finish_lazy_block": [Work(0.0, 16.0 * weights)],
        "carry_errors": [
            Work(
                float(samples * sum(2 * rows * PANEL * m for m in right)),
                float(samples * sum(8 * rows * m + 4 * PANEL * (m + rows) for m in right)),
            )
        ],
    }


def network(
    layers: Iterable[LayerShape],
    *,
    batches: int = 0,
    batch: int = 0,
    update: str | None = None,
    sparsity: float = 0.0,
    sparsegpt_samples: int = 0,
    double: bool = True,
    itemsize: int = 4,
) -> Counts:
    """A whole network: Hessians of channels-last batches, then exact OBC with weights, or SparseGPT.

    Args:
        layers: Of the network.
        batches: Batches of the inputs.
        batch: Images of a batch.
        update: Of exact OBC in wide layers, "ffma" or "fp16"; None prunes otherwise.
        sparsity: Of exact OBC.
        sparsegpt_samples: Pruned together by SparseGPT.
        double: As in sparsegpt.
        itemsize: Bytes of an input's number; the first layer's are float32.
    """
    parts: list[Counts] = []
    for i, shape in enumerate(layers):
        own = itemsize if i else 4
        for _ in range(shape.count):
            each = hessian(shape, batch, itemsize=own, channels_last=True) if batches else {}
            parts.append({kernel: works * batches for kernel, works in each.items()})
            rows = shape.rows // shape.groups
            for _ in range(shape.groups if update or sparsegpt_samples else 0):
                if update is not None:
                    parts.append(obc_trace(rows, shape.cols, update))
                    parts.append(obc_weights(rows, shape.cols, sparsity))
                if sparsegpt_samples:
                    parts.append(sparsegpt(rows, shape.cols, sparsegpt_samples, double=double))
    return together(parts)
