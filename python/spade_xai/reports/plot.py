"""A picture and its maps in one line, for notebooks and scripts."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from spade_ext.checks import check_tensor
from spade_xai.reports import heatmap
from spade_xai.reports.explain import Explanation

if TYPE_CHECKING:
    from spade_xai.reports.figure import Picture


def plot(
    image: Tensor | Explanation,
    maps: Tensor | Mapping[str, Tensor] | None = None,
    *,
    opacity: float = heatmap.OPACITY,
    signed: bool | None = None,
    classes: Sequence[str] | None = None,
) -> "Picture":
    """Draw a photograph and maps over it, side by side; or an explanation, as its PNG grid.

    Each map is scaled by the 99th percentile of its magnitudes. Magnitudes are dark at 0 and bright where large; of
    maps with signs, red is for the class and blue against it.

    Args:
        image: [3, H, W] or [1, 3, H, W], or of one channel, in [0, 1]; other ranges are stretched to it. Or what
            `explain` returns for an image.
        maps: A map [H, W] or [1, H, W], or several by title: as `pixel_map` gives them.
        opacity: Of the maps over the photograph, from 0 to 1.
        signed: Whether maps have signs; None: those with negative values.
        classes: Names of the classes, for an explanation.

    Returns:
        A figure of matplotlib. Notebooks show it, and `savefig` writes it.

    Raises:
        ValueError, TypeError: An argument is not as above.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spade_xai import attribute, pixel_map, plot
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
        >>> image = torch.rand(1, 3, 8, 8)
        >>> figure = plot(image, {"saliency": pixel_map(attribute(model, image))})
        >>> figure.savefig("maps.png")
    """
    if isinstance(image, Explanation):
        from spade_xai.reports.grid import grid

        return grid(image, classes=classes)
    shown, drawn = _picture(image), _maps(image, maps)
    if not 0 <= opacity <= 1:
        raise ValueError(f"plot: opacity must be in [0, 1], got {opacity}")
    from spade_xai.reports.figure import figure_of

    figure = figure_of(3.0 * (1 + len(drawn)), 3.3)
    axes = figure.subplots(1, 1 + len(drawn), squeeze=False)[0]
    axes[0].imshow(shown.permute(1, 2, 0).numpy())
    axes[0].set_title("image", fontsize=10)
    for axis, (name, values) in zip(axes[1:], drawn.items(), strict=True):
        signs = bool((values < 0).any()) if signed is None else signed
        axis.imshow(heatmap.overlaid(shown, heatmap.scaled(values), signs, opacity))
        axis.set_title(name, fontsize=10)
    for axis in axes:
        axis.set_axis_off()
    return figure


def _picture(image: Any) -> Tensor:
    """[3, H, W] in [0, 1] on the CPU."""
    check_tensor("plot", "image", image)
    found = image.detach().float().cpu()
    found = found[0] if found.ndim == 4 and len(found) == 1 else found
    if found.ndim != 3 or len(found) not in (1, 3):
        raise ValueError(
            f"plot: image must be [3, H, W], [1, H, W] or a batch of one, got {tuple(image.shape)}"
        )
    low, high = found.min(), found.max()
    if low < 0 or high > 1:
        found = (found - low) / (high - low)
    return found.expand(3, *found.shape[1:])


def _maps(image: Tensor, maps: Any) -> dict[str, Tensor]:
    """[H, W] of each map by title."""
    named = maps if isinstance(maps, Mapping) else {} if maps is None else {"map": maps}
    found: dict[str, Tensor] = {}
    for name, values in named.items():
        check_tensor("plot", f"maps[{name!r}]", values)
        flat = values[0] if values.ndim == 3 and len(values) == 1 else values
        if flat.shape != image.shape[-2:]:
            raise ValueError(
                f"plot: maps[{name!r}] must have the image's shape {tuple(image.shape[-2:])}, "
                f"got {tuple(values.shape)}"
            )
        found[str(name)] = flat
    return found
