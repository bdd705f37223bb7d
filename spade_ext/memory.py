"""Memory on CUDA devices: what is available, and the scratch memory that native calls take at least and at most."""

from spade_ext._cuda import (
    available_memory,
    least_obc_scratch,
    least_sparsegpt_scratch,
    scratch_within,
)

__all__ = ["available_memory", "least_obc_scratch", "least_sparsegpt_scratch", "scratch_within"]
