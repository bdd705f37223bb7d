"""The sparse model that a search for a faithful trace writes weights into, and asks for its answers."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spade_xai.models.copies import duplicate
from spade_xai.models.layers import Layer
from spade_xai.tracing.fast_forward import ROUNDING
from spade_xai.tracing.sample import TracedSample
from spade_xai.tracing.verdict import Probe, Verdict

SAME = 1e-5
"""How far, relatively, a row of a faster copy's weights may be from a multiple of the model's row."""


class Trial:
    """A model in which some layers have other weights, judged beside the dense one.

    It runs a faster copy of the model where there is one. What that answers differs by rounding from what the model
    answers, so a verdict that rounding could turn is taken from the model itself.

    Args:
        function: Named in errors.
        model: The dense model. Not modified.
        layers: Those that may get other weights.
        sample: That is traced.
        fast: As from `fast_forward`, whose layers have the rows of the model's, each times a number. Not modified.

    Attributes:
        probe: The dense answers.
    """

    def __init__(
        self,
        function: str,
        model: nn.Module,
        layers: Sequence[Layer],
        sample: TracedSample,
        fast: nn.Module | None = None,
    ) -> None:
        self.model = model
        self.scales = None if fast is None or fast is model else row_scales(model, fast, layers)
        self.dense = model if fast is None or self.scales is None else fast
        self.sparse = duplicate(self.dense)
        self.probe = Probe(function, self.dense, sample)
        self._own: Probe | None = None  # of the model, where the copy is not enough
        self._weights: dict[str, tuple[Layer, Tensor]] = {}

    def write(self, layer: Layer, weights: Tensor | None) -> None:
        """Give a layer these weights; None: the dense ones."""
        dense = layer.read(self.dense)
        if weights is None:
            self._weights.pop(layer.name, None)
            layer.write(self.sparse, dense)
        elif self.scales is None:
            layer.write(self.sparse, weights.to(dense))
        else:
            self._weights[layer.name] = layer, weights
            layer.write(self.sparse, weights.to(dense) * self.scales[layer.name])

    def dense_verdict(self) -> Verdict:
        """That on the dense model."""
        return self.probe.compare(self.probe.dense)

    def judge(self) -> Verdict:
        """The verdict; of an unfaithful model it may give fewer reasons and figures than there are."""
        if self.scales is None:
            return self.probe.judge(self.sparse)
        found = self.probe.judge_roughly(self.sparse, 10 * ROUNDING)
        if found is not None:
            return found
        if self._own is None:
            self._own = self.probe.on(self.model)
        sparse = duplicate(self.model)
        for layer, weights in self._weights.values():
            layer.write(sparse, weights.to(layer.read(self.model)))
        return self._own.judge(sparse)


def row_scales(
    model: nn.Module, fast: nn.Module, layers: Sequence[Layer]
) -> dict[str, Tensor] | None:
    """The factor of each row [groups, rows / groups, 1] in a copy into which batch norms are folded.

    None if the copy has other weights than that; of rows of zeros the factor is 1.
    """
    scales = {}
    for layer in layers:
        own = layer.read(model)
        try:
            folded = layer.read(fast)
        except AttributeError:
            return None
        square = own.double().square().sum(-1, keepdim=True)
        product = (own.double() * folded.double()).sum(-1, keepdim=True)
        scale = torch.where(square > 0, product / square.clamp_min(1e-300), 1.0).to(own.dtype)
        off = (folded - scale * own).abs().amax(-1)
        if not bool((off <= SAME * folded.abs().amax(-1)).all()):
            return None
        scales[layer.name] = scale
    return scales
