"""A page of groups of pictures that the same connections decide."""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from importlib import resources

import jinja2
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from spade_xai.features.reasons import Reasons
from spade_xai.reports.explain import class_name
from spade_xai.reports.report import embedded, figure_of

THUMBNAIL = 136  # pixels


def reasons_page(
    found: Reasons,
    pictures: Sequence[Tensor],
    names: Sequence[str],
    *,
    tracer: str,
    classes: Sequence[str] | None = None,
) -> str:
    """A page that needs no other file and no network.

    Args:
        found: What `reasons` gave.
        pictures: [3, H, W] in [0, 1].
        names: The names of the pictures.
        tracer: How the traces were made.
        classes: Names of the model's classes.
    """
    source = resources.files("spade_xai.reports").joinpath("reasons.html").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    groups = []
    for number in range(int(found.groups.max()) + 1):
        members = (found.groups == number).nonzero().flatten().tolist()
        answers = [class_name(classes, int(found.answers[k])) for k in members]
        shown = [
            {
                "source": _thumbnail(pictures[k]),
                "name": names[k],
                "answer": answer,
                "faithful": bool(found.faithful[k]),
            }
            for k, answer in zip(members, answers, strict=True)
        ]
        common = [
            f"{name} ({count})" if count > 1 else name
            for name, count in Counter(answers).most_common(4)
        ]
        groups.append({"pictures": shown, "answers": common})
    return environment.from_string(source).render(
        tracer=tracer, groups=groups, within=_percent(found.within()),
        across=_percent(found.across()), matrix=embedded(matrix_figure(found)),
    )  # fmt: skip


def matrix_figure(found: Reasons) -> Figure:
    """Kept answers of all pairs, pictures in the order of their groups, with lines between groups."""
    order = found.groups.argsort(stable=True)
    figure = figure_of(4.5, 4.5)
    axis = figure.subplots()
    axis.imshow(found.kept[order][:, order].numpy(), cmap="gray", vmin=0, vmax=1)
    for end in np.cumsum(np.bincount(found.groups.numpy()))[:-1]:
        axis.axhline(end - 0.5, color="red", linewidth=1)
        axis.axvline(end - 0.5, color="red", linewidth=1)
    axis.set_xlabel("run on")
    axis.set_ylabel("connections of")
    axis.set_xticks([])
    axis.set_yticks([])
    return figure


def _thumbnail(picture: Tensor) -> str:
    pixels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _percent(share: float) -> str:
    return "none" if share != share else f"{100 * share:.0f} %"
