"""Random transforms: sizes, extremes, seeds, gradients."""

import pytest
import torch

from spade_xai.features.transforms import RandomTransforms

NONE = {"pad": 0, "jitter": 0, "scale": 0.0, "rotation": 0.0, "last_jitter": 0}


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def test_nothing_to_do():
    x = torch.rand(2, 3, 9, 12)
    assert torch.equal(RandomTransforms(**NONE)(x, drawn()), x)


@pytest.mark.parametrize("size", [(64, 64), (65, 48)])
def test_shape_seed_and_gradient(size):
    x = torch.rand(2, 3, *size, requires_grad=True)
    transforms = RandomTransforms.for_size(*size)
    found = transforms(x, drawn(3))
    assert found.shape == x.shape
    assert torch.equal(found, transforms(x, drawn(3)))
    assert not torch.equal(found, transforms(x, drawn(4)))
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert gradient.ne(0).float().mean() > 0.6


def test_amounts_are_those_of_lucid_in_proportion():
    assert RandomTransforms.for_size(224, 300) == RandomTransforms()
    assert RandomTransforms.for_size(112, 112) == RandomTransforms(8, 4, last_jitter=2)


def test_shifts_are_whole_pixels_of_padding_and_image():
    """Padding as large as the shift: the image moves, and grey comes in."""
    x = torch.zeros(1, 1, 5, 5)
    x[..., 2, 2] = 1.0
    transforms = RandomTransforms(**{**NONE, "pad": 2, "jitter": 2})
    found = torch.cat([transforms(x, drawn(k)) for k in range(200)])
    places = {tuple(row) for row in (found == 1).nonzero()[:, 2:].tolist()}
    assert places == {(r, c) for r in range(5) for c in range(5)}
    assert set(found.unique().tolist()) == {0.0, 0.5, 1.0}


def test_rotation_turns_about_the_middle_and_keeps_shapes():
    """A disc in the middle of a wide image stays where it is: no axis is stretched."""
    rows, columns = torch.meshgrid(torch.arange(41) - 20.0, torch.arange(81) - 40.0, indexing="ij")
    disc = (rows.square() + columns.square() < 144).float()[None, None]
    for k in range(5):
        turned = RandomTransforms(**{**NONE, "rotation": 45.0})(disc, drawn(k))
        assert (turned - disc).abs().mean() < 0.015


def test_scale_changes_size():
    x = torch.zeros(1, 1, 40, 40)
    x[..., 10:30, 10:30] = 1.0
    transforms = RandomTransforms(**{**NONE, "scale": 0.5})
    areas = [float(transforms(x, drawn(k)).sum()) / 400 for k in range(30)]
    assert max(areas) > 1.8  # 1.5 squared is 2.25; images that shrink are scaled back
    assert min(areas) == pytest.approx(1, abs=0.05)


def test_noise():
    x = torch.zeros(1, 1, 64, 64)
    found = RandomTransforms(**NONE, noise=0.3)(x, drawn())
    assert found.std() == pytest.approx(0.3, rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pad": -1}, "pad must be at least 0, got -1"),
        ({"scale": 1.5}, r"scale must be in \[0.0, 0.9\], got 1.5"),
        ({"rotation": float("nan")}, "rotation must be in"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=f"RandomTransforms: {message}"):
        RandomTransforms(**options)


def test_a_shift_that_leaves_nothing():
    with pytest.raises(ValueError, match=r"jitter must be below half of .*\(8, 8\) pixels, got 4"):
        RandomTransforms(**{**NONE, "jitter": 4})(torch.zeros(1, 1, 8, 8), drawn())
