"""Warnings about what a run of traces did not reach."""

import warnings
from collections.abc import Mapping, Sequence

from spade_ext import DampingWarning
from spade_xai.exceptions import SparsityWarning, UnfaithfulTraceWarning
from spade_xai.tracing.result import Trace

MISSED = 0.02
"""How far below the sparsity asked for a layer may stay without a warning, if that is more than one weight."""


def warn_of_shortfalls(function: str, traces: Sequence[Trace]) -> None:
    """Say which layers needed more damping, failed or missed their sparsity, and which traces are not faithful."""
    for status, what in (
        ("damped", "needed more damping than asked for"),
        ("failed", "have no Hessian that can be inverted, even at damp = 1, and were left dense"),
    ):
        names = dict.fromkeys(x.name for t in traces for x in t.layers if x.status == status)
        if names:
            text = ", ".join(names)
            warnings.warn(f"{function}: layers {what}: {text}", DampingWarning, stacklevel=6)
    missed: Mapping[str, str] = {
        x.name: f"{x.name} (asked {x.sparsity_asked:g}, got {x.sparsity_got:.3f})"
        for t in traces
        for x in t.layers
        if x.status in ("pruned", "damped")
        and x.sparsity_got < x.sparsity_asked - max(MISSED, 1.5 / (x.rows * x.cols))
    }
    if missed:
        text = ", ".join(missed.values())
        warnings.warn(
            f"{function}: layers got less than the sparsity asked for, as they have too few weights per block: {text}",
            SparsityWarning,
            stacklevel=6,
        )
    unfaithful = [(i, t.verdict) for i, t in enumerate(traces) if t.verdict and not t.faithful]
    if unfaithful:
        index, verdict = unfaithful[0]
        which = (
            "the trace is" if len(traces) == 1 else f"{len(unfaithful)} of {len(traces)} traces are"
        )
        first = "" if len(traces) == 1 else f"of the first (sample {index} of its group), "
        warnings.warn(
            f"{function}: {which} not faithful to the dense model: {first}{'; '.join(verdict.reasons)}. "
            'sparsity="faithful" chooses sparsities that keep the answer',
            UnfaithfulTraceWarning,
            stacklevel=6,
        )
