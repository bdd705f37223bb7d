"""Sparse weights in little memory: one bit per weight, and the values that are kept."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Packed:
    """Sparse weights [groups, rows, cols] as one bit per weight and the kept values.

    Attributes:
        shape: The shape of the weights.
        bits: Mask of kept weights, 8 per byte.
        values: Kept weights in row-major order.
    """

    shape: tuple[int, ...]
    bits: Tensor
    values: Tensor

    @classmethod
    def of(cls, weights: Tensor) -> "Packed":
        """Pack weights, where they are, into CPU memory; a weight is kept if it is not 0."""
        flat = weights.detach().flatten()
        mask = flat != 0
        bits = torch.from_numpy(np.packbits(mask.numpy())) if mask.is_cpu else pack_bits(mask).cpu()
        values = flat[mask]  # a copy
        return cls(tuple(weights.shape), bits, values.cpu())

    def mask(self) -> Tensor:
        """Kept weights, bool in the shape of the weights."""
        count = int(np.prod(self.shape))
        flat = np.unpackbits(self.bits.numpy(), count=count)
        return torch.from_numpy(flat).bool().reshape(self.shape)

    def weights(self) -> Tensor:
        """The weights."""
        out = torch.zeros(self.shape, dtype=self.values.dtype)
        out[self.mask()] = self.values
        return out


def pack_bits(mask: Tensor) -> Tensor:
    """np.packbits on the mask's device: [n] bool as [ceil(n / 8)] uint8, first entries in the highest bits."""
    padded = torch.nn.functional.pad(mask.to(torch.uint8), (0, -len(mask) % 8)).view(-1, 8)
    places = torch.arange(7, -1, -1, dtype=torch.uint8, device=mask.device)  # no copy to wait for
    return (padded << places).sum(1, dtype=torch.uint8)
