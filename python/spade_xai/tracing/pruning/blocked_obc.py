"""SPADE as its released code prunes convolutions: exact OBC of whole kernels."""

from spade_xai.models.layers import Layer
from spade_xai.tracing.pruning.exact_obc import ExactOBC


class BlockedOBC(ExactOBC):
    """Exact OBC in which all taps of a convolution's kernel, for one input channel, go together.

    The paper's objective is unstructured (`obc`); the function `obc_core` of its released code prunes convolutions in
    blocks of their kernel's size. Linear layers and 1 x 1 convolutions are pruned as by `obc`.

    Source: the released code; Frantar, Singh, Alistarh, "Optimal Brain Compression" (NeurIPS 2022), section 4.3.
    """

    name = "blocked_obc"
    title = "SPADE-blocks"
    place = 50

    def block(self, layer: Layer) -> int:
        """The taps of a kernel."""
        return layer.taps
