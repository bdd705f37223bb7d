"""A page of groups of pictures that the same connections decide."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from spade_xai.features.reasons import Reasons
from spade_xai.reports.answers import class_name
from spade_xai.reports.figure import embedded, figure_of
from spade_xai.reports.page import photograph, render

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
    groups = []
    for number in range(int(found.groups.max()) + 1):
        members = (found.groups == number).nonzero().flatten().tolist()
        answers = [class_name(classes, int(found.answers[k])) for k in members]
        shown = [
            {
                "source": photograph(pictures[k], THUMBNAIL),
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
    return render(
        "reasons.html", tracer=tracer, groups=groups, within=_percent(found.within()),
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


def _percent(share: float) -> str:
    return "none" if share != share else f"{100 * share:.0f} %"
