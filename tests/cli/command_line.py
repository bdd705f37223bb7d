"""Options that make a command quick, and the models that specs name."""

import re

import torch
from torch import nn

FAST = ["-m", "command_line:make", "-n", "16", "--batch-size", "8"]


def notices(err):
    """What stderr holds beside the lines about what goes on."""
    return "".join(line for line in err.splitlines(True) if not re.match(r" *\d+ s  ", line))


def make():
    """A classifier of three classes."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(294, 3))


def without_relu():
    """A classifier for which guided backpropagation is the plain gradient."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(294, 3))


def feature_maps():
    """A model that is no classifier."""
    return nn.Conv2d(3, 2, 3)
