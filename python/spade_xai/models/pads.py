"""Zeros around images as a convolution's own padding, so that no padded copy of the images is made."""

from collections import Counter
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F


class PaddedConvolution(nn.Module):
    """An nn.ZeroPad2d and the nn.Conv2d after it, which pads nothing itself, as one convolution.

    A convolution pads both sides of an axis alike: `before + k stride` pixels, with the least k for which that is
    `after` or more. The outputs that are wanted are then those from the k-th on.
    """

    def __init__(self, pad: nn.ZeroPad2d, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution
        left, right, top, bottom = pad.padding
        self.sides = (top, bottom), (left, right)
        self.skipped = tuple(
            max(0, -((before - after) // stride))
            for (before, after), stride in zip(self.sides, convolution.stride, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, outputs, H', W'], a new tensor, channels last."""
        of = self.convolution
        padding = tuple(
            before + k * stride
            for (before, _), k, stride in zip(self.sides, self.skipped, of.stride, strict=True)
        )
        y = F.conv2d(x, of.weight, of.bias, of.stride, padding, of.dilation, of.groups)
        for axis, (sides, k) in enumerate(zip(self.sides, self.skipped, strict=True)):
            reach = of.dilation[axis] * (of.kernel_size[axis] - 1)
            count = (x.shape[axis - 2] + sum(sides) - reach - 1) // of.stride[axis] + 1
            y = y.narrow(axis - 2, k, count)
        return y.contiguous(memory_format=torch.channels_last)


def padded_convolutions(traced: fx.GraphModule, but: Collection[int]) -> list[fx.Node]:
    """The calls of convolutions, each called once, that an nn.ZeroPad2d alone feeds and that pad nothing themselves.

    Args:
        traced: The graph.
        but: Ids of weights whose convolutions are left out.
    """
    modules = dict(traced.named_modules())
    calls = Counter(str(node.target) for node in traced.graph.nodes if node.op == "call_module")
    found = []
    for node in traced.graph.nodes:
        source = next(iter(node.all_input_nodes), node)
        pad, convolution = (modules.get(str(n.target)) for n in (source, node))
        if type(convolution) is not nn.Conv2d or type(pad) is not nn.ZeroPad2d:
            continue
        alone = len(source.users) == calls[str(node.target)] == 1
        plain = convolution.padding == (0, 0) and min(pad.padding) >= 0
        if alone and plain and id(convolution.weight) not in but:
            found.append(node)
    return found


def pad_within(traced: fx.GraphModule, nodes: Collection[fx.Node]) -> None:
    """Make a `PaddedConvolution` of each of `padded_convolutions`, in place; batch norms may have been folded since."""
    modules: dict[str, Any] = dict(traced.named_modules())
    for node in nodes:
        (pad,) = node.all_input_nodes
        one = PaddedConvolution(modules[str(pad.target)], modules[str(node.target)])
        traced.set_submodule(str(node.target), one)
        node.args = pad.args
        traced.graph.erase_node(pad)
