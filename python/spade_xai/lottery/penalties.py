"""Terms of the loss that hold a ticket's explanations near the dense network's (open question 2 of the paper)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from spade_xai.lottery.concepts import Bank
from spade_xai.lottery.gradcam import (
    Seen,
    differentiable_gradcam,
    feature_maps,
    last_stage_gradcam,
)


@dataclass
class GradCAMPenalty:
    """1 - cos(M_k(x, y), M_0(x, y)), the mean over pictures.

    At the last stage of a network that ends in mean pooling and a linear layer, the maps come from the forward pass
    that is made anyway. At an earlier layer a second pass over half of the pictures is differentiated twice. Its batch
    norms take the statistics of these pictures: running ones lag behind at the start of a round.

    Attributes:
        weight: Of the term.
        dense: Ticket 0 for normalised images, in eval mode, on the device of training.
        layer: Name of the layer of feature maps.
        head: Name of the last layer.
        last_stage: Whether to take the first form.
        stored: M_0 of every training picture [N, h, w]; None: computed for each batch, as random cuts change it.
    """

    weight: float
    dense: nn.Module
    layer: str
    head: str
    last_stage: bool
    stored: Tensor | None = None
    _seen: Seen = field(default_factory=Seen)

    @contextmanager
    def start(self, model: nn.Module) -> Iterator[None]:
        """Keep the maps of the model's passes."""
        with feature_maps(model, self.layer) as seen:
            self._seen = seen
            yield

    def value(self, model: nn.Module, images: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        """The penalty of a batch."""
        if self.last_stage:
            maps = last_stage_gradcam(self._seen.take(), _linear(model, self.head), labels)
        else:
            half = -(-len(images) // 2)
            images, labels, index = images[:half], labels[:half], index[:half]
            with _batch_statistics(model):
                maps = differentiable_gradcam(model, self.layer, images, labels)
        with torch.no_grad():
            if self.stored is not None:
                dense = self.stored[index].to(maps.device)
            else:
                dense = self.maps_of_dense(images, labels)
        return one_minus_cosine(maps.flatten(1), dense.flatten(1))

    def maps_of_dense(self, images: Tensor, labels: Tensor) -> Tensor:
        """M_0 [B, h, w] of normalised images."""
        if self.last_stage:
            with feature_maps(self.dense, self.layer) as seen, torch.no_grad():
                self.dense(images)
                return last_stage_gradcam(seen.take(), _linear(self.dense, self.head), labels)
        with torch.enable_grad():
            return differentiable_gradcam(self.dense, self.layer, images, labels).detach()


@dataclass
class ConceptPenalty:
    """1 - cos(z_k(x), z_0(x)) of the projections on ticket 0's bank, the mean over pictures.

    Attributes:
        weight: Of the term.
        dense: Ticket 0 for normalised images, in eval mode.
        head: Name of the last layer.
        bank: Of ticket 0.
    """

    weight: float
    dense: nn.Module
    head: str
    bank: Bank
    _read: list[Tensor] = field(default_factory=list)

    @contextmanager
    def start(self, model: nn.Module) -> Iterator[None]:
        """Keep what the last layer reads."""
        with _inputs_of(model, self.head) as read:
            self._read = read
            yield

    def value(self, model: nn.Module, images: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        """The penalty of a batch."""
        own = self._project(self._read[-1])
        self._read.clear()
        with torch.no_grad(), _inputs_of(self.dense, self.head) as read:
            self.dense(images)
            dense = self._project(read[-1])
        return one_minus_cosine(own, dense)

    def _project(self, embeddings: Tensor) -> Tensor:
        like = embeddings.float()
        vectors = (self.bank.vectors / self.bank.norms[:, None]).to(like)
        return like @ vectors.T + (self.bank.intercepts / self.bank.norms).to(like)


@contextmanager
def _batch_statistics(model: nn.Module) -> Iterator[None]:
    """Eval mode, but for batch norms, which take the batch's statistics and leave their running ones as they are."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    tracking = [m.track_running_stats for m in norms]
    model.eval()
    for module in norms:
        module.training, module.track_running_stats = True, False
    try:
        yield
    finally:
        for module, tracked in zip(norms, tracking, strict=True):
            module.track_running_stats = tracked
        model.train()


def one_minus_cosine(a: Tensor, b: Tensor) -> Tensor:
    """1 - cos, the mean over rows; a row that is zero counts 1 and has no gradient."""
    return 1 - torch.cosine_similarity(a.float(), b.float(), dim=1).mean()


@contextmanager
def _inputs_of(model: nn.Module, name: str) -> Iterator[list[Tensor]]:
    read: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(
        lambda module, args: read.append(args[0])
    )
    try:
        yield read
    finally:
        handle.remove()
        read.clear()


def _linear(model: nn.Module, name: str) -> nn.Linear:
    module = model.get_submodule(name)
    if not isinstance(module, nn.Linear):
        raise TypeError(f"lottery: {name} must be an nn.Linear, got {type(module).__name__}")
    return module
