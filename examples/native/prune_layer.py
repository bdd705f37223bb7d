"""Call libspade from Python without torch: numpy arrays and ctypes.

python examples/native/prune_layer.py $(python -m spade_ext --library)
"""

import ctypes
import sys

import numpy as np


class Options(ctypes.Structure):
    """spade_sparsegpt_t of spade/spade.h."""

    _fields_ = [
        ("sparsity", ctypes.c_double),
        ("block_size", ctypes.c_int64),
        ("n", ctypes.c_int64),
        ("m", ctypes.c_int64),
        ("damp", ctypes.c_double),
        ("extra", ctypes.c_int64),
        ("reserved", ctypes.c_int64 * 2),
    ]


def main(library: str) -> int:
    """Prune a random layer; returns how many of its weights are 0."""
    spade = ctypes.CDLL(library)
    spade.spade_last_error.restype = ctypes.c_char_p

    def call(name: str, *arguments: object) -> None:
        if getattr(spade, name)(*arguments):
            raise RuntimeError(spade.spade_last_error().decode())

    def address(array: np.ndarray) -> ctypes.c_void_p:
        return array.ctypes.data_as(ctypes.c_void_p)

    generator = np.random.default_rng(0)
    x = generator.standard_normal((500, 64), dtype=np.float32)
    w = generator.standard_normal((32, 64), dtype=np.float32)
    h, out = np.zeros((64, 64)), np.empty_like(w)
    size, threads = ctypes.c_int64, ctypes.c_int(2)
    call(
        "spade_hessian_linear_f32",
        address(x),
        size(500),
        size(64),
        size(64),
        address(h),
        threads,
        None,
    )
    h, damp, info = h.astype(np.float32), np.zeros(1), np.zeros(1, np.int32)
    options = Options(sparsity=0.75, block_size=128, damp=0.01)
    call(
        "spade_sparsegpt_prune_f32", address(w), size(0), address(h), size(1), size(32), size(64),
        ctypes.byref(options), address(out), address(damp), address(info), threads, None,
    )  # fmt: skip
    zeros = int((out == 0).sum())
    print(f"{zeros} of {out.size} weights are 0")
    return zeros


if __name__ == "__main__":
    main(sys.argv[1])
