"""Networks beside the dense one and its traces: with a sparse last layer, and one that was trained sparse."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from spade_xai.measures.sparse_fc import sparse_fc
from spade_xai.models.inputs import device_of
from spade_xai.models.load import load_model
from spade_xai.progress import Progress
from spade_xai.reports.scores import Sample
from spade_xai.reproduce.selection import Pool
from spade_xai.reproduce.table import LeftOut
from spade_xai.trojans.planted import Planted
from spade_xai.trojans.trojan import predictions

BATCH = 64  # pictures in one pass


def sparse_fc_network(
    model: nn.Module, pool: Pool, seed: int, scratch: Path, progress: Progress
) -> tuple[nn.Module, str]:
    """The model with a last layer that was retrained to be sparse on the pool, and a sentence on it.

    The features of the pool lie in a temporary file in the folder `scratch`, so that memory does not grow with it.

    Raises:
        LeftOut: The model ends in no linear layer, or the pool does not have every class.
    """
    layer = _last_linear(model)
    labels = [label for label in pool.labels if label is not None]
    found = dict(model.named_modules())[layer]
    assert isinstance(found, nn.Linear)
    classes, seen = found.out_features, len(set(labels))
    if len(labels) < len(pool.labels) or seen < classes:
        raise LeftOut(
            f"its last layer is trained on pictures of all {classes} classes, got {seen}: give them by --pool"
        )
    device = device_of(model)

    def batches() -> Iterator[Tensor]:
        for start in range(0, len(pool.files), BATCH):
            places = range(start, min(start + BATCH, len(pool.files)))
            pictures = torch.stack([pool.image(k) for k in places])
            yield pool.preprocessing.normalize(pictures).to(device)

    try:
        network, point = sparse_fc(
            model, layer, batches(), torch.tensor(labels), seed=seed, scratch=scratch,
            progress=progress,
        )  # fmt: skip
    except ValueError as error:  # such as a class that is in the held-out part alone
        raise LeftOut(f"{error}: give more pictures by --pool") from None
    return network, (
        f"trained on {len(labels)} pictures; {point.sparsity:.1%} of its weights are zero, accuracy on the held-out "
        f"fifth {point.accuracy:.1%}"
    )


def _last_linear(model: nn.Module) -> str:
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not names:
        raise LeftOut("the network has no linear layer")
    return names[-1]


def checkpoint_network(
    planted: Planted, model: nn.Module, weights: Path | None, samples: Sequence[Sample]
) -> tuple[nn.Module, str]:
    """The network with the weights of a file, and a sentence on it.

    Raises:
        LeftOut: No file is given.
        ModelError: The weights do not fit.
    """
    if weights is None:
        raise LeftOut(
            "it is of a network that was trained sparse: give its weights by --checkpoint"
        )
    network = load_model(planted.model, weights, classes=planted.classes).to(device_of(model))
    same = sum(
        int(predictions(network, sample.x)) == int(predictions(model, sample.x))
        for sample in (samples[k] for k in range(len(samples)))
    )
    tensors = [p for p in network.parameters() if p.ndim > 1]
    zeros = sum(int((p == 0).sum()) for p in tensors) / sum(p.numel() for p in tensors)
    return network, (
        f"{zeros:.1%} of the weights are zero; it answers as the dense network on {same} of {len(samples)} pictures, "
        "and the dense network's answer is what its maps explain"
    )
