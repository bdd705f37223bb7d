"""Every op in plain PyTorch, any float dtype: the oracle of the tests and the baseline of the benchmarks."""

from spade_ext.reference.hessian import hessian
from spade_ext.reference.inverse import damped_inverse
from spade_ext.reference.obc import obc_eliminate, obc_prune, obc_trace, structured_columns
from spade_ext.reference.published import fasterprune
from spade_ext.reference.sparsegpt import sparsegpt_prune

__all__ = [
    "damped_inverse",
    "fasterprune",
    "hessian",
    "obc_eliminate",
    "obc_prune",
    "obc_trace",
    "sparsegpt_prune",
    "structured_columns",
]
