"""The ops on CUDA tensors: scratch from torch's allocator, work queued on torch's current stream.

Arguments are checked by the callers.
"""

from collections.abc import Callable, Sequence

import torch

from spade_ext import _C

_DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.float64: 3}
_PRECISIONS = {"default": 0, "fast": 1}
_ALIGNMENT = 256  # of scratch
MOST_COLUMNS = 4608  # of obc_trace and obc_trace_nm
_UPDATES = {"auto": 0, "ffma": 1, "fp16": 2}


def available_memory(device: torch.device) -> int:
    """Bytes for new tensors: free on the device or in torch's cache, and within the process's fraction."""
    free, total = torch.cuda.mem_get_info(device)
    used = torch.cuda.memory_allocated(device)
    cached = torch.cuda.memory_reserved(device) - used
    allowed = int(total * torch.cuda.get_per_process_memory_fraction(device.index))
    return max(0, min(free + cached, allowed - used))


def _limit(tensor: torch.Tensor, most: int | None) -> int:
    """Scratch that a call may take: half of what is available, and at most `most`."""
    half = available_memory(tensor.device) // 2
    return half if most is None else min(half, most)


def _run(like: torch.Tensor, call: Callable[..., None], bytes_: int, *arguments: object) -> None:
    """Queue call(*arguments, scratch, bytes, stream) on torch's current stream."""
    scratch = torch.empty(bytes_ + _ALIGNMENT, dtype=torch.uint8, device=like.device)
    start = -(-scratch.data_ptr() // _ALIGNMENT) * _ALIGNMENT
    with torch.cuda.device(like.device):
        call(*arguments, start, bytes_, torch.cuda.current_stream(like.device).cuda_stream)


def add_hessian_linear(
    x: torch.Tensor, out: torch.Tensor, precision: str = "default", samples: int = 1
) -> None:
    """Add X X^T of the rows x [N, D] to out [samples, D, D] float64."""
    rows, cols = x.shape
    ldx = x.stride(0) if rows > 1 else cols
    problem = (samples, rows, cols)
    kind = (_DTYPES[x.dtype], _PRECISIONS[precision])
    size = _C.cuda_hessian_linear_workspace(*problem, *kind)
    _run(
        x, _C.cuda_hessian_linear, size, x.data_ptr(), kind[0], *problem, ldx, kind[1], out.data_ptr()
    )  # fmt: skip


def add_hessian_conv2d(
    x: torch.Tensor,
    fields: Sequence[int],
    out: torch.Tensor,
    precision: str = "default",
    samples: int = 1,
) -> None:
    """Add X X^T of a convolution's patches to out [samples, groups, D, D] float64; fields of spade_conv2d_t."""
    kind = (_DTYPES[x.dtype], _PRECISIONS[precision])
    size = _C.cuda_hessian_conv2d_workspace(fields, samples, *kind)
    _run(
        x, _C.cuda_hessian_conv2d, size,
        x.data_ptr(), kind[0], fields, samples, kind[1], out.data_ptr(),
    )  # fmt: skip


def obc_trace(
    weight: torch.Tensor,
    hinv: torch.Tensor,
    steps: int,
    update: str = "auto",
    *,
    most: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Order [G, R, steps] int32, losses as order and info [G, R] of eliminating weights [G, R, D] float32.

    hinv [G, D, D] has the inverse Hessian of each group.
    """
    rows, groups, cols = _sizes(weight)
    size = _C.cuda_obc_trace_workspace(rows, cols, steps, _limit(weight, most))
    order, loss, info = _new_trace(weight, steps)
    _run(
        weight, _C.cuda_obc_trace, size,
        weight.data_ptr(), hinv.data_ptr(), rows, groups, cols, steps, _UPDATES[update],
        order.data_ptr(), loss.data_ptr(), info.data_ptr(),
    )  # fmt: skip
    return order, loss, info


def obc_trace_nm(
    weight: torch.Tensor,
    hinv: torch.Tensor,
    n: int,
    m: int,
    update: str = "auto",
    *,
    most: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As obc_trace with n of each m consecutive columns eliminated."""
    rows, groups, cols = _sizes(weight)
    size = _C.cuda_obc_trace_nm_workspace(rows, cols, n, m, _limit(weight, most))
    order, loss, info = _new_trace(weight, cols // m * n)
    _run(
        weight, _C.cuda_obc_trace_nm, size,
        weight.data_ptr(), hinv.data_ptr(), rows, groups, cols, n, m, _UPDATES[update],
        order.data_ptr(), loss.data_ptr(), info.data_ptr(),
    )  # fmt: skip
    return order, loss, info


def _sizes(weight: torch.Tensor) -> tuple[int, int, int]:
    """Rows of all groups, groups and columns of weights [G, R, D]."""
    groups, each, cols = weight.shape
    return groups * each, groups, cols


def _new_trace(weight: torch.Tensor, steps: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    shape = weight.shape[:2]
    order = weight.new_empty(*shape, steps, dtype=torch.int32)
    return order, weight.new_empty(*shape, steps), weight.new_empty(shape, dtype=torch.int32)


def obc_trace_pattern(
    weight: torch.Tensor,
    hinv: torch.Tensor,
    steps: int,
    n: int = 0,
    m: int = 0,
    block: int = 1,
    *,
    most: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As obc_trace in double, in the dtype of weight, of any number of columns; n:m or blocks of columns."""
    groups, each, cols = weight.shape
    order, loss, info = _new_trace(weight, steps)
    rows, pattern = groups * each, (steps, n, m, block)
    size = _C.cuda_obc_trace_pattern_workspace(rows, cols, *pattern, _limit(weight, most))
    wide = weight.dtype == torch.float64
    call = _C.cuda_obc_trace_pattern_f64 if wide else _C.cuda_obc_trace_pattern_f32
    _run(
        weight, call, size,
        weight.data_ptr(), hinv.data_ptr(), rows, groups, cols, *pattern,
        order.data_ptr(), loss.data_ptr(), info.data_ptr(),
    )  # fmt: skip
    return order, loss, info


def obc_weights(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    hinv: torch.Tensor,
    order: torch.Tensor,
    counts: torch.Tensor,
    *,
    most: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights [G, R, D] after counts[g, r] eliminations of each row, and info [G, R]."""
    groups, each, cols = weight.shape
    rows = groups * each
    out = torch.empty_like(weight)
    info = weight.new_empty(groups, each, dtype=torch.int32)
    size = _C.cuda_obc_weights_workspace(rows, cols, _limit(weight, most))
    wide = weight.dtype == torch.float64
    call = _C.cuda_obc_weights_f64 if wide else _C.cuda_obc_weights_f32
    _run(
        weight, call, size,
        weight.data_ptr(), hessian.data_ptr(), hinv.data_ptr(), rows, groups, cols, order.shape[2],
        order.data_ptr(), counts.data_ptr(), out.data_ptr(), info.data_ptr(),
    )  # fmt: skip
    return out, info


def least_obc_scratch(cols: int) -> int:
    """Least scratch of exact OBC of so many columns, that of one row: in float32, in float64, for its weights."""
    calls = [
        _C.cuda_obc_trace_pattern_workspace(1, cols, cols, 0, 0, 1, 0),
        _C.cuda_obc_weights_workspace(1, cols, 0),
    ]
    if cols <= MOST_COLUMNS:
        calls.append(_C.cuda_obc_trace_workspace(1, cols, cols, 0))
    most: int = max(calls)
    return most


def sparsegpt_prune(
    layers: Sequence[tuple[torch.Tensor, torch.Tensor, tuple[float, int, int, int, float, int]]],
    *,
    most: int | None = None,
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Weights [S, R, D], damping [S] float64 and info [S] of layers of one dtype.

    Args:
        layers: For each layer: weight [R, D] or [S, R, D], hessian [S, D, D], and the fields of spade_sparsegpt_t.
        most: Bytes of scratch; see _limit.
    """
    results, fields = [], []
    for weight, hessian, options in layers:
        samples, cols, _ = hessian.shape
        rows = weight.shape[-2]
        out = hessian.new_empty(samples, rows, cols)
        used = hessian.new_empty(samples, dtype=torch.float64)
        info = hessian.new_empty(samples, dtype=torch.int32)
        results.append((out, used, info))
        fields.append((
            samples, rows, cols, *options, weight.data_ptr(), rows * cols if weight.ndim == 3 else 0,
            hessian.data_ptr(), out.data_ptr(), used.data_ptr(), info.data_ptr(),
        ))  # fmt: skip
    like = layers[0][1]
    dtype = _DTYPES[like.dtype]
    with torch.cuda.device(like.device):  # some factorise in double
        size = _C.cuda_sparsegpt_prune_workspace(fields, dtype, _limit(like, most))
    _run(like, _C.cuda_sparsegpt_prune, size, fields, dtype)
    return results


def least_sparsegpt_scratch(rows: int, cols: int, block_size: int, device: torch.device) -> int:
    """Least scratch of SparseGPT of a float32 layer [rows, cols], that of one sample, at any damping."""
    options = (0.0, block_size, 0, 0, 0.0, 0)  # without damping every device factorises in double
    sample = (1, rows, cols, *options, 0, 0, 0, 0, 0, 0)  # no tensors
    with torch.cuda.device(device):
        size = _C.cuda_sparsegpt_prune_workspace([sample], _DTYPES[torch.float32], 0)
    return size
