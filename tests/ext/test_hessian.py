"""spade_ext.hessian against X X^T in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import spade_ext
import spade_ext.progress as progress_module
from spade_ext import Conv2dGeometry, hessian, reference

FORMS = ("auto", "tap_offsets", "direct")


def relative_error(h, expected):
    return ((h.double() - expected).norm() / expected.norm().clamp(min=1e-300)).item()


def entry_error(h, expected):
    """Largest error of an entry relative to the norms of its two columns of X; columns of zeros must be exact."""
    norms = expected.diagonal(dim1=-2, dim2=-1).sqrt()
    bound = norms[..., :, None] * norms[..., None, :]
    error = (h.double() - expected).abs()
    assert not error[bound == 0].any()
    return (error / bound.clamp(min=1e-300)).max().item()


@pytest.mark.parametrize(
    "samples, cols", [(1, 1), (2, 2), (31, 33), (129, 31), (1500, 129), (3, 300)]
)
def test_linear(samples, cols):
    x = torch.randn(samples, cols, dtype=torch.float64)
    expected = reference.hessian(x)
    assert relative_error(hessian(x), expected) < 1e-14
    h = hessian(x.float())
    assert h.dtype == torch.float32 and torch.equal(h, h.T)
    assert relative_error(h, expected) < 5e-7


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "kernel, stride, padding, dilation, groups, shape",
    [
        (3, 1, 1, 1, 1, (2, 6, 9, 11)),
        (3, 2, 1, 1, 1, (2, 6, 9, 11)),
        (7, 2, 3, 1, 1, (2, 3, 20, 20)),
        (3, 1, 0, 1, 2, (3, 6, 9, 7)),
        (5, 1, 2, 2, 1, (2, 4, 14, 14)),
        (3, 3, 2, 3, 1, (2, 4, 20, 21)),
        (1, 1, 0, 1, 1, (3, 17, 5, 5)),
        (1, 2, 0, 1, 1, (3, 17, 5, 41)),
        ((2, 3), (1, 2), (0, 2), (2, 1), 4, (2, 8, 9, 7)),
        (5, 1, 4, 2, 1, (1, 2, 3, 3)),
        (3, 1, 1, 1, 1, (2, 230, 5, 5)),
        ((1, 3), 1, (0, 1), 1, 1, (2, 110, 5, 6)),
        ((3, 4), 1, (1, 2), 1, 1, (2, 100, 6, 5)),
        (3, 1, 1, 1, 12, (2, 12, 8, 8)),
        (1, 1, 0, 1, 2, (2, 66, 4, 4)),
        (1, 2, 1, 1, 1, (2, 210, 5, 6)),
        (3, 2, 1, 1, 1, (3, 31, 9, 11)),
        ((3, 5), (2, 1), (1, 2), (2, 1), 35, (3, 35, 9, 7)),
        (3, 1, 1, 1, 20, (1, 20, 2, 140)),
    ],
)
def test_convolution(form, kernel, stride, padding, dilation, groups, shape):
    x = torch.randn(shape, dtype=torch.float64)
    options = {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation,
               "groups": groups}  # fmt: skip
    expected = reference.hessian(x, **options)
    for dtype, bound in ((torch.float64, 1e-13), (torch.float32, 1e-6)):
        for memory_format in (torch.contiguous_format, torch.channels_last):
            given_x = x.to(dtype).contiguous(memory_format=memory_format)
            h = hessian(given_x, form=form, **options)
            assert h.shape == expected.shape
            assert relative_error(h, expected) < bound
            assert torch.equal(h, h.mT)


@settings(max_examples=60)
@given(st.data())
def test_any_convolution(data):
    integers = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    kernel = (integers(1, 4), integers(1, 4))
    dilation = (integers(1, 3), integers(1, 3))
    padding = (integers(0, 3), integers(0, 3))
    stride = (integers(1, 3), integers(1, 3))
    groups, channels = integers(1, 3), integers(1, 3)
    size = [
        max(integers(1, 9), dilation[i] * (kernel[i] - 1) + 1 - 2 * padding[i]) for i in range(2)
    ]
    x = torch.randn(integers(1, 3), groups * channels, *size, dtype=torch.float64)
    options = {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation,
               "groups": groups}  # fmt: skip
    expected = reference.hessian(x, **options)
    for form in ("tap_offsets", "direct"):
        assert entry_error(hessian(x, form=form, **options), expected) < 1e-13


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("padding", [0, 1, (2, 0)])
@pytest.mark.parametrize(
    "large",
    [(slice(0, 1), slice(None)), (slice(None), slice(-1, None)), (slice(3, 4), slice(5, 7))],
)
def test_taps_that_miss_large_lines_keep_their_digits(form, padding, large):
    x = torch.randn(4, 5, 12, 11)
    x[(..., *large)] *= 1e4
    expected = reference.hessian(x.double(), kernel_size=3, padding=padding)
    h = hessian(x, kernel_size=3, padding=padding, form=form)
    assert entry_error(h, expected) < 1e-5
    x[:, 2] = 0
    x[(slice(None), 2, *large)] = 1e4
    expected = reference.hessian(x.double(), kernel_size=3, padding=padding)
    assert entry_error(hessian(x, kernel_size=3, padding=padding, form=form), expected) < 1e-5


def test_strings_of_padding():
    x = torch.randn(2, 3, 8, 9, dtype=torch.float64)
    same = hessian(x, kernel_size=(2, 4), padding="same", dilation=(1, 2))
    padded = nn.functional.pad(x, (3, 3, 0, 1))
    assert (
        relative_error(same, reference.hessian(padded, kernel_size=(2, 4), dilation=(1, 2))) < 1e-13
    )
    assert torch.equal(hessian(x, kernel_size=3, padding="valid"), hessian(x, kernel_size=3))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_modes(mode):
    x = torch.randn(2, 3, 8, 9, dtype=torch.float64)
    padded = nn.functional.pad(x, (2, 2, 1, 1), mode=mode)
    h = hessian(x, kernel_size=3, padding=(1, 2), padding_mode=mode)
    assert relative_error(h, reference.hessian(padded, kernel_size=3)) < 1e-13


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_inputs_are_summed_in_float32(dtype):
    x = torch.randn(200, 20).to(dtype)
    h = hessian(x)
    assert h.dtype == torch.float32
    assert relative_error(h, reference.hessian(x.double())) < 5e-7


def test_finite_inputs_whose_sum_overflows_are_accepted():
    x = torch.full((4, 30), 6e4, dtype=torch.float16)
    assert torch.isinf(x.sum())
    assert torch.equal(hessian(x), hessian(x.float()))


def test_leading_dimensions_strides_and_input_untouched():
    x = torch.randn(4, 5, 40)[:, :, ::2]
    before = x.clone()
    assert relative_error(hessian(x), reference.hessian(x.double())) < 5e-7
    expanded = torch.randn(1, 7).expand(9, 7)
    assert relative_error(hessian(expanded), reference.hessian(expanded.double())) < 5e-7
    columns = torch.randn(7, 9).T
    assert relative_error(hessian(columns), reference.hessian(columns.double())) < 5e-7
    assert torch.equal(x, before)


def test_empty_inputs():
    assert torch.equal(hessian(torch.empty(0, 4)), torch.zeros(4, 4))
    assert hessian(torch.empty(5, 0)).shape == (0, 0)
    assert torch.equal(hessian(torch.empty(0, 2, 5, 5), kernel_size=3), torch.zeros(18, 18))
    only_padding = hessian(torch.empty(1, 2, 0, 4), kernel_size=3, padding=2, form="tap_offsets")
    assert torch.equal(only_padding, torch.zeros(18, 18))
    only_width = hessian(torch.empty(1, 2, 4, 0), kernel_size=3, padding=2, form="direct")
    assert torch.equal(only_width, torch.zeros(18, 18))


@pytest.mark.parametrize("form", ["tap_offsets", "direct"])
def test_threads_do_not_change_a_bit(form):
    for channels in (70, 100):  # each thread its own tiles, or all share them
        x = torch.randn(3, channels, 12, 12)
        one, two, four = (
            hessian(x, kernel_size=3, padding=1, form=form, threads=t) for t in (1, 2, 4)
        )
        assert torch.equal(one, two) and torch.equal(one, four)
    depthwise = {"kernel_size": 3, "groups": channels, "form": form}
    assert torch.equal(hessian(x, threads=1, **depthwise), hessian(x, threads=3, **depthwise))
    for cols in (40, 64, 250):
        rows = torch.randn(5000, cols)
        one, two, four = (hessian(rows, threads=t) for t in (1, 2, 4))
        assert torch.equal(one, two) and torch.equal(one, four)


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda: hessian([1.0]), TypeError, "hessian: x must be a torch.Tensor, got list"),
        (lambda: hessian(torch.ones(2, 2, dtype=torch.int64)), TypeError, "x must have dtype"),
        (lambda: hessian(torch.tensor(1.0)), ValueError, r"shape \[..., D\], got a scalar"),
        (lambda: hessian(torch.ones(2, 2, device="meta")), ValueError, "on device cpu or cuda, got meta"),
        (lambda: hessian(torch.full((2, 2), torch.inf)), ValueError, "x must be finite, got 4"),
        (lambda: hessian(torch.ones(2, 2), kernel_size=3), ValueError, "x must have 4 dimensions"),
        (lambda: hessian(torch.ones(1, 3, 5, 5), kernel_size=3, groups=2), ValueError,
         "groups must divide the 3 channels, got 2"),
        (lambda: hessian(torch.ones(1, 3, 5, 5), kernel_size=0), ValueError, "kernel_size must be at"),
        (lambda: hessian(torch.ones(1, 3, 5, 5), kernel_size=3, stride=0), ValueError, "stride must"),
        (lambda: hessian(torch.ones(1, 3, 5, 5), kernel_size=3, padding="full"), ValueError,
         '"same" or "valid"'),
        (lambda: hessian(torch.ones(1, 3, 5, 5), kernel_size=3, padding="same", stride=2), ValueError,
         "needs stride 1"),
        (lambda: hessian(torch.ones(1, 3, 5, 5), kernel_size=3, form="fast"), ValueError, "form must"),
        (lambda: hessian(torch.ones(1, 3, 5, 5), kernel_size=3, padding_mode="same"), ValueError,
         "padding_mode must be one of"),
        (lambda: hessian(torch.ones(2, 2), threads=0), ValueError, "threads must be at least 1, got 0"),
        (lambda: hessian(torch.ones(2, 2), threads=2**31), ValueError, "threads must be at most 2147483647"),
        (lambda: hessian(torch.ones(1, 2, 5, 5), padding=1), ValueError, "need kernel_size, got None"),
        (lambda: hessian(torch.ones(2, 2), form="direct"), ValueError, "need kernel_size, got None"),
        (lambda: hessian(torch.ones(1, 4, 1, 1), kernel_size=2**14, padding=2**14), ValueError,
         r"H must have fewer than 2\^60 entries, got 1 x 1073741824 x 1073741824"),
        (lambda: hessian(torch.ones(1, 1, 5, 5), kernel_size=2**40), ValueError,
         "kernel_size must be at most 2147483647, got 1099511627776"),
        (lambda: hessian(torch.ones(1, 1, 4, 4), kernel_size=3, padding=(0, 4), padding_mode="reflect"),
         ValueError, "hessian: padding of mode reflect must be at most 3 on a side of 4 pixels, got 4"),
        (lambda: hessian(torch.ones(1, 1, 4, 4), kernel_size=3, padding=5, padding_mode="circular"),
         ValueError, "mode circular must be at most 4 on a side of 4 pixels, got 5"),
        (lambda: hessian(torch.ones(1, 1, 0, 4), kernel_size=3, padding=1, padding_mode="replicate"),
         ValueError, r"replicate needs images with pixels, got shape \(1, 1, 0, 4\)"),
    ],
)  # fmt: skip
def test_errors(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_progress_and_cancellation():
    seen = []
    hessian(torch.randn(40000, 64), progress=lambda done, total: seen.append((done, total)))
    assert seen and seen[-1] == (40000, 40000)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hessian(torch.randn(4, 8, 20, 20), kernel_size=3, progress=stop)


def test_bar_stands_where_the_work_does(monkeypatch):
    bars = []

    class Bar(progress_module.tqdm):
        def close(self):
            bars.append((self.n, self.total))
            super().close()

    monkeypatch.setattr(progress_module, "tqdm", Bar)
    with progress_module.reporting(True, "work") as report:
        for done in (3, 7, 10):
            report(done, 10)
    assert bars[0] == (10, 10)


def test_geometry_sizes():
    geometry = Conv2dGeometry.of(3, 2, 1)
    conv = nn.Conv2d(2, 4, 3, 2, 1)
    assert geometry.output_size(9, 12) == tuple(conv(torch.ones(1, 2, 9, 12)).shape[2:])
    assert geometry.columns(2) == conv.weight.flatten(1).shape[1]
    assert spade_ext.hessian is hessian
