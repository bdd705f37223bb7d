"""Layer shapes of real networks, from layers.toml."""

import functools
import sys
from dataclasses import dataclass

from benchmarks import HERE

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MODELS = ("resnet50", "mobilenet_v2", "convnext_tiny", "bert_base")


@dataclass(frozen=True)
class LayerShape:
    """One weight matrix and what it reads for one sample; see layers.toml.

    Attributes:
        model: Name of the network.
        name: Of the first layer of this shape.
        count: Layers of this shape.
        rows: R.
        channels: Of the input.
        kernel: Taps along one side; 0 for a linear layer.
        stride: Of a convolution.
        padding: Of a convolution.
        groups: Of a convolution.
        size: Height and width of a convolution's input.
        positions: Rows of a linear layer's X.
    """

    model: str
    name: str
    count: int
    rows: int
    channels: int
    kernel: int = 0
    stride: int = 1
    padding: int = 0
    groups: int = 1
    size: int = 0
    positions: int = 0

    @property
    def cols(self) -> int:
        """D, inputs of one output."""
        return self.channels // self.groups * max(1, self.kernel) ** 2

    @property
    def samples(self) -> int:
        """Columns of X for one sample: output positions, or tokens."""
        if not self.kernel:
            return self.positions
        return ((self.size + 2 * self.padding - self.kernel) // self.stride + 1) ** 2

    @property
    def depthwise(self) -> bool:
        """Whether each group has one input channel."""
        return self.groups > 1 and self.groups == self.channels

    def input_shape(self, samples: int) -> tuple[int, ...]:
        """Shape of the layer's input for so many samples."""
        if self.kernel:
            return samples, self.channels, self.size, self.size
        return samples, self.positions, self.channels

    def __str__(self) -> str:
        return f"{self.model}:{self.name}"


@functools.cache
def layer_table() -> dict[str, LayerShape]:
    """Every shape under "model:layer"."""
    data = tomllib.loads((HERE / "layers.toml").read_text())
    shapes = [LayerShape(model, **row) for model in MODELS for row in data[model]["layers"]]
    return {str(shape): shape for shape in shapes}


def layers_of(model: str, *, depthwise: bool = False) -> list[LayerShape]:
    """The shapes of a network that SPADE prunes."""
    shapes = [shape for shape in layer_table().values() if shape.model == model]
    return [shape for shape in shapes if depthwise or not shape.depthwise]
