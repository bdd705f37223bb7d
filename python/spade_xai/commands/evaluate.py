"""spade-xai evaluate: how good maps are before and after pruning, over many images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from spade_ext.files import read_json, write_json
from spade_xai.commands import options as o
from spade_xai.commands.inputs import InputOptions, Inputs, load_inputs
from spade_xai.commands.output import (
    end,
    finite,
    print_inputs,
    print_json,
    ready_folder,
    reporter,
)
from spade_xai.commands.pruning import PruningOptions
from spade_xai.commands.runs import RunFiles
from spade_xai.commands.signature import flat
from spade_xai.commands.volume import say
from spade_xai.models.inputs import device_of
from spade_xai.reports import tables
from spade_xai.reports.evaluate import Evaluation, records_of
from spade_xai.reports.explain import DENSE
from spade_xai.reports.page import write_page
from spade_xai.reports.report import html
from spade_xai.reports.scores import Sample, Scoring, Work

_FORMAT = "spade_xai.Scores.2"


@flat
def evaluate(
    inputs: InputOptions,
    *,
    masks: o.Masks = None,
    methods: o.Maps = None,
    z_box: o.ZBox = False,
    tracers: o.Tracers = ["SPADE", "FastSPADE"],  # noqa: B006
    sparsity: o.Sparsity = None,
    pruning: PruningOptions,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            rich_help_panel=o.OUTPUT,
            help="Folder for report.html, scores.json and the scores of each image.",
        ),
    ] = None,
    as_json: o.AsJson = False,
    progress: o.Progress = None,
) -> None:
    """Score saliency maps of the dense model and of its traces, with standard errors and paired differences.

    With --masks maps are scored by AUROC and the pointing game, without masks by insertion and deletion, for the
    class that the dense model answers. The trace of another image, an edge detector and random maps are scored as
    controls. With --out, what an earlier run of the same command finished is kept.

    Examples:
      spade-xai evaluate photos/ -m torchvision:resnet50 -w r50.pth -t FastSPADE
      spade-xai evaluate 'trojan/*.png' --masks trojan -m mypackage.nets:make
    """
    methods, sparsity = pruning.methods(methods), pruning.sparsity(sparsity)
    given = load_inputs(inputs, masks=masks)
    given.to(pruning.device)
    names = list(tracers)
    bars = reporter(progress)
    arguments = given.trace_arguments(
        {"sparsity": o.parse_sparsity(sparsity), **pruning.arguments()}
    )
    seed = arguments.pop("seed")
    scoring = Scoring(given.model, methods, seed, z_box, bars, arguments)
    usable = given.usable()
    store = None
    if out is not None:
        settings = {"command": "evaluate", "methods": list(methods), "z_box": z_box}
        files = RunFiles(given, pruning, sparsity, settings, [inputs.weights])
        stems = [given.stems[k] for k in usable]
        store = _Scores(out / "samples", stems, files)
        pages = [out / "report.html", out / "scores.json"]
        files.check(
            [*pages, *(store.path(p, k) for p in ("dense", *names) for k in range(len(stems)))]
        )
        ready_folder(out / "samples")

    def part_begins(part: str) -> None:
        say(f"{'maps of the whole network' if part == DENSE else part}: {len(usable)} images")

    records = records_of(scoring, _Samples(given, usable), names, names[:1], store, part_begins)
    found = Evaluation({}, {name: [] for name in names})
    found.add(records, methods)
    record = tables.record(found)
    shown = tables.tables(record)
    if out is not None:
        write_page(out / "report.html", html([], title=f"SPADE: {inputs.model}", tables=shown))
        about = {"preprocessing": given.told(), "images": [given.names[k] for k in usable]}
        write_json(out / "scores.json", "spade_xai.Evaluation.1", finite({**about, **record}))
    if as_json:
        print_json({"preprocessing": given.told(), **record})
    else:
        print_inputs(given)
        for table in shown:
            typer.echo(tables.text(table) + "\n")
    end(given)


class _Samples(Sequence[Sample]):
    """The images that can be read, each read when it is asked for."""

    def __init__(self, given: Inputs, usable: Sequence[int]) -> None:
        self.given, self.usable = given, usable

    def __len__(self) -> int:
        return len(self.usable)

    def __getitem__(self, k: Any) -> Any:
        picture = self.given.read(self.usable[k])
        return Sample(picture.x.to(device_of(self.given.model)), picture.mask)


class _Scores:
    """A file for each sample and part of the evaluation; those of the same run are kept."""

    def __init__(self, folder: Path, stems: Sequence[str], files: RunFiles) -> None:
        self.folder, self.stems, self.files = folder, stems, files

    def path(self, part: str, place: int) -> Path:
        """Of the record of a part of a sample."""
        return self.folder / f"{self.stems[place]}.{part}.json"

    def known(self, part: str, work: Work) -> dict[str, Any] | None:
        """The record, if it is there and of the same run."""
        try:
            saved = read_json("evaluate", self.path(part, work.place), _FORMAT)
        except (FileNotFoundError, ValueError):  # missing, damaged or of another kind
            return None
        return saved["record"] if saved.get("run") == self._key(part, work) else None

    def keep(self, part: str, work: Work, record: dict[str, Any]) -> None:
        """Write the record."""
        value = {"run": self._key(part, work), "record": record}
        write_json(self.path(part, work.place), _FORMAT, value)

    def _key(self, part: str, work: Work) -> str:
        samples = [work.sample, *work.following]
        tensors = [tensor for sample in samples for tensor in sample]
        place = work.place if part == "dense" else ""  # of the draws of noise
        return self.files.key(f"{part} {place}", tensors)
