"""Figures of matplotlib for files, pages and notebooks."""

import base64
import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PICTURE_FORMAT = "spade_xai.Picture.1"

BAD = "#b3261e"
"""The colour of what is not faithful and of what was left out."""


class Picture(Figure):
    """A figure that a notebook shows by itself; pyplot's global state is not touched."""

    def _repr_png_(self) -> bytes:
        return png(self)


def png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as a PNG file, the same bytes for the same figure."""
    buffer = io.BytesIO()
    metadata = {"Software": None, "Source": PICTURE_FORMAT}
    figure.savefig(buffer, format="png", dpi=dpi, metadata=metadata)
    return buffer.getvalue()


def figure_of(width: float, height: float) -> Picture:
    """A figure with a canvas of its own."""
    figure = Picture(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def embedded(figure: Figure) -> str:
    """The figure as the source of an <img>."""
    return "data:image/png;base64," + base64.b64encode(png(figure)).decode()
