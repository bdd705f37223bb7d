"""Where the native library lies and how it was built, for those who link it."""

import json
from pathlib import Path

from spade_ext import _C

_ROOT = Path(__file__).resolve().parent


def _existing(path: Path) -> str:
    if not path.exists():
        raise FileNotFoundError(f"spade_ext: {path} is missing; install the package with pip")
    return str(path)


def cmake_prefix_path() -> str:
    """Prefix for CMAKE_PREFIX_PATH, so that find_package(spade CONFIG) finds this installation.

    Example:
        >>> import spade_ext
        >>> option = f"-DCMAKE_PREFIX_PATH={spade_ext.cmake_prefix_path()}"
    """
    return _existing(_ROOT / "lib" / "cmake")


def include_dir() -> str:
    """Directory that holds spade/spade.h.

    Example:
        >>> import spade_ext
        >>> option = f"-I{spade_ext.include_dir()}"
    """
    return _existing(_ROOT / "include")


def library_path() -> str:
    """The native library.

    Example:
        >>> import ctypes, spade_ext
        >>> library = ctypes.CDLL(spade_ext.library_path())
    """
    return _existing(_ROOT / "lib" / "libspade.so.0")


def cuda_is_available() -> bool:
    """Whether ops can run on CUDA tensors; build_info()["cuda"] says why not.

    Example:
        >>> import spade_ext
        >>> device = "cuda" if spade_ext.cuda_is_available() else "cpu"
    """
    available: bool = _C.cuda_is_available()
    return available


def build_info() -> dict[str, str]:
    """How the native library was built and what it runs with.

    Keys: version, compiler, kernels (instruction sets compiled), openmp, blas, cpu_isa (the instruction set in use),
    cuda ("available", or "unavailable: " and why), and, if built with CUDA, nvcc and architectures.

    Example:
        >>> import spade_ext
        >>> spade_ext.build_info()["cpu_isa"] in ("avx512", "avx2", "plain", "neon")
        True
    """
    info: dict[str, str] = json.loads(_C.build_info()) | json.loads(_C.cuda_build_info())
    reason = _C.cuda_unavailable_reason()
    return {
        "version": _C.version(),
        **info,
        "cpu_isa": _C.cpu_isa(),
        "cuda": f"unavailable: {reason}" if reason else "available",
    }
