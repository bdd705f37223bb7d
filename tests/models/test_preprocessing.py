"""Images as models take them: against the transforms of torchvision, timm and transformers."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from spade_xai.models.fit import INTERPOLATIONS, Fit
from spade_xai.models.images import read_image
from spade_xai.models.preprocessing import Preprocessing, preprocessing_of
from spade_xai.models.weights import ModelError

SIZES = [(60, 40), (40, 61), (33, 33), (300, 201), (37, 500), (224, 224)]


@pytest.fixture(params=SIZES, ids=str)
def picture(request, tmp_path):
    """A picture of noise and edges with its path."""
    width, height = request.param
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    pixels[: height // 2, : width // 3] = 250
    Image.fromarray(pixels).save(tmp_path / "p.png")
    return Image.fromarray(pixels), tmp_path / "p.png"


def read(known, path):
    """The model's input of a file."""
    return known.normalize(read_image(path, known.fit)[None])[0]


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b1", "swin_t", "inception_v3"])
def test_torchvision(name, picture):
    models = pytest.importorskip("torchvision").models
    image, path = picture
    for weights in models.get_model_weights(name):  # known by the published file's name
        file = weights.url.rpartition("/")[2]
        known = preprocessing_of(f"torchvision:{name}", None, f"somewhere/{file}")
        assert known.source == f"torchvision's {weights.name}"
        assert torch.allclose(read(known, path), weights.transforms()(image), atol=1e-6)
    default = preprocessing_of(f"torchvision:{name}", None, "mine.pth")
    assert default.source == f"torchvision's {models.get_model_weights(name).DEFAULT.name}"


@pytest.mark.parametrize("change", [
    {}, {"crop_pct": 1.0}, {"interpolation": "bilinear", "crop_pct": 0.95},
    {"crop_mode": "squash"}, {"crop_mode": "border"}, {"crop_mode": "border", "crop_pct": 0.7},
    {"input_size": (3, 40, 72)}, {"input_size": (3, 300, 300), "crop_mode": "border"},
], ids=str)  # fmt: skip
def test_timm(change, picture):
    timm = pytest.importorskip("timm")
    image, path = picture
    model = nn.Identity()
    model.pretrained_cfg = {
        "input_size": (3, 48, 48), "interpolation": "bicubic", "crop_pct": 0.875, "crop_mode": "center",
        "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), **change,
    }  # fmt: skip
    config = timm.data.resolve_model_data_config(model)
    expected = timm.data.create_transform(**config)(image)
    found = read(preprocessing_of("timm:any", model), path)
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("saved", [
    {"size": {"height": 40, "width": 40}, "resample": 2},
    {"size": 40, "resample": 3},
    {"size": {"shortest_edge": 50}, "do_center_crop": True, "crop_size": {"height": 40, "width": 40}},
    {"size": {"shortest_edge": 40}, "crop_pct": 0.875, "image_processor_type": "ConvNextImageProcessor"},
    {"size": {"shortest_edge": 384}, "crop_pct": 0.875, "image_processor_type": "ConvNextImageProcessor"},
    {"size": {"height": 40, "width": 40}, "do_normalize": False},
], ids=str)  # fmt: skip
def test_transformers(saved, picture, tmp_path):
    transformers = pytest.importorskip("transformers")
    image, path = picture
    kind = saved.get("image_processor_type", "ViTImageProcessor")
    if "crop_size" in saved:
        kind = "CLIPImageProcessor"
    values = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "resample": 3}
    values.update(saved, image_processor_type=kind)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    expected = torch.as_tensor(np.asarray(processor(image)["pixel_values"][0]))
    model = nn.Identity()
    model.config = transformers.ViTConfig(image_size=40)
    found = read(preprocessing_of(f"transformers:{tmp_path}", model), path)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("text", ["[" * 100_000, "[1]", '{"size": "x"}', '{"image_mean": 3}', "{"])
def test_nonsense_of_transformers_is_told(text, tmp_path):
    transformers = pytest.importorskip("transformers")
    model = nn.Identity()
    model.config = transformers.ViTConfig()
    (tmp_path / "preprocessor_config.json").write_text(
        text if not text.startswith('{"i') else '{"image_mean": 3, "image_std": 1}'
    )
    with pytest.raises(ModelError, match=r"cannot use what transformers:.* says of its images"):
        preprocessing_of(f"transformers:{tmp_path}", model)


def test_nothing_is_known_of_functions():
    known = preprocessing_of("package.module:function", nn.Identity())
    assert known == Preprocessing()
    x = torch.rand(2, 3, 4, 4)
    assert known.normalize(x) is x
    assert str(known) == "as they are; values in [0, 1]"


def test_another_size_keeps_the_share():
    assert Fit.square(224, 256).at(112) == Fit.square(112, 128)
    assert str(Fit.square(224, 256, "bilinear")) == (
        "short side to 256 pixels (bilinear), the middle 224 x 224"
    )


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_16_bits_are_scaled_as_8_bits(interpolation, tmp_path):
    eight = np.random.default_rng(0).integers(0, 255, (50, 70), dtype=np.uint8)
    Image.fromarray(eight).save(tmp_path / "8.png")
    Image.fromarray(eight.astype(np.uint16) * 257).save(tmp_path / "16.png")
    fit = Fit((30, 90), (40, 40), "contain", interpolation)
    a, b = (read_image(tmp_path / f"{bits}.png", fit) for bits in (8, 16))
    assert (a - b).abs().max() < (8 if interpolation in ("lanczos", "bicubic") else 2) / 255
