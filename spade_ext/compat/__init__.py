"""Drop-in classes with the interface of the published SparseGPT and Optimal Brain Compression code.

Same constructors, methods, counts and, to rounding, weights as the published recurrences (reference.published), on
the ops of spade_ext. Layers: nn.Linear, nn.Conv2d (groups too) and transformers Conv1D.

Sources: Frantar, Alistarh, "SparseGPT" (ICML 2023); Frantar, Singh, Alistarh, "Optimal Brain Compression"
(NeurIPS 2022); Moakhar et al., "SPADE" (ICML 2024), for the batched class.
"""

from spade_ext.compat.sparsegpt import BatchSparseGPT, SparseGPT
from spade_ext.compat.trueobs import TrueOBS

SparseGPTSuperFast = BatchSparseGPT
"""The name that the published SPADE code gives to BatchSparseGPT."""

__all__ = ["BatchSparseGPT", "SparseGPT", "SparseGPTSuperFast", "TrueOBS"]
