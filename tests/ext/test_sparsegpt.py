"""spade_ext.sparsegpt_prune against the column-by-column reference in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import layer

from spade_ext import (
    DampingWarning,
    SingularHessianError,
    reference,
    sparsegpt_prune,
    sparsegpt_prune_batch,
    sparsegpt_prune_layers,
)


@pytest.mark.parametrize("block_size", [1, 2, 9, 25, 128, 200])
@pytest.mark.parametrize("rows, cols", [(1, 1), (3, 2), (5, 31), (7, 33), (20, 129), (70, 300)])
def test_against_reference(rows, cols, block_size):
    weight, h = layer(rows, cols)
    for sparsity in (0.0, 0.3, 0.95, 1.0):
        expected = reference.sparsegpt_prune(weight, h, sparsity, block_size=block_size)
        wide = sparsegpt_prune(weight, h, sparsity, block_size=block_size)
        torch.testing.assert_close(wide, expected, rtol=0, atol=1e-10)
        assert torch.equal(wide == 0, expected == 0)
        single = sparsegpt_prune(weight.float(), h.float(), sparsity, block_size=block_size)
        assert ((single == 0) != (expected == 0)).float().mean() <= 2e-3
        if torch.equal(single == 0, expected == 0):
            assert (single - expected).norm() <= 1e-4 * expected.norm()


@pytest.mark.parametrize("n, m", [(2, 4), (4, 8), (1, 3), (3, 3), (0, 4)])
def test_n_of_m(n, m):
    weight, h = layer(20, 312)
    pruned = sparsegpt_prune(weight, h, n=n, m=m)
    expected = reference.sparsegpt_prune(weight, h, n=n, m=m)
    torch.testing.assert_close(pruned, expected, rtol=0, atol=1e-10)
    assert ((pruned == 0).unflatten(1, (-1, m)).sum(2) == n).all()


@settings(max_examples=40)
@given(
    st.integers(1, 40), st.integers(1, 60), st.integers(1, 70), st.floats(0, 1), st.integers(0, 9)
)
def test_each_block_loses_its_exact_count(rows, cols, block_size, sparsity, seed):
    weight, h = layer(rows, cols, seed, dtype=torch.float32)
    pruned = sparsegpt_prune(weight, h, sparsity, block_size=block_size)
    for block in pruned.split(block_size, dim=1):
        assert int((block == 0).sum()) == math.floor(sparsity * block.numel() + 1e-6)


def test_decimal_sparsity_counts_as_meant():
    weight, h = layer(4, 5)
    assert int((sparsegpt_prune(weight, h, 0.95) == 0).sum()) == 19


def test_extra():
    weight, h = layer(4, 10)
    batch = sparsegpt_prune_batch(weight, h[None], 0.5, block_size=5, extra=1)
    assert [(b == 0).sum().item() for b in batch.weights[0].split(5, dim=1)] == [11, 11]
    full = sparsegpt_prune_batch(weight, h[None], 1.0, extra=3)
    assert not full.weights.any()


def test_ties_go_to_the_lowest_index():
    pruned = sparsegpt_prune(torch.ones(3, 4), torch.eye(4), 0.5)
    assert (pruned == 0).flatten().tolist() == [True] * 6 + [False] * 6
    pruned = sparsegpt_prune(torch.ones(2, 4), torch.eye(4), n=1, m=4)
    assert (pruned == 0).nonzero().tolist() == [[0, 0], [1, 0]]


def test_ties_of_many_rows_go_to_the_lowest_index():
    got = sparsegpt_prune(torch.ones(130, 8), torch.eye(8), 0.3, block_size=4)
    first = torch.arange(130 * 4).view(130, 4) < 156
    assert torch.equal(got == 0, torch.cat([first, first], 1))


def test_dead_columns_go_first():
    weight, h = layer(6, 20)
    h[:, 7] = h[7, :] = 0
    pruned = sparsegpt_prune(weight, h, 0.05)
    assert not pruned[:, 7].any() and int((pruned == 0).sum()) == 6
    assert not sparsegpt_prune(weight, h, 0.0)[:, 7].any()
    torch.testing.assert_close(pruned, reference.sparsegpt_prune(weight, h, 0.05))


@pytest.mark.parametrize("shared", [True, False])
def test_batch_equals_samples_alone(shared):
    problems = [layer(9, 50, seed) for seed in range(3)]
    h = torch.stack([p[1] for p in problems])
    weight = problems[0][0] if shared else torch.stack([p[0] for p in problems])
    batch = sparsegpt_prune(weight, h, 0.6, block_size=9)
    assert batch.shape == (3, 9, 50)
    for s in range(3):
        alone = sparsegpt_prune(weight if shared else weight[s], h[s], 0.6, block_size=9)
        assert torch.equal(batch[s], alone)


def test_layers_report_progress_by_cost():
    problems = [layer(5, 12), layer(40, 90), layer(3, 7)]
    weights, hessians = [w for w, _ in problems], [h[None] for _, h in problems]
    seen = []
    got = sparsegpt_prune_layers(
        weights, hessians, 0.5, progress=lambda done, total: seen.append((done, total))
    )
    for batch, (weight, h) in zip(got, problems, strict=True):
        assert torch.equal(batch.weights[0], sparsegpt_prune(weight, h, 0.5))
    dones, totals = zip(*seen, strict=True)
    assert list(dones) == sorted(dones) and {dones[-1]} == set(totals)
    assert sparsegpt_prune_layers([], []) == []


def test_errors_of_layers():
    weight, h = layer(5, 12)
    with pytest.raises(
        ValueError, match=r"hessians must have one entry for each of 2 weights, got 1"
    ):
        sparsegpt_prune_layers([weight] * 2, [h[None]])
    with pytest.raises(ValueError, match=r"sparsity must have one entry for each of 1 weights"):
        sparsegpt_prune_layers([weight], [h[None]], [0.5, 0.6])
    with pytest.raises(ValueError, match=r"hessians\[1\] must have 3 dimensions"):
        sparsegpt_prune_layers([weight] * 2, [h[None], h])
    with pytest.raises(ValueError, match=r"hessians\[1\] must be finite, got"):
        sparsegpt_prune_layers([weight] * 2, [h[None], h[None] * torch.nan])
    with pytest.raises(ValueError, match=r"sparsity must be in \[0.0, 1.0\], got 2"):
        sparsegpt_prune_layers([weight] * 2, [h[None]] * 2, [0.5, 2])


def test_a_failed_sample_leaves_the_others():
    weight, h = layer(5, 12)
    broken = h.clone()
    broken[0, 0] = -100 * h.diagonal().sum()
    hessians = torch.stack([h, broken, h])
    batch = sparsegpt_prune_batch(weight, hessians, 0.5)
    assert batch.failed.tolist() == [False, True, False]
    assert torch.equal(batch.weights[1], weight)
    alone = sparsegpt_prune(weight, h, 0.5)
    assert torch.equal(batch.weights[0], alone) and torch.equal(batch.weights[2], alone)
    before = weight.clone(), hessians.clone()
    with pytest.raises(
        SingularHessianError, match=r"hessian\[1\] is not positive definite"
    ) as caught:
        sparsegpt_prune(weight, hessians, 0.5)
    assert caught.value.index == 1
    assert torch.equal(weight, before[0]) and torch.equal(hessians, before[1])


def test_more_damping_is_reported():
    weight, h = layer(5, 12)
    h = h - 1.001 * torch.linalg.eigvalsh(h)[0] * torch.eye(12)
    with pytest.warns(DampingWarning, match="not positive definite at damp=0, used"):
        sparsegpt_prune(weight, h, 0.5, damp=0.0)
    batch = sparsegpt_prune_batch(weight, h[None], 0.5, damp=0.0)
    assert batch.damp[0] > 0 and not batch.failed[0]


def test_rank_deficient_without_much_damping_agrees_with_float64():
    weight, h = layer(10, 100, samples=60)
    single = sparsegpt_prune(weight.float(), h.float(), 0.5, damp=1e-4)
    expected = reference.sparsegpt_prune(weight, h.float().double(), 0.5, damp=1e-4)
    assert ((single == 0) != (expected == 0)).float().mean() < 0.02


@pytest.mark.parametrize("scale", [2.0**-112, 2.0**-62, 2.0**60, 2.0**120])
@pytest.mark.parametrize("damp", [0.01, 1e-4])
def test_the_scale_of_the_hessian_changes_no_bit(scale, damp):
    weight, h = layer(8, 60, dtype=torch.float32)
    weight *= 1e3
    options = {"block_size": 1, "damp": damp}
    expected = sparsegpt_prune(weight, h, 0.5, **options)
    assert torch.equal(sparsegpt_prune(weight, h * scale, 0.5, **options), expected)


def test_subnormal_hessian():
    weight, h = layer(8, 60, dtype=torch.float32)
    got, expected = sparsegpt_prune(weight, h * 1e-41, 0.5), sparsegpt_prune(weight, h, 0.5)
    assert torch.equal(got == 0, expected == 0)
    assert (got - expected).norm() < 1e-3 * expected.norm()


@pytest.mark.parametrize("damp", [0.01, 1e-4])
def test_only_the_lower_triangle_of_the_hessian_is_read(damp):
    weight, h = layer(8, 150, dtype=torch.float32)
    lower = h.tril() + 1e3 * torch.randn(150, 150).triu(1)
    options = {"block_size": 1, "damp": damp}
    expected = sparsegpt_prune(weight, h, 0.5, **options)
    assert torch.equal(sparsegpt_prune(weight, lower, 0.5, **options), expected)


def test_threads_repeats_and_strides_do_not_change_a_bit():
    weight, h = layer(150, 200, dtype=torch.float32)
    one, two, four = (sparsegpt_prune(weight, h, 0.7, block_size=9, threads=t) for t in (1, 2, 4))
    assert torch.equal(one, two) and torch.equal(one, four)
    samples = torch.stack([(1 + s) * h + s * torch.eye(200) for s in range(5)])
    alone = torch.stack([sparsegpt_prune(weight, one, 0.7, threads=1) for one in samples])
    for threads in (1, 2, 4):  # samples of their own for each thread, and one left over
        assert torch.equal(sparsegpt_prune(weight, samples, 0.7, threads=threads), alone)
    again = sparsegpt_prune(weight.T.contiguous().T, h.T, 0.7, block_size=9)
    assert torch.equal(again, one)


def test_dtypes_and_empty():
    weight, h = layer(4, 8)
    assert sparsegpt_prune(weight.bfloat16(), h.float(), 0.5).dtype == torch.bfloat16
    assert sparsegpt_prune(torch.empty(0, 8), h.float(), 0.5).shape == (0, 8)
    assert sparsegpt_prune(torch.empty(3, 0), torch.empty(0, 0), 0.5).shape == (3, 0)
    assert sparsegpt_prune(weight, torch.empty(0, 8, 8), 0.5).shape == (0, 4, 8)


W, H = torch.ones(2, 4), torch.eye(4)


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda: sparsegpt_prune("w", H), TypeError, "weight must be a torch.Tensor, got str"),
        (lambda: sparsegpt_prune(W, H.int()), TypeError, "hessian must have dtype"),
        (
            lambda: sparsegpt_prune(W, torch.eye(3)),
            ValueError,
            r"hessian must have shape \(4, 4\)",
        ),
        (
            lambda: sparsegpt_prune(W, H[:, :3]),
            ValueError,
            r"hessian must be square, got shape \(4, 3\)",
        ),
        (
            lambda: sparsegpt_prune(W, H[None, :, :3]),
            ValueError,
            r"hessian must be square, got shape \(1, 4, 3\)",
        ),
        (lambda: sparsegpt_prune(W[None], H), ValueError, "weight must have 2 dimensions"),
        (
            lambda: sparsegpt_prune(W, H, 1.5),
            ValueError,
            r"sparsity must be in \[0.0, 1.0\], got 1.5",
        ),
        (lambda: sparsegpt_prune(W, H, "a"), TypeError, "sparsity must be a number, got str"),
        (lambda: sparsegpt_prune(W, H, block_size=0), ValueError, "block_size must be at least 1"),
        (lambda: sparsegpt_prune(W, H, n=2), ValueError, "n and m go together"),
        (lambda: sparsegpt_prune(W, H, n=2, m=3), ValueError, "m must divide the 4 columns, got 3"),
        (lambda: sparsegpt_prune(W, H, n=5, m=4), ValueError, "n must be at most m"),
        (lambda: sparsegpt_prune(W, H, damp=-1), ValueError, "damp must be in"),
        (lambda: sparsegpt_prune(W, H, damp=1e300), ValueError, r"damp must be in .* got 1e\+300"),
        (lambda: sparsegpt_prune(W * torch.nan, H), ValueError, "weight must be finite, got 8"),
        (lambda: sparsegpt_prune(W, H * torch.inf), ValueError, "hessian must be finite"),
        (
            lambda: sparsegpt_prune(W.to("meta"), H),
            ValueError,
            "weight must be on device cpu or cuda, got meta",
        ),
    ],
)
def test_errors(call, error, text):
    with pytest.raises(error, match="sparsegpt_prune: " + text):
        call()


def test_progress_and_cancellation():
    weight, h = layer(8, 300, dtype=torch.float32)
    seen = []
    sparsegpt_prune(weight, h, 0.5, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (300, 300)

    def stop(done, total):
        raise KeyboardInterrupt

    before = weight.clone()
    with pytest.raises(KeyboardInterrupt):
        sparsegpt_prune(weight, h, 0.5, progress=stop)
    assert torch.equal(weight, before)


def test_the_factorisation_can_be_stopped():
    weight, h = layer(2, 300, dtype=torch.float32)
    seen = []

    def stop(done, total):
        seen.append((done, total))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sparsegpt_prune(weight, h, 0.5, block_size=300, progress=stop)
    assert seen == [(0, 300)]
