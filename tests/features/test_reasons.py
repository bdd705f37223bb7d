"""Shared reasons: groups of a known matrix, and traces of a model that decides by two separate paths."""

import math

import pytest
import torch
from torch import nn

from spade_xai.features.reasons import Reasons, group_pictures, reasons


def blocks(*sizes, noise=0.0):
    """Pictures of a group keep each other's answers."""
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    kept = labels[:, None] == labels
    return kept ^ (torch.rand(kept.shape) < noise), labels


@pytest.mark.parametrize("groups", [None, 3])
def test_blocks_are_found_whatever_the_order(groups):
    kept, labels = blocks(4, 6, 5, noise=0.05)
    order = torch.randperm(15)
    found = group_pictures(kept[order][:, order], groups)
    same = labels[order][:, None] == labels[order]
    assert torch.equal(found[:, None] == found, same)
    assert found[0] == 0 and found.max() == 2


def test_extreme_numbers_of_groups():
    kept, _ = blocks(2, 2)
    assert group_pictures(kept, 1).tolist() == [0, 0, 0, 0]
    assert group_pictures(kept, 4).tolist() == [0, 1, 2, 3]
    assert group_pictures(torch.ones(5, 5, dtype=torch.bool)).tolist() == [0] * 5
    with pytest.raises(ValueError, match="group_pictures: groups must be at most 4, got 5"):
        group_pictures(kept, 5)


class TwoPaths(nn.Module):
    """Answers 1 if either half of the picture is bright, each seen by a unit of its own; else 0."""

    def __init__(self):
        super().__init__()
        self.flatten = nn.Flatten()
        self.hidden = nn.Linear(3 * 16, 2, bias=False)
        self.relu = nn.ReLU()
        self.out = nn.Linear(2, 2)
        weight = torch.zeros(2, 3, 4, 4)
        weight[0, ..., :2], weight[1, ..., 2:] = 1.0, 1.0
        self.hidden.weight.data = weight.flatten(1)
        self.out.weight.data = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
        self.out.bias.data = torch.tensor([4.0, 0.0])

    def forward(self, x):
        return self.out(self.relu(self.hidden(self.flatten(x))))


def test_two_reasons_for_one_answer():
    """All pictures get one answer; those that are bright on one side keep it only with that side's path."""
    images = torch.rand(6, 3, 4, 4) * 0.1
    images[::2, ..., :2] += 0.8
    images[1::2, ..., 2:] += 0.8
    model = TwoPaths().eval()
    found = reasons(
        model,
        images,
        groups=2,
        augment=None,
        augmentations=1,
        sparsity={"out": 0.75},
        progress=False,
    )
    assert found.answers.tolist() == [1] * 6
    assert found.kept.diag().all()
    assert found.groups.tolist() == [0, 1, 0, 1, 0, 1]
    assert found.within() > found.across()


def test_shares():
    kept = torch.tensor([[1, 1, 0], [0, 1, 0], [1, 0, 1]], dtype=torch.bool)
    found = Reasons(torch.zeros(3), kept, kept.float(), torch.tensor([0, 0, 1]), kept[0])
    assert found.within() == 0.5 and found.across() == 0.25
    alone = Reasons(torch.zeros(3), kept, kept.float(), torch.arange(3), kept[0])
    assert math.isnan(alone.within()) and alone.across() == pytest.approx(1 / 3)


def test_one_picture_is_refused():
    with pytest.raises(ValueError, match=r"reasons: images must be \[n >= 2, 3, H, W\], got \(1, "):
        reasons(TwoPaths(), torch.rand(1, 3, 4, 4))
