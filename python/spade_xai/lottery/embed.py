"""Embeddings of pictures: what the last layer of a ticket reads, computed once per ticket."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spade_xai.lottery.data.pictures import ConceptPictures, Pictures, batches
from spade_xai.lottery.folder import Arm
from spade_xai.lottery.storage import read_state, write_state

BATCH = 64


@dataclass(frozen=True)
class Embeddings:
    """float32 [N, D] of each part of the data and of the concepts' pictures."""

    train: Tensor
    validation: Tensor
    test: Tensor
    concepts: Tensor


@torch.no_grad()
def embed(
    model: nn.Module, head: str, pictures: Pictures, size: int, *, workers: int = 0
) -> Tensor:
    """Inputs [N, D] of the last layer for all pictures.

    Args:
        model: For images in [0, 1], in eval mode. Not modified.
        head: Name of its last layer.
        pictures: Whose embeddings.
        size: Pixels per side.
        workers: Processes that read pictures.
    """
    device = next(model.parameters()).device
    seen: list[Tensor] = []
    handle = model.get_submodule(head).register_forward_pre_hook(
        lambda module, args: seen.append(args[0].flatten(1).float().cpu())
    )
    try:
        for _, images, _ in batches(pictures, size, BATCH, workers=workers):
            model(images.to(device))
    finally:
        handle.remove()
    return torch.cat(seen)


def embeddings_of(
    arm: Arm,
    number: int,
    concepts: ConceptPictures,
    *,
    device: torch.device | str = "cpu",
    workers: int = 0,
) -> Embeddings:
    """Embeddings of a ticket, from its file if they are there and of the same concepts' pictures."""
    path = arm.file("embeddings", number, "safetensors")
    digest = concepts.pictures.digest()
    if path.is_file():
        tensors, record = read_state(path, "embeddings")
        if record["concepts"] == digest:
            return Embeddings(**tensors)
    run = arm.run
    model, (head, _) = arm.model(number, device), run.layers
    parts: dict[str, Any] = {
        name: embed(model, head, pictures, run.network.size, workers=workers)
        for name, pictures in (
            ("train", run.data.train), ("validation", run.data.validation),
            ("test", run.data.test), ("concepts", concepts.pictures),
        )
    }  # fmt: skip
    write_state(path, "embeddings", parts, {"concepts": digest})
    return Embeddings(**parts)
