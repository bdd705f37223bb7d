"""Figures I.7 and K.11: how alike gradients under noise are, and how alike the masks of two pictures' traces."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spade_ext.files import read_json, write_json
from spade_xai.commands.options import parse_augment
from spade_xai.commands.runs import check_outputs
from spade_xai.measures import metrics
from spade_xai.measures.stability import gradient_noise_similarity
from spade_xai.models.copies import find_module
from spade_xai.reports.tables import Table
from spade_xai.reproduce.result import described
from spade_xai.reproduce.sparsity import column_sparsity
from spade_xai.reproduce.subject import Settings, Subject, identity, told_options
from spade_xai.reproduce.table import Column, LeftOut, PublishedTable
from spade_xai.tracing.file import describe
from spade_xai.tracing.result import Trace
from spade_xai.tracing.trace import trace
from spade_xai.trojans.trojan import predictions
from spade_xai.tuning.identity import digest_of_text

_FORMAT = "spade_xai.FigureRecord.1"
AVERAGE = "average"


class FigureRun:
    """A figure on a network.

    Args:
        table: What to run.
        subject: The network and its pictures.
        settings: How.
        say: Called with a line as each step begins.
    """

    def __init__(
        self,
        table: PublishedTable,
        subject: Subject,
        settings: Settings,
        say: Callable[[str], object],
    ) -> None:
        self.table, self.subject, self.settings, self.say = table, subject, settings, say
        self._model = identity(subject)

    def run(self) -> tuple[dict[str, Any], list[Table]]:
        """The result as JSON takes it, and its table."""
        return self._similarity() if self.table.kind == "similarity" else self._agreement()

    def _similarity(self) -> tuple[dict[str, Any], list[Table]]:
        names = ["Dense", *(column.name for column in self.table.columns)]
        values: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        count = len(self.subject.pictures)
        for k in range(count):
            self.say(f"picture {k + 1} of {count}")
            x = self.subject.given.read(k).x
            found = self._kept(f"{k:05d}", [x], self._similarities)
            for name in names:
                values[name].append(found[name])
        return self._result(values, {}, "pictures")

    def _similarities(self, x: torch.Tensor) -> dict[str, dict[str, float]]:
        """Of each column: similarity of the gradients at the input and at each layer, for the dense model's answer."""
        model = self.subject.given.model
        label = int(predictions(model, x))
        traces = {column.name: self._trace(column, x) for column in self.table.columns}
        pruned = [layer.name for layer in next(iter(traces.values())).layers if not layer.reason]
        layers = [name for name in pruned if isinstance(find_module(model, name), nn.Module)]

        def of(network: nn.Module) -> dict[str, float]:
            return gradient_noise_similarity(
                network, x, label, layers=layers, copies=self.table.copies, seed=self.settings.seed
            )

        return {"Dense": of(model), **{name: of(found.model) for name, found in traces.items()}}

    def _agreement(self) -> tuple[dict[str, Any], list[Table]]:
        values: dict[str, list[dict[str, float]]] = {}
        left_out: dict[str, str] = {}
        for kind in ("random pictures", "same patch", "same patch and class"):
            try:
                pairs = self._pairs(kind)
            except LeftOut as error:
                left_out[kind] = str(error)
                continue
            values[kind] = []
            for k, pair in enumerate(pairs):
                self.say(f"{kind}: pair {k + 1} of {len(pairs)}")
                inputs = [self._read(file) for file in pair]
                part = f"{kind.replace(' ', '_')}-{k:05d}"
                values[kind].append(self._kept(part, inputs, self._agreements))
        return self._result(values, left_out, "pairs")

    def _agreements(self, a: torch.Tensor, b: torch.Tensor) -> dict[str, float]:
        """Of the masks of the traces of two pictures, by layer."""
        (column,) = self.table.columns
        return self._trace(column, a).agreement(self._trace(column, b))

    def _pairs(self, kind: str) -> list[tuple[str, str]]:
        """Files of two pictures each, no picture in two pairs of a kind."""
        planted, most = self.subject.planted, len(self.subject.pictures)
        groups: dict[Any, list[str]] = {}
        if kind == "random pictures":
            groups[None] = [picture.file for picture in planted.clean]
        else:
            for picture in planted.trojan:
                if kind == "same patch":
                    groups.setdefault(picture.backdoor, []).append(picture.file)
                elif picture.label is not None:
                    groups.setdefault((picture.backdoor, picture.label), []).append(picture.file)
        pairs = [
            (a, b)
            for group in groups.values()
            for a, b in zip(group[::2], group[1::2], strict=False)
        ]
        if len(pairs) < 2:
            raise LeftOut(f"it needs two pairs of pictures at least, got {len(pairs)}")
        generator = torch.Generator().manual_seed(self.settings.seed)
        return [pairs[k] for k in torch.randperm(len(pairs), generator=generator).tolist()[:most]]

    def _read(self, file: str) -> torch.Tensor:
        pool, folder = self.subject.pool, self.subject.folder
        from_pool = type(pool)([folder / file], [None], pool.preprocessing)
        return pool.preprocessing.normalize(from_pool.image(0)[None])

    def _trace(self, column: Column, x: torch.Tensor) -> Trace:
        assert column.tracer is not None
        settings = self.settings
        options = self.subject.given.trace_arguments(
            {
                **(settings.trace or {}),
                "sparsity": column_sparsity(self._sparsity(column)),
                "augment": parse_augment(column.augment),
                "augmentations": settings.augmentations or column.augmentations,
            }
        )
        return trace(
            self.subject.given.model, x, method=column.tracer, seed=settings.seed, progress=settings.progress,
            **options,
        )  # fmt: skip

    def _sparsity(self, column: Column) -> str:
        return column.sparsity if column.fixed else self.settings.sparsity or column.sparsity

    def _kept(
        self, part: str, inputs: Sequence[torch.Tensor], make: Callable[..., Mapping[str, Any]]
    ) -> dict[str, Any]:
        """The record of a part, from its file if an earlier run of the same command wrote it."""
        settings = self.settings
        told = [
            self.table.name, self._model, settings.augmentations, settings.sparsity, settings.seed,
            told_options(settings), self.table.copies, [describe(x) for x in inputs],
        ]  # fmt: skip
        key = digest_of_text(json.dumps(told, sort_keys=True, default=str))
        file = Path(settings.out) / "samples" / f"{part}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        check_outputs([file], [])
        try:
            known = read_json("reproduce", file, _FORMAT)
        except (FileNotFoundError, ValueError):  # missing or damaged
            known = {}
        if known.get("run") != key:
            known = {"run": key, "record": dict(make(*inputs))}
            write_json(file, _FORMAT, known)
        found: dict[str, Any] = known["record"]
        return found

    def _result(
        self,
        values: Mapping[str, Sequence[Mapping[str, float]]],
        left_out: Mapping[str, str],
        unit: str,
    ) -> tuple[dict[str, Any], list[Table]]:
        """Mean, standard error and deviation of each layer and column, in percent."""
        if not values:
            raise ValueError(
                f"reproduce: nothing of the figure can be made: {'; '.join(left_out.values())}"
            )
        figures = self.table.published.get(self.table.kind)
        rows = []
        first = next(iter(values.values()))[0]
        for row in (AVERAGE, *first):
            for column, records in values.items():
                own = [sum(r.values()) / len(r) if row == AVERAGE else r[row] for r in records]
                found = metrics.mean(own)
                published = None if figures is None else figures.figure(row, column)
                rows.append(
                    {
                        "metric": self.table.kind, "row": row, "column": column, "n": found.n,
                        "mean": 100 * found.mean, "standard_error": 100 * found.standard_error,
                        "deviation": 100 * found.standard_error * math.sqrt(found.n), "published": published,
                    }
                )  # fmt: skip
        result = {
            **described(self.table, self.subject.planted),
            "pictures": len(self.subject.pictures),
            "rows": rows,
            "left_out": dict(left_out),
            "sparsity": {c.name: {AVERAGE: self._sparsity(c)} for c in self.table.columns},
        }
        return result, [_table(self.table, rows, list(values), unit)]


def _table(
    table: PublishedTable, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], unit: str
) -> Table:
    of = {(r["row"], r["column"]): r for r in rows}
    published = any(r["published"] is not None for r in rows)
    head = ["layer"]
    for column in columns:
        head += [column, "deviation", *(["paper"] if published else [])]
    cells = []
    for name in dict.fromkeys(r["row"] for r in rows):
        line = [name]
        for column in columns:
            row = of[name, column]
            line += [f"{row['mean']:.2f} ± {row['standard_error']:.2f}", f"{row['deviation']:.2f}"]
            if published:
                line.append("" if row["published"] is None else f"{row['published']:.2f}")
        cells.append(line)
    counts = ", ".join(f"{of[AVERAGE, c]['n']} of {c}" for c in columns)
    return {
        "title": f"{table.title}, percent",
        "head": head,
        "rows": cells,
        "note": f"± is one standard error over {unit} ({counts}); deviation is their standard deviation.",
    }
