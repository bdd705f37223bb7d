"""Torch's modes that a caller may be in."""

from contextlib import AbstractContextManager, nullcontext

import torch


def outside_inference_mode() -> AbstractContextManager[object]:
    """A context in which tensors may require gradients; a caller that is not in inference mode notices nothing.

    torch.inference_mode(False) alone would also turn the caller's setting of autograd's threads back on.
    """
    return torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()
