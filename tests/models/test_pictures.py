"""Pictures of every kind of file: depth, orientation, what cannot be scaled; masks and patches alike."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from spade_xai.commands.image_files import read_mask
from spade_xai.models.images import ImageError, read_image
from spade_xai.models.preprocessing import Preprocessing
from spade_xai.trojans.patch import read_patch

RAMP = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(16, 0)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bits(tmp_path, suffix):
    path = tmp_path / f"ramp.{suffix}"
    Image.fromarray(RAMP).save(path)
    expected = torch.from_numpy(RAMP.astype(np.float32) / 65535)
    assert torch.allclose(read_image(path), expected.expand(3, 16, 256))
    mask = read_mask(path, Preprocessing(), torch.zeros(3, 16, 256))
    assert torch.equal(mask, expected > 0.5)
    patch = read_patch(path, 16)
    assert patch.shape == (4, 16, 16) and (patch[3] == 1).all()
    assert torch.equal(patch[0], patch[2]) and (patch[0].diff(dim=1) > 0).all()


def test_big_endian_16_bits(tmp_path):
    Image.fromarray(RAMP.astype(">u2")).save(tmp_path / "ramp.tif")
    assert read_image(tmp_path / "ramp.tif")[0, 0, 100] == pytest.approx(RAMP[0, 100] / 65535)


def test_floating_point(tmp_path):
    Image.fromarray((RAMP / 65535).astype(np.float32)).save(tmp_path / "f.tif")
    image = read_image(tmp_path / "f.tif")
    assert torch.allclose(image[1], torch.from_numpy((RAMP / 65535).astype(np.float32)))


@pytest.mark.parametrize(
    "low_high", [(0.0, 255.0), (-1.0, 1.0), (0.0, float("nan")), (0.0, float("inf"))]
)
def test_floating_point_of_unknown_range(tmp_path, low_high):
    values = np.zeros((8, 8), np.float32)
    values[0, 0], values[1:, 1:] = low_high
    Image.fromarray(values).save(tmp_path / "f.tif")
    for read in (read_image, lambda path: read_patch(path, 4)):
        with pytest.raises(ImageError, match=r"f.tif: floating point images must lie in \[0, 1\]"):
            read(tmp_path / "f.tif")


def test_whole_numbers_of_32_bits(tmp_path):
    Image.fromarray(RAMP.astype(np.int32)).save(tmp_path / "i.tif")
    with pytest.raises(ImageError, match=r"i.tif: whole numbers of 32 bits have no known range"):
        read_image(tmp_path / "i.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path, orientation):
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[5:20, :15] = 255
    picture = Image.fromarray(pixels)
    exif = picture.getexif()
    exif[0x0112] = orientation
    for name in ("p.png", "p_mask.png"):
        picture.save(tmp_path / name, exif=exif)
    seen = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "p.png")))
    image = read_image(tmp_path / "p.png")
    assert torch.equal(image, torch.from_numpy(seen.copy()).permute(2, 0, 1) / 255)
    mask = read_mask(tmp_path / "p_mask.png", Preprocessing(), image)
    assert torch.equal(mask, image[0] > 0.5)
    patch = read_patch(tmp_path / "p.png", 8)
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "p.png")).resize((8, 8), 1)
    assert torch.allclose(patch[0], torch.from_numpy(np.array(upright)[..., 0]) / 255)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr"])
def test_other_kinds_are_read_as_8_bits(tmp_path, mode):
    picture = Image.new("RGB", (6, 6), (255, 255, 255))
    suffix = "tif" if mode in ("CMYK", "YCbCr") else "png"
    picture.convert(mode).save(tmp_path / f"p.{suffix}")
    assert (read_image(tmp_path / f"p.{suffix}") > 0.98).all()
