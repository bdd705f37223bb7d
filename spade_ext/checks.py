"""Argument checks: every error names the function, the argument, what was expected and what came."""

import math
from collections.abc import Sequence

import torch

from spade_ext import _C

MOST_DAMP = 1e6  # drowns any Hessian; far more overflows float32
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check_tensor(
    function: str,
    name: str,
    value: object,
    *,
    ndim: int | Sequence[int] | None = None,
    dtypes: Sequence[torch.dtype] = FLOATS,
) -> torch.Tensor:
    """Return value if it is a dense tensor of an allowed dtype and number of dimensions."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{function}: {name} must be a torch.Tensor, got {type(value).__name__}")
    if value.dtype not in dtypes:
        names = ", ".join(str(d) for d in dtypes)
        raise TypeError(f"{function}: {name} must have dtype {names}, got {value.dtype}")
    if value.layout != torch.strided:
        raise TypeError(f"{function}: {name} must be a dense tensor, got layout {value.layout}")
    if ndim is not None:
        allowed = (ndim,) if isinstance(ndim, int) else tuple(ndim)
        if value.ndim not in allowed:
            dims = " or ".join(str(d) for d in allowed)
            raise ValueError(
                f"{function}: {name} must have {dims} dimensions, got shape {tuple(value.shape)}"
            )
    return value


def check_shape(
    function: str, name: str, value: torch.Tensor, shape: Sequence[int]
) -> torch.Tensor:
    """Return value if it has the shape."""
    if value.shape != tuple(shape):
        raise ValueError(
            f"{function}: {name} must have shape {tuple(shape)}, got {tuple(value.shape)}"
        )
    return value


def check_same_device(
    function: str, name: str, value: torch.Tensor, like_name: str, like: torch.Tensor
) -> torch.Tensor:
    """Return value if it is on the device of like."""
    if value.device != like.device:
        raise ValueError(
            f"{function}: {name} must be on the device of {like_name}, {like.device}, "
            f"got {value.device}"
        )
    return value


def all_finite(value: torch.Tensor) -> torch.Tensor:
    """Whether value holds neither NaN nor Inf, as a tensor on its device: nothing waits for it."""
    if not value.numel():
        return torch.ones((), dtype=torch.bool, device=value.device)
    return torch.isfinite(torch.stack(torch.aminmax(value))).all()


def check_finite(function: str, name: str, value: torch.Tensor) -> torch.Tensor:
    """Return value if it holds neither NaN nor Inf."""
    dtype = value.dtype
    if value.is_cuda:
        finite = bool(all_finite(value))
    elif value.is_cpu and dtype == torch.float32 and value.is_contiguous():
        finite = _C.all_finite_f32(value.data_ptr(), value.numel())
    elif value.is_cpu and dtype == torch.float64 and value.is_contiguous():
        finite = _C.all_finite_f64(value.data_ptr(), value.numel())
    else:
        # A finite sum means finite entries, and is ten times faster to get than a test of each.
        finite = bool(torch.isfinite(value.sum())) or bool(torch.isfinite(value).all())
    if not finite:
        bad = int((~torch.isfinite(value)).sum())
        raise ValueError(f"{function}: {name} must be finite, got {bad} NaN or Inf entries")
    return value


def check_all_finite(function: str, **values: torch.Tensor) -> dict[str, float]:
    """The largest |x| of each of some tensors on a device; waits for the device once.

    Raises:
        ValueError: One holds NaN or Inf.
    """
    most = torch.stack([_largest(value) for value in values.values()]).tolist()
    found = dict(zip(values, most, strict=True))
    for name, value in values.items():
        if not math.isfinite(found[name]):
            check_finite(function, name, value)
    return found


def _largest(value: torch.Tensor) -> torch.Tensor:
    """The largest |x| as a float64 scalar on the device: NaN or Inf if one of them is."""
    if not value.numel():
        return torch.zeros((), dtype=torch.float64, device=value.device)
    return torch.stack(torch.aminmax(value)).abs().amax().double()


def check_range(
    function: str, name: str, value: float, low: float, high: float = float("inf")
) -> float:
    """Return value as a float if low <= value <= high."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{function}: {name} must be a number, got {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{function}: {name} must be in [{low}, {high}], got {value}")
    return float(value)


def check_int(function: str, name: str, value: object, low: int, high: int = 2**31 - 1) -> int:
    """Return value if it is an int with low <= value <= high, by default what a C int holds."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{function}: {name} must be an int, got {type(value).__name__}")
    if value < low:
        raise ValueError(f"{function}: {name} must be at least {low}, got {value}")
    if value > high:
        raise ValueError(f"{function}: {name} must be at most {high}, got {value}")
    return value


def check_seed(function: str, seed: object) -> int:
    """Return seed if it is an int that torch's generators take."""
    return check_int(function, "seed", seed, -(2**63), 2**63 - 1)


def check_nm(
    function: str, n: object, m: object, columns: int, names: tuple[str, str] = ("n", "m")
) -> tuple[int, int] | None:
    """Return (n, m) of an n:m pattern over columns, or None if neither is given."""
    if n is None and m is None:
        return None
    name_n, name_m = names
    if n is None or m is None:
        raise ValueError(
            f"{function}: {name_n} and {name_m} go together, got {name_n}={n}, {name_m}={m}"
        )
    m_ = check_int(function, name_m, m, 1)
    n_ = check_int(function, name_n, n, 0)
    if n_ > m_:
        raise ValueError(
            f"{function}: {name_n} must be at most {name_m}, got {name_n}={n_}, {name_m}={m_}"
        )
    if columns % m_:
        raise ValueError(f"{function}: {name_m} must divide the {columns} columns, got {m_}")
    return n_, m_


def resolve_threads(function: str, threads: int | None) -> int:
    """Threads to run with: the argument, or torch's own count."""
    return (
        torch.get_num_threads() if threads is None else check_int(function, "threads", threads, 1)
    )


def check_square(function: str, name: str, value: torch.Tensor) -> torch.Tensor:
    """Return value if its last two dimensions are equal."""
    if value.shape[-1] != value.shape[-2]:
        raise ValueError(f"{function}: {name} must be square, got shape {tuple(value.shape)}")
    return value


def check_device(function: str, name: str, value: torch.Tensor) -> torch.Tensor:
    """Return value if it is on a device that ops run on: the CPU, or CUDA if its backend is available."""
    if value.is_cpu or (value.is_cuda and _C.cuda_is_available()):
        return value
    why = f" (no CUDA: {_C.cuda_unavailable_reason()})" if value.is_cuda else ""
    raise ValueError(f"{function}: {name} must be on device cpu or cuda, got {value.device}{why}")


def compute_dtype(*tensors: torch.Tensor) -> torch.dtype:
    """The dtype an op computes in: float64 if any argument is, otherwise float32."""
    for tensor in tensors:
        if tensor.dtype == torch.float64:
            return torch.float64
    return torch.float32


def narrowed(function: str, pruned: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Pruned weights in the dtype of the result, whose range may be less than that of the arithmetic."""
    out = pruned.to(dtype)
    if torch.finfo(dtype).max < torch.finfo(pruned.dtype).max and not bool(all_finite(out)):
        raise ValueError(
            f"{function}: the pruned weights must be in the range of {dtype}, got {float(pruned.abs().max()):g}"
        )
    return out


def dense(value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Value without gradient, contiguous, in dtype; value's own memory where it fits."""
    if value.dtype == dtype and value.is_contiguous():
        return value.detach() if value.requires_grad else value
    return value.detach().to(dtype).contiguous()
