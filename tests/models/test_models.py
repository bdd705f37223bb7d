"""Models by name, images by path: what loads, and what the errors say."""

import json
import warnings

import pytest
import torch
from PIL import Image
from torch import nn

from spade_xai.models.fit import Fit
from spade_xai.models.images import ImageError, find_images, read_image, read_images
from spade_xai.models.load import RandomWeightsWarning, load_model, normalized
from spade_xai.models.weights import ModelError


def tiny():
    """A model that specs name as test_models:tiny."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))


class Bomb:
    """Its unpickling would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def leaves():
    """No model."""
    raise SystemExit(3)


not_a_model = 3


@pytest.mark.parametrize(
    "spec", ["torchvision:mobilenet_v3_small", "timm:test_resnet", "transformers:test_vit"]
)
def test_library_models(spec, tmp_path):
    if spec.startswith("transformers"):
        transformers = pytest.importorskip("transformers")
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = transformers.ViTConfig(
            intermediate_size=16, image_size=32, patch_size=16, num_labels=5, **sizes
        )
        transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
        spec = f"transformers:{tmp_path}"
    else:
        pytest.importorskip(spec.split(":")[0])
    if spec.startswith("transformers"):
        model = load_model(spec, classes=5)
    else:
        with pytest.warns(RandomWeightsWarning):
            model = load_model(spec, classes=5)
    assert not model.training
    output = model(torch.rand(1, 3, 32, 32))
    assert getattr(output, "logits", output).shape == (1, 5)


@pytest.mark.parametrize("spec", ["torchvision:mobilenet_v3_small", "timm:test_resnet"])
def test_random_weights_are_told(spec):
    pytest.importorskip(spec.split(":")[0])
    with pytest.warns(RandomWeightsWarning, match=rf"{spec} has RANDOM weights"):
        load_model(spec)


def test_weights_that_torchvision_downloads(tmp_path, monkeypatch):
    """From the cache, where a download would lie; a file that holds code is refused."""
    models = pytest.importorskip("torchvision").models
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / "mobilenet_v3_small-047dcff4.pth"
    cached.parent.mkdir(parents=True)
    saved = models.mobilenet_v3_small()
    torch.save(saved.state_dict(), cached)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RandomWeightsWarning)
        loaded = load_model("torchvision:mobilenet_v3_small", pretrained=True).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in saved.state_dict().items())
    torch.save({"w": Bomb(tmp_path / "mark")}, cached)
    with pytest.raises(ModelError, match=r"cannot download the weights of torchvision:mobilenet"):
        load_model("torchvision:mobilenet_v3_small", pretrained=True)
    assert not (tmp_path / "mark").exists()


def test_weights_that_timm_downloads(monkeypatch):
    timm = pytest.importorskip("timm")
    asked = []

    def create(name, pretrained, **options):
        asked.append((name, pretrained, options))
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(ModelError, match=r"cannot download .* timm:test_resnet: no network"):
        load_model("timm:test_resnet", pretrained=True)
    assert asked == [("test_resnet", True, {})]


def test_weights_of_transformers_hub(monkeypatch):
    transformers = pytest.importorskip("transformers")

    def asked(name, **options):
        raise OSError(f"no network for {name}")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", asked)
    with pytest.raises(ModelError, match=r"transformers:google/vit: no network for google/vit"):
        load_model("transformers:google/vit", pretrained=True)


def test_pretrained_goes_alone(tmp_path):
    with pytest.raises(ModelError, match=r"pretrained must go without weights and classes"):
        load_model("torchvision:resnet18", pretrained=True, classes=5)


def test_transformers_weights_come_with_the_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        vocab_size=50,
    )
    saved = transformers.BertForSequenceClassification(config)
    saved.save_pretrained(tmp_path)
    loaded = load_model(f"transformers:{tmp_path}").state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in saved.state_dict().items())


@pytest.mark.parametrize("deep", [False, True])
def test_code_and_nonsense_in_a_transformers_folder_do_not_run(tmp_path, deep):
    pytest.importorskip("transformers")
    code = {"AutoConfig": "code.Config", "AutoModelForImageClassification": "code.Model"}
    config = json.dumps({"model_type": "ours", "auto_map": code})
    (tmp_path / "config.json").write_text("[" * 100_000 if deep else config)
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')")
    with pytest.raises(ModelError, match=r"cannot read the config.json in .*"):
        load_model(f"transformers:{tmp_path}")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
