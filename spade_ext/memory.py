"""Memory on CUDA devices: what is available, and the scratch memory that native calls take at least."""

from spade_ext._cuda import available_memory, least_obc_scratch, least_sparsegpt_scratch

__all__ = ["available_memory", "least_obc_scratch", "least_sparsegpt_scratch"]
