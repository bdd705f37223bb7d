"""Exceptions and warnings of spade_ext."""


class SingularHessianError(ArithmeticError):
    """A Hessian is not positive definite even at the largest damping.

    Attributes:
        index: Position of the Hessian in its batch, or None if there was one only.
    """

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


def of_group(error: SingularHessianError, group: int) -> SingularHessianError:
    """The error of a group's Hessian as that of the whole layer."""
    return SingularHessianError(f"{error} (group {group})", group)


class HessianRangeError(ValueError):
    """A Hessian is right as a sum in float64, but no float32 matrix holds it."""


class DampingWarning(UserWarning):
    """More damping than asked for was needed to make a Hessian positive definite."""
