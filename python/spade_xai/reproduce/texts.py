"""Table 9: DFFOT and DFMIT of maps of texts, a row per data set, by the code of `evaluate`."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spade_xai.commands import options as o
from spade_xai.commands.evaluate_texts import accuracy, accuracy_told, text_scoring
from spade_xai.commands.inputs import InputOptions
from spade_xai.commands.pruning import PruningOptions
from spade_xai.commands.records import RecordFiles, record_key
from spade_xai.commands.runs import RunFiles
from spade_xai.commands.text_options import Synonyms, TextFormat, TextOptions
from spade_xai.commands.texts import TextInputs, load_texts, text_methods
from spade_xai.exceptions import UnfaithfulTraceWarning
from spade_xai.measures import metrics
from spade_xai.reports.evaluate import Evaluation
from spade_xai.reports.explain import DENSE
from spade_xai.reports.records import Records, records_of
from spade_xai.reports.tables import LOWER, OTHER, Table, of_texts
from spade_xai.reproduce.records import KnownRecords
from spade_xai.reproduce.result import (
    beside,
    controls,
    differences,
    faithful_table,
    of_table,
    row_of,
)
from spade_xai.reproduce.run import MAGNITUDE
from spade_xai.reproduce.sparsity import column_sparsity
from spade_xai.reproduce.subject import Settings
from spade_xai.reproduce.table import Column, PublishedTable


@dataclass(frozen=True)
class TextSet:
    """A data set of texts and the model that classifies them.

    Attributes:
        name: As the table has it.
        option: What names its file on the command line.
        format: Of the file.
        file: The file; None: not given.
        model: As in `load_model`; None: not given.
    """

    name: str
    option: str
    format: TextFormat
    file: Path | None
    model: str | None

    @property
    def missing(self) -> str | None:
        """Why the set is left out; None if nothing is missing."""
        for option, given in ((self.option, self.file), (f"{self.option}-model", self.model)):
            if given is None:
                return f"it needs {option}"
        return None


@dataclass(frozen=True)
class TextTable:
    """A table of texts.

    Attributes:
        table: What to run.
        settings: How.
        limit: The most texts of each set; None: all.
        synonyms: Where synonyms come from.
        pretrained: As in `load_model`.
        say: Called with a line as each step begins.
    """

    table: PublishedTable
    settings: Settings
    limit: int | None
    synonyms: Synonyms
    pretrained: bool
    say: Callable[[str], object]

    def run(self, sets: Sequence[TextSet]) -> tuple[dict[str, Any], list[Table]]:
        """The result as JSON takes it, and its tables.

        Raises:
            ValueError: No set is given.
        """
        left_out = {one.name: one.missing for one in sets if one.missing is not None}
        if len(left_out) == len(sets):
            needs = " or ".join(f"{one.option} with {one.option}-model" for one in sets)
            raise ValueError(f"reproduce: Table {self.table.name} is made of texts: give {needs}")
        result: dict[str, Any] = {
            **of_table(self.table), "network": "", "rows": [], "own_minus_other_image": [], "faithful": {},
            "accuracy": {}, "left_out": left_out,
            "notes": [f"Left out: {name}: {why}." for name, why in left_out.items()],
        }  # fmt: skip
        networks = []
        for one in sets:
            if one.missing is None:
                networks.append(f"{one.name}: {one.model}")
                self._add(result, one)
        result["network"] = "; ".join(networks)
        shown = _tables(self.table, result)
        for key in ("rows", "own_minus_other_image"):
            result[key] = of_texts(result[key])
        result["own_minus_other_text"] = result.pop("own_minus_other_image")
        return result, shown

    def _add(self, result: dict[str, Any], one: TextSet) -> None:
        """Add the rows of a data set to the result."""
        methods = text_methods(self.settings.methods)
        options = TextOptions(one.format, self.limit, synonyms=self.synonyms)
        inputs = InputOptions([str(one.file)], str(one.model), pretrained=self.pretrained)
        given = load_texts(inputs, options, self._pruning(self.table.columns[0]))
        records = self._records(one, given, methods)
        columns = [name for name in records if name not in (DENSE, MAGNITUDE.name)]
        found = Evaluation({}, {name: [] for name in columns})
        found.add(records, methods)
        for name in columns:
            flags = [f.faithful for f in found.fidelity[name]]
            faithful = {"yes": sum(flags), "of": len(flags)}
            result["faithful"][f"{one.name}, {name}"] = faithful
        known = accuracy(given, records)
        result["accuracy"][one.name] = known
        told = [*given.notes(), *accuracy_told(known)]
        result["notes"] += [f"{one.name}: {line}." for line in told]
        for metric in self.table.metrics:
            for method in methods:
                row = one.name if len(methods) == 1 else f"{one.name}, {method}"
                for column in found.columns(metric):
                    mean = found.mean(metric, method, column)
                    gain = found.gain(metric, method, column)
                    made = row_of(self.table, metric, row, column, mean, gain)
                    result["rows"].append(made)
                    if column.endswith(OTHER):
                        own = found.values(metric, method, column.removesuffix(OTHER))
                        paired = metrics.paired(own, found.values(metric, method, column))
                        result["own_minus_other_image"].append(
                            {
                                "metric": metric, "row": row, "column": column.removesuffix(OTHER),
                                "difference": 100 * paired.mean, "n": paired.n,
                                "difference_standard_error": 100 * paired.standard_error,
                            }
                        )  # fmt: skip

    def _records(self, one: TextSet, given: TextInputs, methods: list[str]) -> Records:
        """Of the dense model and of each column; how many traces are not faithful is counted and not warned about."""
        samples = [encoded.tokens for encoded in given.encoded]
        settings = self.settings

        def made(column: Column | None, dense: Sequence[dict[str, Any]]) -> Records:
            name = DENSE if column is None else column.name
            what = "maps of the whole network" if column is None else name
            self.say(f"{one.name}, {what}: {len(samples)} texts")
            pruning = PruningOptions() if column is None else self._pruning(column)
            sparsity = None if column is None else self._sparsity(column)
            arguments = {}
            if sparsity is not None:
                arguments = given.trace_arguments(pruning, column_sparsity(sparsity))
            told = {"reproduce": self.table.name, "methods": methods, "seed": settings.seed}
            files = RunFiles(given, pruning, sparsity or "none", told, [])
            store = self._store(one, name, given, files, dense)
            scoring = text_scoring(
                given, methods, "pad", settings.seed, settings.progress, arguments
            )
            tracers = [] if column is None or column.tracer is None else [column.tracer]
            controlled = tracers if column is not None and column.controlled else []
            return records_of(scoring, samples, tracers, controlled, store)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnfaithfulTraceWarning)
            records: Records = {DENSE: made(None, [])[DENSE]}
            for column in self._columns():
                found = made(column, records[DENSE])
                records[column.name] = found[str(column.tracer)]
        return records

    def _columns(self) -> list[Column]:
        """Those of the table, and magnitude pruning to the sparsity of the first."""
        first = self.table.columns[0]
        like = {"sparsity": first.sparsity, "augment": first.augment}
        return [*self.table.columns, Column(**{**asdict(MAGNITUDE), **like})]

    def _sparsity(self, column: Column) -> str:
        return self.settings.sparsity or column.sparsity

    def _pruning(self, column: Column) -> PruningOptions:
        """The options of pruning of a column."""
        trace = dict(self.settings.trace or {})
        precision = o.Precision(trace.pop("forward_precision", "float32"))
        count = self.settings.augmentations or column.augmentations
        return PruningOptions(
            augment=column.augment, augmentations=count, seed=self.settings.seed,
            forward_precision=precision, **trace,
        )  # fmt: skip

    def _store(
        self,
        one: TextSet,
        part: str,
        given: TextInputs,
        files: RunFiles,
        dense: Sequence[dict[str, Any]],
    ) -> KnownRecords:
        slug = one.option.removeprefix("--")
        base = self.settings.out / "samples" / f"{slug}-{part.lower()}"
        base.mkdir(parents=True, exist_ok=True)
        names = given.names

        def path(_: str, place: int) -> Path:
            return base / f"{names[place]}.json"

        files.check(path(part, place) for place in range(len(names)))
        return KnownRecords(RecordFiles(path, record_key(files)), dense)


def _tables(table: PublishedTable, result: Mapping[str, Any]) -> list[Table]:
    found: list[Table] = []
    columns = ["Dense", *(column.name for column in table.columns)]
    counts = {r["row"]: r["n"] for r in result["rows"]}
    numbered = ", ".join(f"{n} of {row}" for row, n in counts.items())
    for metric in table.metrics:
        rows = [r for r in result["rows"] if r["metric"] == metric]
        better = "lower" if metric in LOWER else "higher"
        what = f"{metric.upper()} ({better} is better), percent, texts: {numbered}"
        found += [
            beside(f"{what}: ours, and the paper's", rows, columns, "data set"),
            differences(what, rows, columns[1:], result, metric, "data set"),
            controls(what, rows, "data set"),
        ]
    shown: list[Table] = of_texts([*found, faithful_table(result)])
    return shown
