import copy
import warnings

import pytest
import torch
import torchvision
from captum.attr import DeepLift
from torch import nn
from torch.nn import functional as F

from spade_xai.models.copies import duplicate, unwrap
from spade_xai.models.prepare import is_prepared, prepare
from spade_xai.models.rewrite import Add


def bottleneck_net(classes=4):
    torch.manual_seed(0)
    block = torchvision.models.resnet.Bottleneck
    return torchvision.models.resnet.ResNet(block, [1, 1, 1, 1], num_classes=classes).eval()


def state_of(model):
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    inplace = [getattr(m, "inplace", None) for m in model.modules()]
    return [m.training for m in model.modules()], hooks, inplace, list(dict(model.named_modules()))


def deep_lift(model, x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return DeepLift(model).attribute(
            x, torch.zeros_like(x), target=1, return_convergence_delta=True
        )


def test_deep_lift_raises_on_resnet_and_is_complete_on_its_preparation():
    model, x = bottleneck_net().double(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="more than once"):
        deep_lift(copy.deepcopy(model), x)
    prepared = prepare(model, x)
    attribution, delta = deep_lift(prepared, x)
    with torch.no_grad():
        difference = (model(x) - model(torch.zeros_like(x)))[:, 1]
    torch.testing.assert_close(attribution.sum((1, 2, 3)).detach(), difference)
    assert delta.abs().max() < 1e-9


@pytest.mark.parametrize("fuse", [False, True])
def test_outputs_names_and_model_are_kept(fuse):
    model, x = bottleneck_net().train(), torch.randn(2, 3, 32, 32)
    before, state = copy.deepcopy(model.state_dict()), state_of(model)
    prepared = prepare(model, x, fuse_batch_norm=fuse)
    assert state_of(model) == state
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert is_prepared(prepared, fused=fuse) and not is_prepared(model)
    torch.testing.assert_close(prepared(x), model.eval()(x), rtol=1e-4, atol=1e-5)
    assert {"conv1", "layer4.0.conv3", "fc"} <= set(dict(prepared.named_modules()))
    norms = [m for m in prepared.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == (0 if fuse else 17)
    assert sum(isinstance(m, Add) for m in prepared.modules()) == 4


def test_parameters_are_shared():
    model = bottleneck_net()
    prepared = prepare(model)
    assert prepared.get_submodule("layer1.0.conv1").weight is model.layer1[0].conv1.weight
    assert duplicate(model).fc.weight is model.fc.weight


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(36, 3)

    def forward(self, x, scale=None):
        x = F.leaky_relu(self.conv(x), 0.2, inplace=True)
        x = F.max_pool2d(x, 2).relu_()
        x = torch.add(x, F.gelu(x, approximate="tanh"))
        x = F.softmax(x, dim=1) if scale is None else x * scale
        return self.fc(x.flatten(1))


def test_functional_activations_become_modules():
    model, x = Functional().eval(), torch.randn(2, 1, 8, 8)
    prepared = prepare(model, x)
    found = {type(m) for m in prepared.modules()}
    assert {nn.LeakyReLU, nn.MaxPool2d, nn.ReLU, Add, nn.GELU, nn.Softmax} <= found
    assert not any(getattr(m, "inplace", False) for m in prepared.modules())
    torch.testing.assert_close(prepared(x), model(x))
    scaled = prepare(model, x, kwargs={"scale": torch.tensor(2.0)})
    torch.testing.assert_close(scaled(x, scale=torch.tensor(2.0)), model(x, torch.tensor(2.0)))


class ControlFlow(nn.Module):
    """Cannot be traced; one of its blocks can. A shared activation is called three times."""

    def __init__(self):
        super().__init__()
        self.act = nn.ReLU(inplace=True)
        self.block = nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.ReLU(), nn.Linear(6, 6)))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        if x.sum() > 1e9:
            return x
        for _ in range(2):
            x = self.act(self.block(x)) + x
        return self.head(self.act(x))


def test_untraceable_model_gets_one_activation_a_call():
    torch.manual_seed(1)
    model, x = ControlFlow().double().eval(), torch.randn(3, 6, dtype=torch.float64)
    # The block itself runs twice, so its activations are split by call as well.
    attribution, _ = deep_lift(prepare(model, x), x)
    difference = (model(x) - model(torch.zeros_like(x)))[:, 1]
    torch.testing.assert_close(attribution.sum(1), difference)


def test_reading_an_overwritten_tensor_is_refused():
    class Overwrites(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU(inplace=True)

        def forward(self, x):
            y = x * 1
            self.act(y)
            return y

    with pytest.raises(RuntimeError, match="prepare: model must give the same outputs without"):
        prepare(Overwrites(), torch.tensor([[1.0, -1.0]]))


def test_wrong_types():
    with pytest.raises(TypeError, match=r"prepare: model must be an nn.Module, got function"):
        prepare(lambda x: x)
    with pytest.raises(TypeError, match=r"example must be a tensor that is not empty, got ndarray"):
        prepare(nn.Identity(), torch.ones(2, 3).numpy())
    with pytest.raises(TypeError, match=r"that is not empty, got \(0, 3\)"):
        prepare(nn.Identity(), torch.ones(0, 3))
    with pytest.raises(TypeError, match="prepare: kwargs must be a dict, got int"):
        prepare(nn.Identity(), torch.ones(2, 3), kwargs=3)
    with pytest.raises(TypeError, match=r"must be a torch.Tensor or have .logits, got int"):
        unwrap(3)
