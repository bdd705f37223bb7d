# The binding. Tensors cross it as addresses (data_ptr()), which the Python layer has checked; sizes and meanings are
# those of csrc/include/spade/spade.h and cuda.h. ValueError, ArithmeticError, MemoryError and RuntimeError carry the
# text of a status. stub.py adds the functions that SPADE_BIND binds; tests/ext/test_border.py compares the whole with
# the compiled module.
from collections.abc import Sequence

_Layer = tuple[
    int, int, int, float, int, int, int, float, int, int, int, int, int, int, int
]  # spade_cuda_sparsegpt_layer_t: S R D, its options, w w_stride h out damp_used info

def version() -> str: ...
def cpu_isa() -> str: ...
def build_info() -> str: ...
def advise_huge_pages(address: int, bytes_: int) -> None: ...
def all_finite_f32(x: int, count: int) -> bool: ...

all_finite_f64 = all_finite_f32

def next_damp(damp: float) -> float: ...
def obc_fits_float(mean: float, most: float, damp: float) -> bool: ...
def hessian_conv2d_f32(
    x: int, conv: Sequence[int], form: int, h: int, threads: int, progress: object
) -> None: ...

hessian_conv2d_f64 = hessian_conv2d_f32
hessian_conv2d_set_f32 = hessian_conv2d_f32
hessian_conv2d_set_f64 = hessian_conv2d_f32

# The damping that was used.
def damped_inverse_f32(h: int, D: int, damp: float, hinv: int, threads: int) -> float: ...

damped_inverse_f64 = damped_inverse_f32

# spade_obc_outcome_t: damping, row that was given up or -1, its step, whether float does not do.
def obc_eliminate_f32(
    w: int, h: int, R: int, D: int, n: int, m: int, block: int, damp: float,
    order: int, loss: int, dense: int, damped: int, hinv: int, threads: int, progress: object,
) -> tuple[float, int, int, bool]: ...  # fmt: skip

obc_eliminate_f64 = obc_eliminate_f32

def obc_prune_f32(
    w: int, h: int, R: int, D: int, n: int, m: int, block: int, damp: float, sparsity: float,
    out: int, threads: int, progress: object,
) -> tuple[float, int, int, bool]: ...  # fmt: skip

obc_prune_f64 = obc_prune_f32

def obc_counts_f32(loss: int, R: int, steps: int, sparsity: float, counts: int) -> None: ...

obc_counts_f64 = obc_counts_f32

# The first row that was given up or -1, and its info.
def obc_weights_f32(
    w: int, h: int, hinv: int, R: int, D: int, block: int, steps: int, order: int, counts: int,
    out: int, threads: int, progress: object,
) -> tuple[int, int]: ...  # fmt: skip

obc_weights_f64 = obc_weights_f32

# Of each sample the damping that was used and its info.
def sparsegpt_prune_f32(
    w: int, w_stride: int, h: int, S: int, R: int, D: int,
    sparsity: float, block_size: int, n: int, m: int, damp: float, extra: int,
    out: int, threads: int, progress: object,
) -> tuple[list[float], list[int]]: ...  # fmt: skip

sparsegpt_prune_f64 = sparsegpt_prune_f32

def sparsegpt_factor_size(D: int) -> int: ...

# Of each sample the damping that was used and its info.
def sparsegpt_factor_f32(
    h: int, S: int, D: int, damp: float, factors: int, threads: int, progress: object
) -> tuple[list[float], list[int]]: ...

sparsegpt_factor_f64 = sparsegpt_factor_f32

# Of each sample the loss.
def sparsegpt_sweep_f32(
    w: int, w_stride: int, h: int, factors: int, damps: Sequence[float], S: int, R: int, D: int,
    sparsity: float, block_size: int, out: int, threads: int, progress: object,
) -> list[float]: ...  # fmt: skip

sparsegpt_sweep_f64 = sparsegpt_sweep_f32

def cuda_is_available() -> bool: ...
def cuda_unavailable_reason() -> str: ...
def cuda_build_info() -> str: ...
def cuda_hessian_linear_workspace(S: int, N: int, D: int, dtype: int, precision: int) -> int: ...
def cuda_hessian_linear(
    x: int, dtype: int, S: int, N: int, D: int, ldx: int, precision: int, h: int,
    scratch: int, bytes_: int, stream: int,
) -> None: ...  # fmt: skip
def cuda_hessian_conv2d_workspace(
    conv: Sequence[int], S: int, dtype: int, precision: int
) -> int: ...
def cuda_hessian_conv2d(
    x: int, dtype: int, conv: Sequence[int], S: int, precision: int, h: int,
    scratch: int, bytes_: int, stream: int,
) -> None: ...  # fmt: skip
def cuda_obc_trace_workspace(R: int, D: int, steps: int, limit: int) -> int: ...
def cuda_obc_trace(
    w: int, hinv: int, R: int, G: int, D: int, steps: int, update: int,
    order: int, loss: int, info: int, scratch: int, bytes_: int, stream: int,
) -> None: ...  # fmt: skip
def cuda_obc_trace_nm_workspace(R: int, D: int, n: int, m: int, limit: int) -> int: ...
def cuda_obc_trace_nm(
    w: int, hinv: int, R: int, G: int, D: int, n: int, m: int, update: int,
    order: int, loss: int, info: int, scratch: int, bytes_: int, stream: int,
) -> None: ...  # fmt: skip
def cuda_obc_trace_pattern_workspace(
    R: int, D: int, steps: int, n: int, m: int, block: int, limit: int
) -> int: ...
def cuda_obc_trace_pattern_f32(
    w: int, hinv: int, R: int, G: int, D: int, steps: int, n: int, m: int, block: int,
    order: int, loss: int, info: int, scratch: int, bytes_: int, stream: int,
) -> None: ...  # fmt: skip

cuda_obc_trace_pattern_f64 = cuda_obc_trace_pattern_f32

def cuda_obc_weights_workspace(R: int, D: int, limit: int) -> int: ...
def cuda_obc_weights_f32(
    w: int, h: int, hinv: int, R: int, G: int, D: int, steps: int, order: int, counts: int,
    out: int, info: int, scratch: int, bytes_: int, stream: int,
) -> None: ...  # fmt: skip

cuda_obc_weights_f64 = cuda_obc_weights_f32

def cuda_sparsegpt_prune_workspace(layers: Sequence[_Layer], dtype: int, limit: int) -> int: ...
def cuda_sparsegpt_prune(
    layers: Sequence[_Layer], dtype: int, scratch: int, bytes_: int, stream: int
) -> None: ...
