"""A picture and its maps in one line."""

import pytest
import torch

from spade_xai import plot
from spade_xai.reports import heatmap


def test_plot_draws_the_image_and_each_map():
    image, maps = torch.rand(1, 3, 6, 8), {"a": torch.rand(1, 6, 8), "b": torch.randn(6, 8)}
    figure = plot(image, maps, opacity=0.5)
    assert [axis.get_title() for axis in figure.axes] == ["image", "a", "b"]
    for axis, (values, signed) in zip(
        figure.axes[1:], [(maps["a"][0], False), (maps["b"], True)], strict=True
    ):
        expected = heatmap.overlaid(image[0], heatmap.scaled(values), signed, 0.5)
        assert (axis.get_images()[0].get_array() == expected).all()
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert len(plot(torch.randn(1, 6, 8)).axes) == 1  # gray, stretched


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([[1.0]],), TypeError, "plot: image must be a torch.Tensor, got list"),
        ((torch.rand(2, 3, 4, 4),), ValueError, "image must be .* a batch of one, got"),
        (
            (torch.rand(3, 4, 4), torch.rand(5, 4)),
            ValueError,
            "maps.'map'. must have the image's shape",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        plot(*arguments)
    with pytest.raises(ValueError, match=r"opacity must be in \[0, 1\], got 2"):
        plot(torch.rand(3, 4, 4), opacity=2)
