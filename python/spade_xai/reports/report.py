"""The report of explanations: one HTML file with everything inside, which grows picture by picture."""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from spade_xai.reports.card import card
from spade_xai.reports.explain import Explanation
from spade_xai.reports.page import render, write_page

SHARE_OF_TIME = 0.05
"""Of a run's time, at most, that goes into writing its report again and again."""


def html(
    explanations: Iterable[Explanation],
    *,
    title: str = "SPADE",
    classes: Sequence[str] | None = None,
    masks: Mapping[str, Tensor] | None = None,
    tables: Sequence[Mapping[str, Any]] = (),
    notes: Sequence[str] = (),
    figures: Iterable[str] = (),
) -> str:
    """A page that needs no other file and no network.

    Args:
        explanations: Shown one after the other.
        title: The title of the page.
        classes: Names of the model's classes.
        masks: Ground truth of images, by name.
        tables: Shown below them, each {"title", "head": [...], "rows": [[...], ...]}.
        notes: Sentences below the tables.
        figures: Sources of pictures above the tables, as `embedded` gives them.
    """
    cards = [card(e, classes, (masks or {}).get(e.name)) for e in explanations]
    return render(
        "report.html", title=title, cards=cards, tables=tables, notes=notes, figures=list(figures)
    )


class GrowingReport:
    """A report that is written whole after each explanation, so that it can be read while the others are made.

    Where writing takes more than a twentieth of the time since the last one, it waits for a later explanation.

    Args:
        path: The file.
        title: The title of the page.
        classes: Names of the model's classes.
        count: How many explanations there will be.
        notes: Sentences at the end.
        template: Of the page.
        what: What is explained, in the plural.
    """

    def __init__(
        self,
        path: Path,
        title: str,
        classes: Sequence[str] | None,
        count: int,
        notes: Sequence[str] = (),
        template: str = "report.html",
        what: str = "images",
    ) -> None:
        self.path, self.title, self.classes, self.count = path, title, classes, count
        self.template, self.what = template, what
        self._notes = list(notes)
        self._cards: list[dict[str, Any]] = []
        self._written, self._took = 0.0, 0.0

    def add(self, explanation: Explanation, mask: Tensor | None = None) -> None:
        """Add an explanation, and write the page if there was time enough."""
        self.add_card(card(explanation, self.classes, mask))

    def add_card(self, made: dict[str, Any]) -> None:
        """Add a card as the template takes it, and write the page if there was time enough."""
        self._cards.append(made)
        if time.perf_counter() - self._written >= self._took / SHARE_OF_TIME:
            so_far = f"{len(self._cards)} of {self.count} {self.what} so far"
            self._write(f"{so_far}: load this page again.")

    def close(self) -> None:
        """Write the page of all explanations."""
        self._write()

    def _write(self, note: str | None = None) -> None:
        start = time.perf_counter()
        notes = self._notes if note is None else [*self._notes, note]
        page = render(
            self.template, title=self.title, cards=self._cards, tables=(), notes=notes, figures=()
        )
        write_page(self.path, page)
        self._written = time.perf_counter()
        self._took = self._written - start
