"""Small random classifiers: linear, convolutional over signals and images, with groups and depthwise."""

import itertools
import os

import torch
from torch import nn

CALLS = int(os.environ.get("SPADE_FUZZ_CALLS", "60"))
SEED = int(os.environ.get("SPADE_FUZZ_SEED", "0"))
KINDS = ["linear", "signal", "image"]
ACTIVATIONS = [nn.ReLU, nn.GELU, nn.Tanh, nn.LeakyReLU]


def random_model(draw, kind):
    """A network in evaluation mode, float32, and the shape of one input."""
    classes = draw.randint(2, 5)
    activation = draw.choice(ACTIVATIONS)
    if kind == "linear":
        sizes = [draw.choice([3, 8, 13, 24]) for _ in range(draw.randint(2, 3))]
        shape = (sizes[0],)
        features = [
            part
            for a, b in itertools.pairwise(sizes)
            for part in (nn.Linear(a, b, bias=draw.random() < 0.7), activation())
        ]
    else:
        features, shape = convolutions(draw, kind, activation)
    model = nn.Sequential(*features, nn.Flatten()).eval()
    with torch.no_grad():
        width = model(torch.rand(1, *shape)).shape[1]
    return nn.Sequential(*model, nn.Linear(width, classes)).eval(), shape


def convolutions(draw, kind, activation):
    """One to three convolutions, with groups and depthwise ones, batch norm and pooling among them."""
    sides = 1 if kind == "signal" else 2
    conv = (nn.Conv1d, nn.Conv2d)[sides - 1]
    norm = (nn.BatchNorm1d, nn.BatchNorm2d)[sides - 1]
    pool = (nn.AvgPool1d, nn.AvgPool2d)[sides - 1]
    channels = first = draw.choice([1, 2, 4])
    size = draw.randint(6, 9)
    features = []
    depth = draw.randint(1, 3)
    for _ in range(depth):
        dilation = draw.choice([1, 1, 2])
        groups = draw.choice([1, 1, channels, 2 if channels % 2 == 0 else 1])
        outputs = groups * draw.randint(1, max(1, 6 // groups))
        features += [
            conv(
                channels, outputs, draw.randint(1, 3), stride=draw.choice([1, 1, 2]),
                padding=draw.randint(dilation, 2), dilation=dilation, groups=groups,
                bias=draw.random() < 0.7,
            )
        ]  # fmt: skip
        if draw.random() < 0.3:
            features.append(trained(norm(outputs)))
        features.append(activation())
        channels = outputs
    if depth < 3 and draw.random() < 0.5:
        features.append(pool(2))
    return features, (first, *[size] * sides)


def trained(norm):
    """The batch norm with statistics as after some training."""
    nn.init.uniform_(norm.running_var, 0.5, 1.5)
    nn.init.normal_(norm.running_mean, std=0.2)
    return norm


class Unchanged:
    """What a call must leave as it is: values and modes of the model, its hooks, and the sample."""

    def __init__(self, model, *tensors):
        self.model, self.tensors = model, tensors
        self.before = [t.clone() for t in (*model.state_dict().values(), *tensors)]
        self.modes = [m.training for m in model.modules()]

    def check(self):
        """Raise where something has changed."""
        after = (*self.model.state_dict().values(), *self.tensors)
        assert all(torch.equal(a, b) for a, b in zip(self.before, after, strict=True))
        assert self.modes == [m.training for m in self.model.modules()]
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in self.model.modules())
        assert all(p.grad is None for p in self.model.parameters())