@pytest.mark.parametrize("auxiliary", [False, True])
def test_torchvision_models_that_transform_their_input_with_weights(tmp_path, name, auxiliary):
    models = pytest.importorskip("torchvision").models
    build = {"init_weights": False, "aux_logits": auxiliary, "transform_input": True}
    published = models.get_model(name, weights=None, **build).eval()
    torch.save(published.state_dict(), tmp_path / "w.pth")
    x, size = {}, 96 if name == "inception_v3" else 32
    for who, model in (
        ("own", load_model(f"torchvision:{name}", tmp_path / "w.pth")),
        ("theirs", published),
    ):
        first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
        first.register_forward_pre_hook(lambda _, args, who=who: x.setdefault(who, args[0]))
        torch.manual_seed(0)
        model(torch.randn(1, 3, size, size))
    assert torch.equal(x["own"], x["theirs"])
    with pytest.warns(RandomWeightsWarning):
        assert not load_model(f"torchvision:{name}").transform_input  # as built


def test_transformers_weights_must_fit(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        vocab_size=50,
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"2 missing in the file, such as 'classifier.bias'"):
        load_model(f"transformers:{tmp_path}")
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)
    with pytest.raises(
        ModelError, match=r"2 of another shape in the file, such as 'classifier.bias'"
    ):
        load_model(f"transformers:{tmp_path}", classes=7)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet50", "spec must be like pretrained:efficientnet_lite0, torchvision"),
        ("torchvision:resnet5000", "torchvision has no model 'resnet5000'"),
        ("timm:nothing_of_this_name", "timm has no model"),
        ("transformers:no-such-folder", "expected a folder with a config.json or a model type"),
        ("no_such_module:f", "cannot import no_such_module:f"),
        ("test_models:missing", "cannot import test_models:missing"),
        ("test_models:not_a_model", "must return an nn.Module, got int"),
        (
            "os:system",
            "os:system, called without arguments, must return an nn.Module, got TypeError",
        ),
        ("test_models:leaves", "got SystemExit: 3"),
    ],
)
def test_spec_errors(spec, message):
    if spec.split(":")[0] in ("torchvision", "timm", "transformers"):
        pytest.importorskip(spec.split(":")[0])
    with pytest.raises(ModelError, match=message):
        load_model(spec)


def test_classes_are_for_libraries():
    with pytest.raises(ModelError, match=r"classes must be None for 'test_models:tiny', got 3"):
        load_model("test_models:tiny", classes=3)


def test_normalized():
    model = tiny().eval()
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    x = torch.rand(2, 3, 8, 8)
    expected = model((x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1))
    assert torch.allclose(normalized(model, mean, std)(x), expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"std > 0"):
        normalized(model, mean, (1.0, 0.0, 1.0))


@pytest.fixture
def pictures(tmp_path):
    for name, size in (("b.png", (20, 10)), ("a.jpg", (10, 10)), ("c.txt", None)):
        if size is None:
            (tmp_path / name).write_text("no picture")
        else:
            Image.new("RGB", size, (255, 128, 0)).save(tmp_path / name)
    return tmp_path


def test_find_images(pictures):
    a, b = pictures / "a.jpg", pictures / "b.png"
    assert find_images([pictures]) == [a, b]
    assert find_images([b, str(pictures / "*")]) == [b, a]
    assert find_images([pictures / "c.txt"]) == [pictures / "c.txt"]
    with pytest.raises(ImageError, match=r"no file or folder .*absent.png"):
        find_images([pictures / "absent.png"])
    with pytest.raises(ImageError, match=r"pattern .* matches no image files"):
        find_images([str(pictures / "*.gif")])
    (pictures / "empty").mkdir()
    with pytest.raises(ImageError, match=r"folder .*empty holds no image files"):
        find_images([pictures / "empty"])


def test_read_images(pictures):
    image = read_image(pictures / "b.png")
    assert image.shape == (3, 10, 20)
    assert torch.allclose(image[:, 3, 5], torch.tensor([255, 128, 0]) / 255)
    assert read_images(sorted(pictures.glob("*.[jp]*")), 8).shape == (2, 3, 8, 8)
    wide = Image.new("RGB", (20, 10))
    wide.paste((255, 255, 255), (6, 1, 14, 9))  # the middle square of 8
    wide.save(pictures / "wide.png")
    assert read_image(pictures / "wide.png", Fit.square(8, 10)).min() == 1
    assert read_image(pictures / "wide.png", 8).min() < 1
    with pytest.raises(
        ImageError, match=r"images must have one size, got \(10, 10\) .* give a size"
    ):
        read_images(sorted(pictures.glob("*.[jp]*")))
    with pytest.raises(ImageError, match=r"cannot read .*c.txt as an image"):
        read_image(pictures / "c.txt")
    with pytest.raises(ImageError, match=r"no file"):
        read_image(pictures / "absent.png")


def test_truncated_image(pictures):
    whole = (pictures / "b.png").read_bytes()
    (pictures / "b.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match=r"cannot read .*b.png as an image"):
        read_image(pictures / "b.png")
