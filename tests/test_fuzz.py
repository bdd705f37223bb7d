"""Fuzz of the C API's argument checks: whatever comes, a status and a text, never a crash.

SPADE_FUZZ_SECONDS is how long (2 by default). Sizes are kept to what the buffers hold wherever the library
cannot know: a positive size is a promise of that much memory.
"""

import ctypes
import math
import os
import time

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import spade_ext

SECONDS = float(os.environ.get("SPADE_FUZZ_SECONDS", "2"))
LIBRARY = ctypes.CDLL(spade_ext.library_path())
LIBRARY.spade_last_error.restype = ctypes.c_char_p
ROOM = 8 * 4 * 6 * 6 * 64  # entries of every buffer

SIZE = st.one_of(st.integers(0, 6), st.sampled_from([-(2**63), -1, 2**31, 2**40, 2**62, 2**63 - 1]))
SMALL = st.integers(0, 6)
NUMBER = st.one_of(st.floats(0, 1), st.sampled_from([-1.0, math.nan, math.inf, 1e308]), st.floats())
ENTRY = st.sampled_from([0.0, 1.0, -3.5, 1e-30, 1e30, math.nan, math.inf])
THREADS = st.sampled_from([1, 2, 3, 0, -1])


class Conv2d(ctypes.Structure):
    _fields_ = [(f"field{i}", ctypes.c_int64) for i in range(19)]


class SparseGPT(ctypes.Structure):
    _fields_ = [
        ("sparsity", ctypes.c_double), ("block_size", ctypes.c_int64), ("n", ctypes.c_int64),
        ("m", ctypes.c_int64), ("damp", ctypes.c_double), ("extra", ctypes.c_int64),
    ]  # fmt: skip


def check(status):
    assert 0 <= status <= 5, status
    assert (status == 0) == (LIBRARY.spade_last_error() == b"")


class Buffers:
    """Memory for one call; now and then NULL."""

    def __init__(self, draw, dtype):
        self.draw, self.dtype, self.alive = draw, dtype, []

    def __call__(self, dtype=None):
        if self.draw(st.integers(0, 19)) == 0:
            return None
        dtype = dtype or self.dtype
        buffer = torch.ones(ROOM, dtype=dtype)
        if dtype.is_floating_point and self.draw(st.booleans()):
            buffer[self.draw(st.integers(0, 40))] = self.draw(ENTRY)
        self.alive.append(buffer)
        return ctypes.c_void_p(buffer.data_ptr())


def i64(value):
    return ctypes.c_int64(value)


def one_call(draw):
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    suffix = "f64" if dtype == torch.float64 else "f32"
    memory, threads = Buffers(draw, dtype), draw(THREADS)
    int32, int64 = torch.int32, torch.int64
    kind = draw(st.integers(0, 7))
    call = lambda name, *arguments: check(  # noqa: E731
        getattr(LIBRARY, f"spade_{name}_{suffix}")(*arguments, threads, None)
    )
    if kind == 0:
        n, d = draw(SMALL), draw(SIZE)
        # N or D beyond the buffer with the other at 0 is fine; both large must be refused or fit.
        ldx = d + draw(st.integers(-1, 3)) if d <= 6 else draw(st.integers(0, 9))
        call("hessian_linear", memory(), i64(n), i64(d), i64(ldx), memory(torch.float64))
    elif kind == 1:
        size = [draw(SMALL) for _ in range(4)]
        groups, channels = draw(st.integers(-1, 4)), size[1]
        strides = [channels * size[2] * size[3], size[2] * size[3], size[3], 1]
        kernel = [draw(st.integers(-1, 3)) for _ in range(2)]
        rest = [draw(st.integers(-1, 3)) for _ in range(8)]
        if draw(st.integers(0, 9)) == 0:
            rest[draw(st.integers(0, 7))] = draw(st.sampled_from([2**31, -(2**63), 2**62]))
        conv = Conv2d(*size, *strides, *kernel, *rest, groups)
        call("hessian_conv2d", memory(), ctypes.byref(conv), draw(st.integers(-1, 4)),
             memory(torch.float64))  # fmt: skip
    elif kind == 2:
        d, damp = draw(SIZE), draw(NUMBER)
        call("damped_inverse", memory(), i64(d), ctypes.c_double(damp), memory(), memory(),
             memory(torch.float64))  # fmt: skip
    elif kind in (3, 4, 5):
        rows, cols = draw(SIZE), draw(SIZE)
        extra = [draw(SIZE)] if kind != 4 else [draw(SIZE), draw(SIZE)]
        name = {3: "obc_trace", 4: "obc_trace_nm", 5: "obc_trace_block"}[kind]
        if 0 < rows and 0 < cols and rows > 6 and cols > 0:
            rows = 2
        call(name, memory(), memory(), i64(rows), i64(cols), *map(i64, extra), memory(int32), memory(),
             memory(int32))  # fmt: skip
    elif kind == 6:
        rows, cols, steps = draw(SMALL), draw(SIZE), draw(SIZE)
        call("obc_weights", memory(), memory(), memory(), i64(rows), i64(cols), i64(steps),
             memory(int32), memory(int64), memory(), memory(int32))  # fmt: skip
    else:
        options = SparseGPT(
            draw(NUMBER), draw(SIZE), draw(SIZE), draw(SIZE), draw(NUMBER), draw(SIZE)
        )
        samples, rows, cols = draw(SMALL), draw(SMALL), draw(SMALL)
        pointer = None if draw(st.integers(0, 9)) == 0 else ctypes.byref(options)
        stride = draw(st.sampled_from([0, rows * cols, -1, -(2**63)]))
        call("sparsegpt_prune", memory(), i64(stride), memory(), i64(samples), i64(rows), i64(cols),
             pointer, memory(), memory(torch.float64), memory(int32))  # fmt: skip


def test_no_arguments_crash_the_library():
    end = time.monotonic() + SECONDS

    @settings(max_examples=200, deadline=None, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.data())
    def calls(data):
        one_call(data.draw)

    rounds = 0
    while time.monotonic() < end or rounds == 0:
        calls()
        rounds += 1
    assert rounds > 0
