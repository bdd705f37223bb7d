"""Memory of large results."""

from collections.abc import Sequence

import torch

from spade_ext import _C

_HUGE_PAGE = 2**21


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Uninitialised tensor; a large one on huge pages, since first touch of small ones takes longer than a sum."""
    out = torch.empty(shape, dtype=dtype, device=device)
    if not out.is_cuda and out.nbytes >= _HUGE_PAGE:
        _C.advise_huge_pages(out.data_ptr(), out.nbytes)
    return out
