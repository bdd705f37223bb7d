"""Fuzz of the C API: whatever the arguments, a status and a text, never a crash.

SPADE_FUZZ_SECONDS is how long (2 by default), SPADE_FUZZ_SEED where to start (0): the same seed makes the same calls.
SPADE_FUZZ_LIBRARY names another build of libspade, such as one under AddressSanitizer; torch and spade_ext are then
not imported.

Buffers are exactly as long as spade.h asks, so that a sanitizer sees every access beyond them. Sizes are small or out
of range: a size in range is the caller's promise of that much memory.
"""

import ctypes
import math
import os
import random
import time
from ctypes import c_double, c_float, c_int, c_int32, c_int64

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

SECONDS = float(os.environ.get("SPADE_FUZZ_SECONDS", "2"))
SEED = int(os.environ.get("SPADE_FUZZ_SEED", "0"))
SUCCESS, INVALID, CANCELLED = 0, 1, 5

OUT_OF_RANGE = st.sampled_from([-(2**63), -1, 2**31, 2**40, 2**62, 2**63 - 1])
SMALL = st.one_of(st.integers(0, 6), st.sampled_from([17, 33]))
SIZE = st.integers(0, 11).flatmap(lambda k: OUT_OF_RANGE if k == 0 else SMALL)
NUMBER = st.one_of(st.floats(0, 1), st.sampled_from([-1.0, math.nan, math.inf, 1e308]), st.floats())
BAD_ENTRY = st.sampled_from([0.0, -3.5, 1e-30, 1e30, math.nan, math.inf])
THREADS = st.sampled_from([1, 1, 2, 3, 0, -1])

Report = ctypes.CFUNCTYPE(c_int, ctypes.c_void_p, c_int64, c_int64)


class Progress(ctypes.Structure):
    _fields_ = [("report", Report), ("user", ctypes.c_void_p), ("reserved", ctypes.c_void_p * 2)]


class Conv2d(ctypes.Structure):
    _fields_ = [*((f"field{i}", c_int64) for i in range(19)), ("reserved", c_int64 * 5)]


class SparseGPT(ctypes.Structure):
    _fields_ = [
        ("sparsity", c_double), ("block_size", c_int64), ("n", c_int64),
        ("m", c_int64), ("damp", c_double), ("extra", c_int64), ("reserved", c_int64 * 2),
    ]  # fmt: skip


class Obc(ctypes.Structure):
    _fields_ = [
        ("sparsity", c_double), ("n", c_int64), ("m", c_int64), ("block", c_int64), ("damp", c_double),
        ("reserved", c_int64 * 3),
    ]  # fmt: skip


class ObcOutcome(ctypes.Structure):
    _fields_ = [
        ("damp", c_double), ("row", c_int64), ("step", c_int32), ("needs_double", c_int32),
        ("reserved", c_int64 * 5),
    ]  # fmt: skip


def load():
    path = os.environ.get("SPADE_FUZZ_LIBRARY")
    if path is None:
        import spade_ext

        path = spade_ext.library_path()
    library = ctypes.CDLL(path)
    library.spade_last_error.restype = ctypes.c_char_p
    return library


LIBRARY = load()


def in_range(size):
    return 0 <= size < 2**31


def entries(*sizes):
    """Length of an array; nothing is read or written through a size out of range."""
    return math.prod(sizes) if all(map(in_range, sizes)) else 0


class Call:
    """The arguments of one call: buffers that are now and then NULL, or hold a value that is no weight."""

    def __init__(self, draw):
        self.draw = draw
        self.real = draw(st.sampled_from([c_float, c_double]))
        self.random = random.Random(draw(st.integers(0, 2**32)))
        self.inputs = []  # (buffer, its bytes before the call)
        self.missing = False

    def size(self):
        return self.draw(SIZE)

    def rarely(self):
        return self.draw(st.integers(0, 29)) == 0

    def pointer(self, buffer):
        if self.rarely():
            self.missing = self.missing or len(buffer) > 0
            return None
        return buffer

    def output(self, count, kind=None):
        return self.pointer(((kind or self.real) * count)())

    def input(self, values, kind=None):
        kind = kind or self.real
        buffer = (kind * len(values))(*values)
        if values and kind is self.real and self.rarely():
            buffer[self.random.randrange(len(values))] = self.draw(BAD_ENTRY)
        self.inputs.append((buffer, bytes(buffer)))
        return self.pointer(buffer)

    def reals(self, *shape):
        return self.input([self.random.gauss(0, 1) for _ in range(entries(*shape))])

    def matrices(self, count, order):
        """Symmetric and mostly positive definite."""
        values = []
        for _ in range(count):
            a = [[0.0] * order for _ in range(order)]
            for i in range(order):
                for j in range(i):
                    a[i][j] = a[j][i] = self.random.uniform(-0.5, 0.5)
                a[i][i] = self.random.choice([0.0, 1.0, float(order)]) if order < 5 else order
            values += [x for row in a for x in row]
        return self.input(values)

    def matrix(self, order):
        return self.matrices(1 if in_range(order) else 0, order if in_range(order) else 0)

    def progress(self):
        if not self.rarely():
            return None
        stop = int(self.draw(st.booleans()))
        return ctypes.byref(Progress(Report(lambda user, done, total: stop), None))

    def run(self, name, *arguments, sizes=(), threaded=True):
        function = getattr(LIBRARY, f"spade_{name}_{'f32' if self.real is c_float else 'f64'}")
        threads, progress = (self.draw(THREADS), self.progress()) if threaded else (1, None)
        plain = [c_int64(a) if isinstance(a, int) else a for a in arguments]
        status = function(*plain, *((c_int(threads), progress) if threaded else ()))
        text = LIBRARY.spade_last_error().decode()
        assert SUCCESS <= status <= CANCELLED, (status, text)
        assert (status == SUCCESS) == (text == ""), (status, text)
        if status == INVALID:
            assert text.startswith(f"spade_{name}: "), text
        if not all(map(in_range, sizes)) or threads < 1:
            assert status == INVALID, text
        for buffer, before in self.inputs:
            assert bytes(buffer) == before
        return status


