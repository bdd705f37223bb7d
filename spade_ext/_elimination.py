"""The elimination of a layer by exact OBC: damped inverse, order and losses; here on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import torch

from spade_ext import _C
from spade_ext.checks import (
    check_device,
    check_finite,
    check_same_device,
    check_shape,
    check_tensor,
    compute_dtype,
    dense,
)
from spade_ext.errors import SingularHessianError, of_group
from spade_ext.progress import Callback, reporting

_Result = TypeVar("_Result")


class EliminationPattern(NamedTuple):
    """What goes together: n of each m columns if m > 0, otherwise `block` consecutive ones."""

    n: int = 0
    m: int = 0
    block: int = 1

    def steps(self, cols: int) -> int:
        """Steps of a full elimination."""
        return cols // self.m * self.n if self.m else cols // self.block


class Elimination(NamedTuple):
    """What an elimination leaves; shapes and meanings of spade_ext.OBCTrace."""

    order: torch.Tensor
    loss: torch.Tensor
    damp: float
    weight: torch.Tensor
    hessian: torch.Tensor
    hinv: torch.Tensor


def combined(change: Callable[..., torch.Tensor], damp: float, *parts: Elimination) -> Elimination:
    """An elimination whose tensors are change(those of the parts)."""

    def of(name: str) -> torch.Tensor:
        return change(*(getattr(part, name) for part in parts))

    return Elimination(of("order"), of("loss"), damp, of("weight"), of("hessian"), of("hinv"))


def each_group(
    description: str,
    progress: bool | Callback | None,
    call: Callable[..., _Result],
    *parts: torch.Tensor | Sequence[Elimination],
) -> list[_Result]:
    """The results of call on the parts of each group in turn; errors name the group."""
    results = []
    with reporting(progress, description) as report:
        for group, own in enumerate(zip(*parts, strict=True)):
            try:
                results.append(call(*own))
            except SingularHessianError as error:
                raise of_group(error, group) from None
            if report is not None:
                report(group + 1, len(parts[0]))
    return results


def check_layer(function: str, weight: torch.Tensor, hessian: torch.Tensor) -> int:
    """D of weight [R, D] and hessian [D, D], or [G, R, D] and [G, D, D], on one device."""
    check_tensor(function, "weight", weight, ndim=(2, 3))
    check_tensor(function, "hessian", hessian, ndim=weight.ndim)
    *groups, _, cols = weight.shape
    check_shape(function, "hessian", hessian, (*groups, cols, cols))
    if 0 in groups:
        raise ValueError(f"{function}: weight must have a group, got shape {tuple(weight.shape)}")
    check_device(function, "weight", weight)
    check_same_device(function, "hessian", hessian, "weight", weight)
    return cols


def dtypes_to_try(weight: torch.Tensor, hessian: torch.Tensor) -> Sequence[torch.dtype]:
    """The dtypes to compute in, in turn: float64 also where float32 does not do."""
    wide = compute_dtype(weight, hessian) == torch.float64
    return (torch.float64,) if wide else (torch.float32, torch.float64)


class Outcome(NamedTuple):
    """What became of a layer; see spade_obc_outcome_t."""

    damp: float
    row: int
    step: int
    needs_double: bool


@contextmanager
def native_errors(function: str, weight: torch.Tensor, hessian: torch.Tensor) -> Iterator[None]:
    """Errors of a native call on a checked layer, as those of the function."""
    try:
        yield
    except ArithmeticError as error:
        raise SingularHessianError(f"{function}: {error}") from None
    except ValueError as error:
        check_finite(function, "weight", weight)  # these say more than the native texts
        check_finite(function, "hessian", hessian)
        raise ValueError(f"{function}: {str(error).partition(': ')[2]}") from None


def row_error(function: str, row: int, step: int, damp: float) -> SingularHessianError:
    """What to raise for a row that was given up: at a step, or (0) in the solve of its kept columns."""
    if step:
        what = f"the Hessian of row {row} loses definiteness at step {step}"
    else:
        what = f"the Hessian of the kept columns of row {row} is not positive definite"
    return SingularHessianError(f"{function}: {what} (damp={damp:g}); use more damping", row)


def eliminate(
    function: str,
    weight: torch.Tensor,
    hessian: torch.Tensor,
    pattern: EliminationPattern,
    damp: float,
    threads: int,
    progress: bool | Callback | None,
) -> Elimination:
    """Eliminate all steps of a checked layer; in float64 if the damping is small or float32 does not do.

    Groups go one after another; the result is float64 if any of theirs is.
    """
    if weight.ndim == 3:

        def alone(w: torch.Tensor, h: torch.Tensor) -> Elimination:
            return eliminate(function, w, h, pattern, damp, threads, None)

        made = each_group(function, progress, alone, weight, hessian)
        return combined(lambda *each: torch.stack(each), max(x.damp for x in made), *made)
    rows, cols = weight.shape
    steps = pattern.steps(cols)
    for dtype in dtypes_to_try(weight, hessian):
        w = torch.empty(rows, cols, dtype=dtype)
        damped = torch.empty(cols, cols, dtype=dtype)
        hinv = torch.empty(cols, cols, dtype=dtype)
        loss = torch.empty(rows, steps, dtype=dtype)
        order = torch.empty(rows, steps, dtype=torch.int32)
        given, h = dense(weight, dtype), dense(hessian, dtype)
        call = _C.obc_eliminate_f32 if dtype == torch.float32 else _C.obc_eliminate_f64
        with native_errors(function, weight, hessian), reporting(progress, function) as report:
            outcome = Outcome(*call(
                given.data_ptr(), h.data_ptr(), rows, cols, *pattern, damp,
                order.data_ptr(), loss.data_ptr(), w.data_ptr(), damped.data_ptr(), hinv.data_ptr(),
                threads, report,
            ))  # fmt: skip
        if not outcome.needs_double:
            break
    if outcome.row >= 0:
        raise row_error(function, outcome.row, outcome.step, outcome.damp)
    return Elimination(order, loss, outcome.damp, w, damped, hinv)
