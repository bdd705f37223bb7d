"""How much memory the Hessians and their pruning take, and how to split the work to stay within a limit."""

import math
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from spade_ext import memory as cuda_memory
from spade_xai.exceptions import MemoryLimitWarning
from spade_xai.models.layers import Layer
from spade_xai.tracing.pruning.method import PruningMethod, hessian_bytes

_UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_CPU = torch.device("cpu")
_BINARY = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_memory(function: str, value: int | str | None) -> int | None:
    """Bytes of an int, or of text such as "2GB", "512 MiB" or "1.5e9"."""
    if value is None:
        return None
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d*)?(?:e\d+)?)\s*([KMGT]?)(I?)B?\s*", value.upper())
        match = match or re.fullmatch(r"\s*(\d+(?:\.\d*)?E\d+)()()\s*", value.upper())
        if match is None:
            raise ValueError(
                f'{function}: max_memory must be bytes or text such as "2GB", got {value!r}'
            )
        number, unit, binary = match.groups()
        size = float(number) * (_BINARY.get(unit, 1) if binary else _UNITS[unit])
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{function}: max_memory must be bytes or text, got {type(value).__name__}")
    else:
        size = float(value)
    if not (size > 0 and math.isfinite(size)):
        raise ValueError(f"{function}: max_memory must be positive and finite, got {value!r}")
    return int(size)


def available_memory(device: torch.device = _CPU) -> int | None:
    """Bytes that the device can still give, or None where that is not known."""
    if device.type == "cuda":
        return cuda_memory.available_memory(device)
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):
        return None


def scratch_bytes(
    layers: Sequence[Layer], method: PruningMethod, samples: int, held: int, max_memory: int | None
) -> int | None:
    """Bytes of scratch that native calls on CUDA may take, beside held bytes of Hessians, within max_memory."""
    if max_memory is None:
        return None
    return max(0, max_memory - held - method.cuda_pruning_bytes(layers, samples))


@dataclass(frozen=True)
class Plan:
    """Work in parts that fit.

    Attributes:
        parts: Layers whose Hessians are held at once; each part runs the model over all augmentations.
        samples: Samples whose Hessians are held at once.
        bytes: Most memory at one time, beyond the model and one batch of activations.
        keeps: Whether prepared layers of all samples may stay in memory as well.
    """

    parts: tuple[tuple[Layer, ...], ...]
    samples: int
    bytes: int
    keeps: bool = False


def _need(
    layers: Sequence[Layer],
    method: PruningMethod,
    samples: int,
    device: torch.device,
    scratch: Mapping[str, int],
    keep: bool = False,
) -> int:
    """Bytes for layers whose Hessians are held at once, with the least scratch of each by name."""
    held = sum(hessian_bytes(x) for x in layers) * samples
    if keep:
        held += sum(method.kept_bytes(x) for x in layers) * samples
    sums = sum(hessian_bytes(x, 8) for x in layers)  # of the sample whose passes run
    if device.type == "cuda":
        pruning = method.cuda_pruning_bytes(layers, samples)
        pruning += max(scratch[x.name] for x in layers)
    else:
        pruning = max(method.pruning_bytes(x, samples) for x in layers)
    return held + max(sums, pruning)


def plan_memory(
    layers: Sequence[Layer],
    *,
    method: PruningMethod,
    samples: int,
    max_memory: int | None,
    function: str = "trace",
    device: torch.device = _CPU,
) -> Plan:
    """Split samples, then layers, so that Hessians and pruning stay within max_memory.

    Args:
        layers: In order of execution.
        method: That prunes.
        samples: Samples that would be pruned together.
        max_memory: Bytes; None takes half of what the device has available.
        function: Named in errors and warnings.
        device: Whose memory it is.

    Raises:
        ValueError: max_memory is given and one layer alone takes more.
    """
    if not layers:
        return Plan((), samples, 0, True)
    limit = max_memory
    if limit is None:
        free = available_memory(device)
        limit = free // 2 if free is not None else 2**62
    cuda = device.type == "cuda"
    scratch = {x.name: method.least_scratch(x, device) if cuda else 0 for x in layers}
    together = samples

    def need(some: Sequence[Layer]) -> int:
        return _need(some, method, together, device, scratch)

    while together > 1 and need(layers) > limit:
        together -= 1
    parts: list[list[Layer]] = [[]]
    for layer in layers:
        alone = need([layer])
        if alone > limit and max_memory is not None:
            raise ValueError(
                f"{function}: max_memory must be at least {alone} bytes for layer {layer.name}, "
                f"got {max_memory}"
            )
        if parts[-1] and need([*parts[-1], layer]) > limit:
            parts.append([])
        parts[-1].append(layer)
    peak = max(need(part) for part in parts)
    if len(parts) > 1 or together < samples:
        warnings.warn(
            f"{function}: Hessians and pruning of {len(layers)} layers take {peak / 1e9:.2f} GB at most: "
            f"{together} of {samples} samples at once, {len(parts)} groups of layers, as many passes over the "
            f"augmentations; limit {limit / 1e9:.2f} GB",
            MemoryLimitWarning,
            stacklevel=7,
        )
    keeping = _need(layers, method, together, device, scratch, keep=True)
    keeps = len(parts) == 1 and keeping <= limit
    return Plan(tuple(tuple(part) for part in parts), together, peak, keeps)