def hessian_linear(call):
    rows, cols = call.draw(SMALL), call.size()
    ldx = cols + call.draw(st.integers(-1, 3)) if in_range(cols) else call.size()
    legal = in_range(cols) and ldx >= cols and rows > 0 and cols > 0
    x = call.reals((rows - 1) * ldx + cols if legal else 0)
    once = call.draw(st.booleans())
    h = call.output(entries(cols, cols)) if once else call.output(entries(cols, cols), c_double)
    return call.run(
        "hessian_linear_set" if once else "hessian_linear", x, rows, cols, ldx, h, sizes=[cols]
    )


def hessian_conv2d(call):
    draw = call.draw
    batch, channels, height, width = (draw(st.integers(0, 6)) for _ in range(4))
    plane = height * width
    strides = draw(st.sampled_from([
        (channels * plane, plane, width, 1), (channels * plane, 1, width * channels, channels), (0, 0, 0, 0),
    ]))  # fmt: skip
    kernel = [draw(st.integers(1, 3)) for _ in range(2)]
    step, dilation = ([draw(st.integers(1, 3)) for _ in range(2)] for _ in range(2))
    pads = [draw(st.integers(0, 3)) for _ in range(4)]
    groups = draw(st.sampled_from([1, max(1, channels), 2]))
    least = kernel + step + pads + dilation
    if call.rarely():
        least[draw(st.integers(0, 9))] = draw(OUT_OF_RANGE)
    elif call.rarely():
        groups = draw(st.sampled_from([0, -1, 2**31]))
    legal = all(map(in_range, [*least, groups])) and groups > 0 and channels % groups == 0
    sizes = (batch, channels, height, width)
    used = 1 + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True)) if min(sizes) else 0
    cols = channels // groups * kernel[0] * kernel[1] if legal else 0
    conv = Conv2d(*sizes, *strides, *least, groups)
    once = draw(st.booleans())
    h = call.output(groups * cols * cols if legal else 0, call.real if once else c_double)
    return call.run("hessian_conv2d_set" if once else "hessian_conv2d", call.reals(used),
                    call.pointer((Conv2d * 1)(conv)), c_int(draw(st.integers(-1, 4))), h,
                    sizes=[*least, groups])  # fmt: skip


def damped_inverse(call):
    order = call.size()
    out, damped = (call.output(entries(order, order)) for _ in range(2))
    return call.run("damped_inverse", call.matrix(order), order, c_double(call.draw(NUMBER)), out, damped,
                    call.output(1, c_double), sizes=[order])  # fmt: skip


def obc_trace(call):
    rows, cols, steps = call.size(), call.size(), call.size()
    return trace(call, "obc_trace", rows, cols, entries(rows, steps), steps, sizes=[steps])


def obc_trace_nm(call):
    rows, cols, n, m = (call.size() for _ in range(4))
    if (
        in_range(cols) and cols and call.draw(st.booleans())
    ):  # a legal pattern, which chance rarely makes
        m = call.draw(st.sampled_from([k for k in range(1, cols + 1) if cols % k == 0]))
        n = call.draw(st.integers(0, m))
    steps = cols // m * n if in_range(n) and in_range(m) and m and in_range(cols) else 0
    return trace(call, "obc_trace_nm", rows, cols, entries(rows, steps), n, m, sizes=[])


def obc_trace_block(call):
    rows, cols, block = call.size(), call.size(), call.size()
    blocks = cols // block if in_range(block) and block and in_range(cols) else 0
    return trace(call, "obc_trace_block", rows, cols, entries(rows, blocks), block, sizes=[block])


def trace(call, name, rows, cols, length, *options, sizes):
    return call.run(name, call.reals(rows, cols), call.matrix(cols), rows, cols, *options,
                    call.output(length, c_int32), call.output(length), call.output(entries(rows), c_int32),
                    sizes=[rows, cols, *sizes])  # fmt: skip


