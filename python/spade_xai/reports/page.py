"""Pages: templates that share one style, pictures inside of them, and files that are whole."""

import base64
import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from spade_ext.files import write_bytes
from spade_xai.reports import heatmap
from spade_xai.reports.answers import share

PAGE_FORMAT = "spade_xai.Page.1"


def render(template: str, **values: Any) -> str:
    """A page from a template of this folder."""
    return _environment().get_template(template).render(**values)


def _environment() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("spade_xai", "reports"), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    found.filters.update(share=share, sumof=lambda seconds: sum(seconds.values()))
    found.globals.update(
        magnitudes=", ".join(heatmap.stops(False)), signs=", ".join(heatmap.stops(True)),
        opacity=round(100 * heatmap.OPACITY), percentile=round(heatmap.PERCENTILE),
    )  # fmt: skip
    return found


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write to a temporary name in path's folder, then rename: path never holds half a file."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(target, data)


def write_page(path: str | Path, page: str) -> None:
    """Write an HTML page, whole or not at all, with its format and a digest in its second line."""
    first, _, rest = page.partition("\n")
    digest = hashlib.blake2b(page.encode(), digest_size=16).hexdigest()
    write_atomically(path, f"{first}\n<!-- {PAGE_FORMAT} {digest} -->\n{rest}".encode())


def photograph(image: Tensor, most: int | None = None) -> str:
    """A picture [3, H, W] in [0, 1] as the source of an <img>, at most so many pixels a side."""
    pixels = (image.detach().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(pixels)
    if most is not None:
        picture.thumbnail((most, most))
    return _source("jpeg", lambda file: picture.save(file, "jpeg", quality=90))


def heat(values: Tensor, signed: bool) -> str:
    """A scaled map [H, W] as the source of an <img>."""
    picture = Image.fromarray(heatmap.levels(values, signed), "P")
    picture.putpalette(heatmap.palette(signed))
    return _source("png", lambda file: picture.save(file, "png", optimize=True))


def outline(mask: Tensor) -> str:
    """The rim of a mask bool [H, W], white beside black, the rest transparent, as the source of an <img>."""
    inside = mask.cpu().numpy()
    white, black = _grown(inside) & ~inside, _grown(_grown(inside)) & ~_grown(inside)
    pixels = np.zeros((*inside.shape, 4), np.uint8)
    pixels[white], pixels[black] = 255, (0, 0, 0, 255)
    return _source("png", lambda file: Image.fromarray(pixels).save(file, "png", optimize=True))


def _grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask and its neighbours."""
    padded = np.pad(mask, 1)
    height, width = mask.shape
    parts = [padded[r : r + height, c : c + width] for r in range(3) for c in range(3)]
    return np.asarray(np.logical_or.reduce(parts))


def _source(kind: str, save: Callable[[io.BytesIO], object]) -> str:
    buffer = io.BytesIO()
    save(buffer)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()
