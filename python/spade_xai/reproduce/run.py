"""Running a table: its columns one after the other, by the code of `evaluate`."""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from spade_xai.commands import options as o
from spade_xai.commands.records import RecordFiles, SampleList, tensors_of
from spade_xai.commands.runs import check_outputs, told_file
from spade_xai.exceptions import UnfaithfulTraceWarning
from spade_xai.reports.evaluate import Evaluation
from spade_xai.reports.explain import DENSE
from spade_xai.reports.records import Store, records_of
from spade_xai.reports.scores import Scoring, Work
from spade_xai.reproduce.networks import checkpoint_network, sparse_fc_network
from spade_xai.reproduce.records import KnownRecords, Ordered, merged
from spade_xai.reproduce.selection import Selection
from spade_xai.reproduce.sparsity import column_sparsity
from spade_xai.reproduce.subject import Made, Settings, Subject, identity, told_options
from spade_xai.reproduce.table import Column, LeftOut, PublishedTable
from spade_xai.tracing.file import describe, fingerprint
from spade_xai.tuning.identity import digest_of_text

MAGNITUDE = Column("Magnitude", "Magnitude", augmentations=32)
"""A control of every table with traces; the inputs of layers only tell its loss."""


class TableRun:
    """A table on a network.

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
        self.samples = SampleList(subject.given, range(len(subject.pictures)))
        self._model = identity(subject)
        self._dense: list[dict[str, Any]] = []

    def run(self) -> Made:
        """Make every column that can be made; how many traces are not faithful is counted instead of warned about."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnfaithfulTraceWarning)
            return self._run()

    def _run(self) -> Made:
        table, methods = self.table, list(self.settings.methods)
        self.say(f"maps of the whole network: {len(self.samples)} pictures")
        store = self._store("dense", {}, self._stems())
        self._dense = records_of(self._scoring(methods, {}), self.samples, [], [], store)[DENSE]
        records: dict[str, list[dict[str, Any]]] = {DENSE: self._dense}
        made = Made(Evaluation({}, {}), {}, {}, {}, self._answered(), [])
        for column in self._columns():
            self.say(f"{column.name}: {len(self.samples)} pictures")
            try:
                records[column.name] = self._column(column, made)
            except LeftOut as error:
                made.left_out[column.name] = str(error)
        made.evaluation.add(records, methods)
        if unknown := [name for name in table.metrics if name not in made.evaluation.scores]:
            raise ValueError(
                f"reproduce: {table.name}.toml must name metrics of its pictures, got {unknown}"
            )
        return made

    def _columns(self) -> list[Column]:
        """Those of the table, and magnitude pruning to the sparsity of the first that can be traced."""
        found = list(self.table.columns)
        for column in found:
            if column.tracer is not None and column.selection is None and not self._waits(column):
                like = {
                    k: getattr(column, k) for k in ("sparsity", "elsewhere", "fixed", "augment")
                }
                return [*found, Column(**{**asdict(MAGNITUDE), **like, "files": column.slug})]
        return found

    def _waits(self, column: Column) -> bool:
        """Whether the column needs tuned sparsities that are not there."""
        tuned = self.settings.tuned
        return column.tuned and (tuned is None or not (tuned / column.slug).is_dir())

    def _column(self, column: Column, made: Made) -> list[dict[str, Any]]:
        if column.network is not None or column.selection is not None:
            return self._of_networks(column, made)
        assert column.tracer is not None
        parts, flags = [], []
        made.sparsity[column.name] = {}
        for k, (methods, text) in enumerate(self._groups(column)):
            options = {**self._trace_options(column, text), "sequential": column.sequential}
            scoring = self._scoring(methods, options)
            about = {**asdict(column), "sparsity": text, "file": _content(text), "methods": methods}
            about |= self._counted(column)
            store = self._store(f"{column.slug}-{k}", about, self._stems())
            controls = [column.tracer] if column.controlled else []
            found = records_of(scoring, self.samples, [column.tracer], controls, store)
            parts.append(found[column.tracer])
            flags += [_faithful(record) for record in found[column.tracer]]
            made.sparsity[column.name].update(dict.fromkeys(methods, text))
        if column.tracer != MAGNITUDE.tracer:
            made.faithful[column.name] = flags
        return [merged(records) for records in zip(*parts, strict=True)]

    def _of_networks(self, column: Column, made: Made) -> list[dict[str, Any]]:
        """Of a column whose networks are not traces of the samples."""
        methods, count = list(self.settings.methods), len(self.samples)
        order = list(range(count))
        about: dict[str, Any] = {**asdict(column), "methods": methods}
        network_of: Callable[[int], nn.Module]
        if column.selection is None:
            network = self._network(column, made)
            about["network"] = digest_of_text(json.dumps(fingerprint(network), sort_keys=True))

            def network_of(place: int) -> nn.Module:
                return network

        else:
            selection = self._selection(column, made)
            order = selection.order()
            about |= {
                "pool": selection.told(),
                "choices": [str(selection.choice(k)) for k in order],
            }
            about |= self._counted(column)
            about["sparsity"] = [s := made.sparsity[column.name][methods[0]], _content(s)]

            def network_of(place: int) -> nn.Module:
                return selection(order[place])

        stems = self._stems()
        scoring = self._scoring(methods, {})
        store = self._store(column.slug, about, [stems[k] for k in order], order)
        samples = Ordered(self.samples, order)
        networks = {column.slug: network_of}
        found = records_of(scoring, samples, [], [], store, networks=networks)[column.slug]
        return [found[order.index(k)] for k in range(count)]

    def _network(self, column: Column, made: Made) -> nn.Module:
        subject = self.subject
        if column.network == "checkpoint":
            network, note = checkpoint_network(
                subject.planted, subject.given.model, self.settings.checkpoint, self.samples
            )
        else:
            network, note = sparse_fc_network(
                subject.given.model, subject.pool, self.settings.seed, self.settings.out,
                self.settings.progress,
            )  # fmt: skip
        made.notes.append(f"{column.name}: {note}")
        return network

    def _selection(self, column: Column, made: Made) -> Selection:
        assert column.tracer is not None and column.selection is not None
        ((methods, text),) = self._groups(column, one=True)
        made.sparsity[column.name] = dict.fromkeys(methods, text)
        options = self._trace_options(column, text)
        subject = self.subject
        return Selection(
            column.selection, subject.given.model, lambda k: self.samples[k].x, subject.pictures,
            subject.planted, subject.folder, subject.pool,
            {
                **options, "method": column.tracer, "seed": self.settings.seed,
                "progress": self.settings.progress,
            },
        )  # fmt: skip

    def _scoring(self, methods: Sequence[str], options: Mapping[str, Any]) -> Scoring:
        settings = self.settings
        z_box = True  # of LRP, as the released code has it
        return Scoring(
            self.subject.given.model, methods, settings.seed, z_box, settings.progress, options
        )

    def _groups(self, column: Column, one: bool = False) -> list[tuple[list[str], str]]:
        """Methods that share a sparsity, and its text; `one`: all of them must."""
        settings, methods = self.settings, list(self.settings.methods)
        folder = None if settings.tuned is None else settings.tuned / (column.files or column.slug)
        if folder is not None and folder.is_dir() and not column.fixed:
            groups = _tuned_groups(folder, methods)
            if one and len(groups) > 1:
                raise LeftOut(
                    "one network serves all methods, so --tuned must give them one sparsity"
                )
            return groups
        if column.tuned:
            raise LeftOut(
                f"its sparsities must be tuned: give them by --tuned, in a folder {column.slug}"
            )
        text = column.sparsity
        if column.elsewhere is not None and self.subject.planted.model != self.table.model:
            text = column.elsewhere
        if settings.sparsity is not None and not column.fixed:
            text = settings.sparsity
        return [(methods, text)]

    def _trace_options(self, column: Column, text: str) -> dict[str, Any]:
        return self.subject.given.trace_arguments(
            {
                **(self.settings.trace or {}),
                "sparsity": column_sparsity(text),
                "augment": o.parse_augment(column.augment),
                "augmentations": self._count(column),
            }
        )

    def _counted(self, column: Column) -> dict[str, Any]:
        """What replaces settings of the column, for the names of its records."""
        return {"augmentations": self._count(column), **told_options(self.settings)}

    def _count(self, column: Column) -> int:
        return self.settings.augmentations or column.augmentations

    def _stems(self) -> list[str]:
        return self.subject.given.stems

    def _answered(self) -> list[bool | None]:
        targets = {b["name"]: b["target"] for b in self.subject.planted.backdoors}
        return [
            None if picture.backdoor is None else record["answer"] == targets[picture.backdoor]
            for picture, record in zip(self.subject.pictures, self._dense, strict=True)
        ]

    def _store(
        self, folder: str, about: Mapping[str, Any], stems: Sequence[str], order: Sequence[int] = ()
    ) -> Store:
        """Records of one column; the dense network's are those that are made already."""
        base = self.settings.out / "samples" / folder
        base.mkdir(parents=True, exist_ok=True)
        seed, methods = self.settings.seed, list(self.settings.methods)
        told = [self._model, seed, about or methods, folder]
        settings = json.dumps(told, sort_keys=True, default=str)

        def path(part: str, place: int) -> Path:
            return base / f"{stems[place]}.json"

        check_outputs((path("", place) for place in range(len(stems))), [])

        def key(part: str, work: Work) -> str:
            content = [None if t is None else describe(t) for t in tensors_of(work)]
            place = work.place if part == DENSE else ""  # of the draws of noise
            return digest_of_text(json.dumps([settings, place, content]))

        dense = [self._dense[k] for k in order] if order else self._dense
        return KnownRecords(RecordFiles(path, key), dense)


def _tuned_groups(folder: Path, methods: Sequence[str]) -> list[tuple[list[str], str]]:
    """Methods whose files are equal, and the path of one of them."""
    files: dict[str, list[str]] = {}
    for method in methods:
        file = folder / f"{method}.json"
        if not file.is_file():
            raise ValueError(f"reproduce: --tuned must hold {file}, got no such file")
        files.setdefault(file.read_text(encoding="utf-8"), []).append(method)
    return [(group, str(folder / f"{group[0]}.json")) for group in files.values()]


def _content(text: str) -> str | None:
    """Of the file that a sparsity names."""
    return told_file(Path(text)) if Path(text).suffix in (".json", ".toml") else None


def _faithful(record: Mapping[str, Any]) -> bool:
    verdict = record["fidelity"].get("verdict")
    return verdict is None or bool(verdict["faithful"])
