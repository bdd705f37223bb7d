"""Tables of the paper: one TOML file each, with settings and published figures."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REFUSED = {
    "1": "Table 1 holds run times: `python -m benchmarks latency` of a source checkout measures them",
    "4": "Table 4 needs people: see `spade-xai study`",
    "11": "Table 11 holds the backdoors of ImageNet: `spade-xai plant imagenet` plants them",
    "12": "Table 12 holds the label vectors of CelebA: `spade-xai plant celeba` plants them",
    "13": "Table 13 holds the backdoors of Food-101: `spade-xai plant food101` plants them",
    "14": "Table 14 holds the parameters of the augmentations, which are the defaults of --augment",
    "15": "Table 15 holds settings of training: `spade-xai plant` takes them",
}
"""Tables that no command reproduces, and why."""

SELECTIONS = ("1ST", "1SC", "1SD", "MST", "MSC", "MSD")
"""Whose images a sample's network is pruned for (the paper's Table 18)."""


class LeftOut(ValueError):
    """A column that cannot be made of what there is; the message says why."""


@dataclass(frozen=True)
class Column:
    """One column beside the dense network's.

    Attributes:
        name: As in the paper.
        tracer: A name in TRACERS; None: no trace.
        sparsity: As text of --sparsity, "block:PLACE:RATIO" or "head:RATIO".
        elsewhere: The sparsity on other networks than the table's; None: the same.
        augment: As text of --augment.
        augmentations: How many.
        sequential: Prune layer after layer.
        controlled: Whether the trace of another image is a control.
        fixed: Whether the sparsity is what the column is about, so that nothing replaces it.
        tuned: Whether the column needs sparsities that were tuned.
        selection: A name in SELECTIONS; None: the sample itself.
        files: Another column whose tuned sparsities it has; None: its own.
        network: "sparse_fc" or "checkpoint" for a network that is the same for all samples; None: a trace.
    """

    name: str
    tracer: str | None = None
    sparsity: str = "paper:linear"
    elsewhere: str | None = None
    augment: str = "resnet"
    augmentations: int = 1024
    sequential: bool = False
    controlled: bool = False
    fixed: bool = False
    tuned: bool = False
    selection: str | None = None
    files: str | None = None
    network: str | None = None

    @property
    def slug(self) -> str:
        """The name as files take it."""
        plain = self.name.lower().replace("*", " star").replace("+", " ")
        return "_".join("".join(c if c.isalnum() else " " for c in plain).split())


@dataclass(frozen=True)
class Published:
    """Published figures of a metric, in percent.

    Attributes:
        columns: Names of columns, "Dense" among them.
        rows: Method, backdoor or "average" -> a figure for each column.
    """

    columns: tuple[str, ...]
    rows: Mapping[str, tuple[float, ...]]

    def figure(self, row: str, column: str) -> float | None:
        """The figure of a row and column, if it was published."""
        if row not in self.rows or column not in self.columns:
            return None
        return self.rows[row][self.columns.index(column)]


@dataclass(frozen=True)
class PublishedTable:
    """A table of the paper.

    Attributes:
        name: Its number, or a name such as "b2" (appendix B), "5celeba" (a half) and "h6" (a figure).
        title: What it shows.
        source: Where it stands.
        model: The paper's network, as `load_model` takes it.
        data: The data set.
        pictures: "trojan" or "clean".
        count: Samples in the paper.
        metrics: Metrics that are shown.
        methods: Saliency methods.
        columns: Beside "Dense".
        published: Metric -> figures.
        by_backdoor: Whether the rows are backdoors instead of methods.
        kind: "scores" of maps, "texts" for scores of maps of texts, "accuracies" of the network itself, "similarity" of
            gradients, "agreement" of masks, "visualizations" of classes, or what tuned sparsities show: "ratios" and
            "ratios by method" of layers, and "tuning", the scores.
        copies: Noisy copies of a picture, for "similarity".
        steps: Steps of a visualisation.
        differs: Sentences on what differs from the paper.
    """

    name: str
    title: str
    source: str
    model: str
    data: str
    pictures: str = "trojan"
    count: int = 0
    metrics: tuple[str, ...] = ("auroc",)
    methods: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    published: Mapping[str, Published] = field(default_factory=dict)
    by_backdoor: bool = False
    kind: str = "scores"
    copies: int = 100
    steps: int = 512
    differs: tuple[str, ...] = ()


def names() -> list[str]:
    """The names of the tables that can be reproduced, numbers first."""
    files = resources.files("spade_xai.reproduce").joinpath("tables").iterdir()
    found = [file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")]
    numbers = {name: name[: len(name) - len(name.lstrip("0123456789"))] for name in found}
    return sorted(found, key=lambda name: (not numbers[name], int(numbers[name] or 0), name))


def load_table(name: str) -> PublishedTable:
    """The table of a name such as "2", "table2" or "b2".

    Raises:
        ValueError: There is none, or nothing reproduces it yet; the message says why.
    """
    plain = name.lower().replace("table", "").replace("figure", "").replace(".", "").strip(" -_")
    if plain in REFUSED:
        raise ValueError(f"reproduce: {REFUSED[plain]}")
    if plain not in names():
        raise ValueError(f"reproduce: TABLE must be one of {', '.join(names())}, got {name!r}")
    file = resources.files("spade_xai.reproduce").joinpath("tables", f"{plain}.toml")
    given: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    published = {}
    for metric, figures in given.pop("published", {}).items():
        columns = tuple(figures.pop("columns"))
        published[metric] = Published(columns, {k: tuple(v) for k, v in figures.items()})
    columns = tuple(Column(**column) for column in given.pop("columns", ()))
    given |= {k: tuple(given[k]) for k in ("metrics", "methods", "differs") if k in given}
    return PublishedTable(name=plain, columns=columns, published=published, **given)
