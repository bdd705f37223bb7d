"""Models by name, weights by path, images by path: what loads, and what the errors say."""

import pickle
import warnings

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from spade_xai.models.images import ImageError, find_images, read_image, read_images
from spade_xai.models.load import (
    ModelError,
    RandomWeightsWarning,
    load_model,
    load_weights,
    normalized,
)


def tiny():
    """A model that specs name as test_models:tiny."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))


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
    torch.save({"w": Bomb(str(tmp_path / "mark"))}, cached)
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
    with pytest.raises(
        ModelError, match=r"first difference at 'classifier.bias': missing in the file"
    ):
        load_model(f"transformers:{tmp_path}")
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"'classifier.bias': of another shape in the file"):
        load_model(f"transformers:{tmp_path}", classes=7)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_of_torch_files(tmp_path, wrap, prefix):
    source = tiny()
    state = {prefix + name: value for name, value in source.state_dict().items()}
    torch.save(wrap(state), tmp_path / "w.pt")
    model = load_model("test_models:tiny", tmp_path / "w.pt")
    assert torch.equal(model[0].weight, source[0].weight)


def test_weights_of_safetensors(tmp_path):
    source = tiny()
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    model = load_model("test_models:tiny", tmp_path / "w.safetensors")
    assert torch.equal(model[2].weight, source[2].weight)


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("2.weight"), "first difference at '2.weight': missing in the file"),
        (
            lambda s: s.update({"0.weight": torch.zeros(4, 1, 3, 3)}),
            r"first difference at '0.weight': expected shape \(4, 3, 3, 3\), got \(4, 1, 3, 3\)",
        ),
        (lambda s: s.update(head=torch.zeros(1)), "first difference at 'head': not in the model"),
    ],
)
def test_mismatch_names_the_first_key_and_leaves_the_model(tmp_path, change, message):
    model = tiny()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = dict(tiny().state_dict())
    change(state)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=message):
        load_weights(model, tmp_path / "w.safetensors")
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())


def test_unreadable_weights(tmp_path):
    with pytest.raises(ModelError, match=r"no file .*missing.pt"):
        load_weights(tiny(), tmp_path / "missing.pt")
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match=r"cannot read .*bad.safetensors"):
        load_weights(tiny(), tmp_path / "bad.safetensors")
    (tmp_path / "bad.pt").write_bytes(b"")
    with pytest.raises(ModelError, match=r"cannot read .*bad.pt"):
        load_weights(tiny(), tmp_path / "bad.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ModelError, match=r"list.pt must hold a dict of tensors"):
        load_weights(tiny(), tmp_path / "list.pt")


class Bomb:
    """Its unpickling would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("plain_pickle", [False, True])
def test_no_code_of_a_weights_file_runs(tmp_path, plain_pickle):
    bomb, mark = {"w": Bomb(str(tmp_path / "mark"))}, tmp_path / "mark"
    if plain_pickle:
        (tmp_path / "w.pt").write_bytes(pickle.dumps(bomb))
    else:
        torch.save(bomb, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"not a torch file of tensors alone"):
        load_weights(tiny(), tmp_path / "w.pt")
    assert not mark.exists()


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
    assert read_images(sorted(pictures.glob("*.[jp]*")), size=8).shape == (2, 3, 8, 8)
    wide = Image.new("RGB", (20, 10))
    wide.paste((255, 255, 255), (6, 1, 14, 9))  # the middle square of 8
    wide.save(pictures / "wide.png")
    assert read_image(pictures / "wide.png", 8, 10).min() == 1
    assert read_image(pictures / "wide.png", 8).min() < 1
    assert torch.equal(read_image(pictures / "a.jpg", 10, 12), read_image(pictures / "a.jpg"))
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
