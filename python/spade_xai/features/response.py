"""How strongly a neuron of a model responds to inputs."""

from collections.abc import Sequence

from torch import Tensor, nn

from spade_ext.checks import check_int
from spade_xai.models.copies import find_module, unwrap


class Response:
    """Activation of one neuron, at one position or on average over all."""

    def __init__(
        self,
        function: str,
        model: nn.Module,
        neuron: int,
        layer: str | None,
        position: int | Sequence[int] | None,
    ) -> None:
        """Watch a layer of model, which stays hooked: it must be a copy.

        Args:
            function: Named in errors.
            model: Run by `__call__`.
            neuron: Index of the logit, or of the channel of layer's outputs.
            layer: Name of a module; None for the logits.
            position: Row and column, or place in a sequence; None for the mean.
        """
        self.function, self.model, self.neuron, self.layer = function, model, neuron, layer
        self.output: Tensor | None = None
        self.position: tuple[int, ...] | None = None
        if position is not None:
            given = (position,) if isinstance(position, int) else tuple(position)
            self.position = tuple(check_int(function, "position", k, 0) for k in given)
        if layer is not None:
            module = find_module(model, layer)
            if module is None:
                raise ValueError(f"{function}: layer must name a module, got {layer!r}")
            module.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, args: object, output: Tensor) -> Tensor:
        self.output = output
        return output.clone()  # what follows in place must not touch the kept tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Response to each of the inputs [B, ...], [B]."""
        logits = self.model(x)
        output = unwrap(logits) if self.layer is None else self.output
        if not isinstance(output, Tensor) or output.ndim < 2:
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"{self.function}: layer must be one that gives a tensor [1, neurons, ...], got {got} "
                f"of {self.layer!r}"
            )
        if output.ndim == 3:  # a sequence [B, places, neurons]
            output = output.mT
        if not 0 <= self.neuron < output.shape[1]:
            raise ValueError(
                f"{self.function}: neuron must be in [0, {output.shape[1] - 1}], got {self.neuron}"
            )
        found = output[:, self.neuron]
        if self.position is None:
            return found.flatten(1).mean(1) if found.ndim > 1 else found
        places = tuple(found.shape[1:])
        inside = all(k < n for k, n in zip(self.position, places, strict=False))
        if len(self.position) != len(places) or not inside:
            raise ValueError(
                f"{self.function}: position must be one of the layer's {places} places, got {self.position}"
            )
        for k in reversed(self.position):
            found = found[..., k]
        return found
