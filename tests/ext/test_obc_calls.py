"""Calls of exact OBC: bad arguments, progress, and stopping on the way."""

from functools import partial

import pytest
import torch
from problems import layer

from spade_ext import SingularHessianError, obc_prune, obc_trace

W, H = torch.ones(2, 4), torch.eye(4)


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda: obc_trace(1, H), TypeError, "obc_trace: weight must be a torch.Tensor, got int"),
        (lambda: obc_trace(W, H.long()), TypeError, "obc_trace: hessian must have dtype"),
        (lambda: obc_trace(W[0], H), ValueError, "weight must have 2 or 3 dimensions"),
        (lambda: obc_trace(W, torch.eye(3)), ValueError, r"hessian must have shape \(4, 4\)"),
        (lambda: obc_trace(W, H, damp=-0.1), ValueError, "damp must be in"),
        (lambda: obc_prune(W, H, 0.5, damp=1e300), ValueError, r"damp must be in .* got 1e\+300"),
        (lambda: obc_trace(W, H, threads=0), ValueError, "threads must be at least 1"),
        (lambda: obc_trace(W, H, block=3), ValueError, "block must divide the 4 columns, got 3"),
        (lambda: obc_trace(W * torch.inf, H), ValueError, "weight must be finite"),
        (lambda: obc_trace(W, H * torch.nan), ValueError, "obc_trace: hessian must be finite"),
        (lambda: obc_prune(W * torch.nan, H), ValueError, "obc_prune: weight must be finite"),
        (lambda: obc_prune(W * torch.nan, 0 * H, n=0, m=2), ValueError, "weight must be finite"),
        (lambda: obc_prune(W, H * torch.inf), ValueError, "obc_prune: hessian must be finite"),
        (lambda: obc_prune(W, -10 * H), SingularHessianError, "obc_prune: .* even with damp = 1"),
        (
            lambda: obc_trace(W.to("meta"), H),
            ValueError,
            "weight must be on device cpu or cuda, got meta",
        ),
        (lambda: obc_trace(W, -10 * H), SingularHessianError, "even with damp = 1"),
        (lambda: obc_prune(W, H, 2.0), ValueError, "sparsity must be in"),
        (lambda: obc_prune(W, H, n=1), ValueError, "n and m go together"),
        (lambda: obc_prune(W, H, n=1, m=2, block=2), ValueError, "block does not go with n:m"),
        (lambda: obc_trace(W, H).prune(-1.0), ValueError, "OBCTrace.counts: sparsity must be in"),
        (
            lambda: obc_trace(W, H).prune_rows(torch.tensor([1])),
            ValueError,
            "counts must have shape",
        ),
        (
            lambda: obc_trace(W, H).prune_rows(torch.tensor([1, 9])),
            ValueError,
            r"OBCTrace.prune_rows: counts must be in \[0, 4\], got 9 for row 1",
        ),
        (
            lambda: obc_trace(W, H, block=2).prune_rows(torch.tensor([3, 2])),
            ValueError,
            r"OBCTrace.prune_rows: counts must be in \[0, 2\], got 3 for row 0",
        ),
        (
            lambda: obc_trace(W, H).prune_rows(torch.tensor([1, -1])),
            ValueError,
            r"OBCTrace.prune_rows: counts must be in \[0, 4\], got -1 for row 1",
        ),
        (
            lambda: obc_trace(W, H).prune_rows(torch.tensor([1, 2], device="meta")),
            ValueError,
            "prune_rows: counts must be on the device of the trace, cpu, got meta",
        ),
    ],
)
def test_errors(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_progress_and_cancellation():
    weight, h = layer(64, 64, dtype=torch.float32)
    seen = []
    obc_trace(weight, h, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 0

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        obc_trace(weight, h, progress=stop)


@pytest.mark.parametrize(
    "call",
    [
        obc_trace,
        partial(obc_trace, block=4),
        partial(obc_prune, n=2, m=4),
        lambda weight, h, progress: obc_trace(weight, h).prune_rows(
            torch.tensor([150]), progress=progress
        ),
    ],
)
def test_a_row_can_be_stopped(call):
    seen = []

    def stop(done, total):
        seen.append((done, total))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(*layer(1, 200, dtype=torch.float32), progress=stop)
    assert seen == [(0, 1)]