def obc_options(call, rows, cols):
    """Options of a layer, and steps of each of its rows."""
    n = m = 0
    block = 1
    if (kind := call.draw(st.integers(0, 2))) == 1:
        n, m = call.size(), call.size()
    elif kind == 2:
        block = call.size()
    options = Obc(call.draw(NUMBER), n, m, block, call.draw(NUMBER))
    legal = all(map(in_range, (cols, n, m, block)))
    steps = (cols // m * n if m else cols // block if block else 0) if legal else 0
    return call.pointer((Obc * 1)(options)), steps


def obc_eliminate(call):
    rows, cols = call.size(), call.size()
    options, steps = obc_options(call, rows, cols)
    damped, hinv = (call.output(entries(cols, cols)) for _ in range(2))
    return call.run("obc_eliminate", call.reals(rows, cols), call.matrix(cols), rows, cols, options,
                    call.output(entries(rows, steps), c_int32), call.output(entries(rows, steps)),
                    call.output(entries(rows, cols)), damped, hinv, call.output(1, ObcOutcome),
                    sizes=[rows, cols])  # fmt: skip


def obc_prune(call):
    rows, cols = call.size(), call.size()
    options, _ = obc_options(call, rows, cols)
    return call.run("obc_prune", call.reals(rows, cols), call.matrix(cols), rows, cols, options,
                    call.output(entries(rows, cols)), call.output(1, ObcOutcome), sizes=[rows, cols])  # fmt: skip


def obc_weights_block(call):
    rows, cols, block, steps = call.size(), call.size(), call.size(), call.size()
    blocks = cols // block if in_range(block) and block and in_range(cols) else 0
    order = [call.random.randrange(max(1, min(blocks, 40))) for _ in range(entries(rows, steps))]
    counts = [call.random.randint(0, min(max(steps, 0), 40)) for _ in range(entries(rows))]
    for values in (order, counts):
        if values and call.rarely():
            values[call.random.randrange(len(values))] = call.random.choice([-1, 40, 2**31 - 1])
    return call.run("obc_weights_block", call.reals(rows, cols), call.matrix(cols), call.matrix(cols), rows, cols,
                    block, steps, call.input(order, c_int32), call.input(counts, c_int64),
                    call.output(entries(rows, cols)), call.output(entries(rows), c_int32),
                    sizes=[rows, cols, block, steps])  # fmt: skip


def obc_counts(call):
    rows, steps = call.size(), call.size()
    return call.run("obc_counts", call.reals(rows, steps), rows, steps, c_double(call.draw(NUMBER)),
                    call.output(entries(rows), c_int64), sizes=[rows, steps], threaded=False)  # fmt: skip


def obc_weights(call):
    rows, cols, steps = call.size(), call.size(), call.size()
    order = [call.random.randrange(max(1, min(cols, 40))) for _ in range(entries(rows, steps))]
    counts = (
        [call.random.randint(0, min(steps, 40)) for _ in range(entries(rows))] if steps >= 0 else []
    )
    for values in (order, counts):
        if values and call.rarely():
            values[call.random.randrange(len(values))] = call.random.choice([-1, 40, 2**31 - 1])
    return call.run("obc_weights", call.reals(rows, cols), call.matrix(cols), call.matrix(cols), rows, cols, steps,
                    call.input(order, c_int32), call.input(counts, c_int64), call.output(entries(rows, cols)),
                    call.output(entries(rows), c_int32), sizes=[rows, cols, steps])  # fmt: skip


def sparsegpt_prune(call):
    draw = call.draw
    samples, rows, cols = draw(st.integers(0, 3)), call.size(), call.size()
    grouped = draw(st.booleans())
    options = SparseGPT(draw(NUMBER), call.size(), call.size(), call.size() if grouped else 0, draw(NUMBER),
                        call.size())  # fmt: skip
    shared = draw(st.booleans())
    stride = 0 if shared or not (in_range(rows) and in_range(cols)) else rows * cols
    if call.rarely():
        stride, shared = draw(st.sampled_from([-1, -(2**63)])), True
    weights = call.reals(1 if shared else samples, rows, cols)
    hessians = call.matrices(samples if in_range(cols) else 0, cols if in_range(cols) else 0)
    return call.run("sparsegpt_prune", weights, stride, hessians, samples, rows, cols,
                    call.pointer((SparseGPT * 1)(options)), call.output(entries(samples, rows, cols)),
                    call.output(samples, c_double), call.output(samples, c_int32), sizes=[rows, cols])  # fmt: skip


FUNCTIONS = [
    hessian_linear, hessian_conv2d, damped_inverse, obc_trace, obc_trace_nm, obc_trace_block, obc_counts,
    obc_weights, obc_weights_block, obc_eliminate, obc_prune, sparsegpt_prune,
]  # fmt: skip


def test_no_arguments_crash_the_library():
    end = time.monotonic() + SECONDS
    seen = set()

    @settings(max_examples=200, deadline=None, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.data())
    def calls(data):
        function = data.draw(st.sampled_from(FUNCTIONS))
        call = Call(data.draw)
        status = function(call)
        seen.add((function.__name__, status))

    start = SEED
    while time.monotonic() < end or start < SEED + 3:
        seed(start)(calls)()
        start += 1
    for function in FUNCTIONS:
        assert {(function.__name__, SUCCESS), (function.__name__, INVALID)} <= seen
