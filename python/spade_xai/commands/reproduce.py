"""spade-xai reproduce: a table of the paper on a backdoored network, beside the published figures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from matplotlib.figure import Figure

from spade_ext.files import write_json
from spade_xai.commands import options as o
from spade_xai.commands.inputs import InputOptions, load_inputs
from spade_xai.commands.output import finite, print_json, ready_folder, reporter
from spade_xai.commands.runs import check_outputs
from spade_xai.commands.signature import flat
from spade_xai.commands.text_options import Synonyms, SynonymsOption, TextFormat
from spade_xai.commands.volume import say
from spade_xai.reports.figure import embedded
from spade_xai.reports.page import write_page
from spade_xai.reports.report import html
from spade_xai.reports.tables import Table, text
from spade_xai.reproduce.accuracies import accuracies
from spade_xai.reproduce.figures import FigureRun
from spade_xai.reproduce.labels import check_kind, run_by_label
from spade_xai.reproduce.result import result_of, sentences, tables_of
from spade_xai.reproduce.selection import Pool
from spade_xai.reproduce.subject import Settings, Subject
from spade_xai.reproduce.table import PublishedTable, load_table, names
from spade_xai.reproduce.texts import TextSet, TextTable
from spade_xai.reproduce.tuned import KINDS as TUNED
from spade_xai.reproduce.tuned import tuned_figure
from spade_xai.reproduce.visualizations import visualizations
from spade_xai.trojans.bundled import TITLES, unpack
from spade_xai.trojans.class_folder import class_folder
from spade_xai.trojans.planted import Planted, read_planted

FORMAT = "spade_xai.Reproduced.1"

_FIGURE = {"--planted", "--limit", "--augmentations", "--sparsity"}
_TAKES: dict[str, set[str]] = {
    "scores": {*_FIGURE, "--method", "--tuned", "--checkpoint", "--pool"},
    "accuracies": {"--planted"},
    "similarity": _FIGURE,
    "agreement": _FIGURE,
    "visualizations": {"--planted", "--augmentations", "--sparsity", "--pool"},
    "texts": {
        "--limit", "--augmentations", "--method", "--sparsity", "--sst2", "--sst2-model", "--ag-news",
        "--ag-news-model",
    },
    **{kind: {"--tuned"} for kind in TUNED},
}  # fmt: skip
"""The options that tables of a kind take; others are refused."""
PANEL = "Texts of Table 9"


@dataclass(frozen=True)
class TextSets:
    """The texts of Table 9, and the models that classify them."""

    sst2: Annotated[
        Path | None,
        typer.Option("--sst2", rich_help_panel=PANEL, help="SST-2 as GLUE has it, such as dev.tsv."),
    ] = None  # fmt: skip
    sst2_model: Annotated[
        str | None,
        typer.Option("--sst2-model", rich_help_panel=PANEL, help="Its classifier: transformers:FOLDER."),
    ] = None  # fmt: skip
    ag_news: Annotated[
        Path | None, typer.Option("--ag-news", rich_help_panel=PANEL, help="AG News, such as test.csv.")
    ] = None  # fmt: skip
    ag_news_model: Annotated[
        str | None,
        typer.Option("--ag-news-model", rich_help_panel=PANEL, help="Its classifier: transformers:FOLDER."),
    ] = None  # fmt: skip
    pretrained: o.Pretrained = False
    synonyms: SynonymsOption = Synonyms.AUTO

    def sets(self) -> list[TextSet]:
        """The rows of the table."""
        return [
            TextSet("SST-2", "--sst2", TextFormat.SST2, self.sst2, self.sst2_model),
            TextSet("AG News", "--ag-news", TextFormat.AG_NEWS, self.ag_news, self.ag_news_model),
        ]


@flat
def reproduce(
    table: Annotated[
        str | None,
        typer.Argument(help="The number of a table, such as 2; without it the tables are listed."),
    ] = None,
    *,
    planted: Annotated[
        str,
        typer.Option(
            help="Folder that `spade-xai plant` wrote; or a bundled network, which is not the paper's: toy or lite0."
        ),
    ] = "toy",
    limit: Annotated[
        int | None,
        typer.Option(
            min=2,
            show_default="as in the paper",
            help="The number of pictures, or of texts per set.",
        ),
    ] = None,
    augmentations: Annotated[
        int | None,
        typer.Option(
            "--augmentations",
            "-n",
            min=1,
            show_default="as in the paper",
            rich_help_panel=o.PRUNING,
            help="The number of random variants of each picture.",
        ),
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            "-a",
            callback=o.check_methods,
            show_default="as in the paper",
            help="Saliency method, may be repeated.",
        ),
    ] = None,
    sparsity: Annotated[
        str | None,
        typer.Option(
            "--sparsity",
            "-s",
            rich_help_panel=o.PRUNING,
            show_default="as docs/reproduce.md says",
            help="As of `spade-xai evaluate`, for all columns that are not about a sparsity.",
        ),
    ] = None,
    tuned: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=o.PRUNING,
            help="Folder with files of `spade-xai tune` as COLUMN/METHOD.json, such as fastspade/lrp.json. Columns "
            "without a folder stay as they are.",
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Weights of a network that was trained sparse, for Table 6."),
    ] = None,
    pool: Annotated[
        Path | None,
        typer.Option(
            show_default="the clean pictures of --planted",
            help="Folder with a folder of pictures per class: for Sparse FC, and for the columns of Table 18.",
        ),
    ] = None,
    texts: TextSets,
    layers: o.Layers = None,
    seed: o.Seed = 0,
    batch_size: o.BatchSize = None,
    max_memory: o.MaxMemory = None,
    device: o.Device = None,
    forward_precision: o.ForwardPrecision = o.Precision.FLOAT32,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            rich_help_panel=o.OUTPUT,
            show_default="spade-table-TABLE",
            help="Folder for report.html, result.json and the scores of each picture.",
        ),
    ] = None,
    as_json: o.AsJson = False,
    progress: o.Progress = None,
) -> None:
    """Make a table of the paper on a backdoored network, beside the published figures.

    What an earlier run of the same command finished is kept. Without --planted a small bundled network serves, which
    is not the paper's: its figures show that the command works, and no more.

    Examples:
      spade-xai reproduce
      spade-xai reproduce 2 --limit 8 -n 64
      spade-xai reproduce 2 --planted planted/ --limit 100
      spade-xai reproduce 2 --planted planted/ --tuned tuned/ --pool imagenet/train
      spade-xai reproduce 9 --sst2 dev.tsv --sst2-model transformers:bert-sst2/
    """
    if table is None:
        for name in names():
            typer.echo(f"{name:>4}  {load_table(name).title}")
        return
    wanted = load_table(table)
    asked = {
        "--planted": planted != "toy", "--limit": limit, "--augmentations": augmentations,
        "--method": methods, "--sparsity": sparsity, "--tuned": tuned, "--checkpoint": checkpoint,
        "--pool": pool, "--sst2": texts.sst2, "--sst2-model": texts.sst2_model,
        "--ag-news": texts.ag_news, "--ag-news-model": texts.ag_news_model,
    }  # fmt: skip
    for option, value in asked.items():
        if value and option not in _TAKES[wanted.kind]:
            raise ValueError(f"reproduce: {option} has no effect on {wanted.title}")
    folder = out or Path(f"spade-table-{wanted.name}")
    check_outputs([folder / "report.html", folder / "result.json"], [])
    ready_folder(folder)
    drawn: list[Figure] = []
    if wanted.kind in TUNED:
        result, shown, drawn = tuned_figure(wanted, tuned)
    elif wanted.kind == "accuracies":
        result, shown = accuracies(wanted, _planted(planted, folder)[0])
    else:
        settings = Settings(
            folder, list(methods or wanted.methods), augmentations, sparsity, tuned, checkpoint, seed,
            {
                "layers": layers or None, "batch_size": batch_size, "max_memory": max_memory, "device": device,
                "forward_precision": forward_precision.value,
            },
            reporter(progress),
        )  # fmt: skip
        if wanted.kind == "texts":
            made = TextTable(wanted, settings, limit, texts.synonyms, texts.pretrained, say)
            result, shown = made.run(texts.sets())
        else:
            result, shown, drawn = _of_pictures(wanted, settings, planted, limit, pool)
    lines = sentences(result)
    page = html([], title=wanted.title, tables=shown, notes=lines, figures=map(embedded, drawn))
    write_page(folder / "report.html", page)
    write_json(folder / "result.json", FORMAT, finite(result))
    if as_json:
        print_json(result)
        return
    for found in shown:
        typer.echo(text(found) + "\n")
    for line in lines:
        typer.echo(line)


def _of_pictures(
    wanted: PublishedTable, settings: Settings, planted: str, limit: int | None, pool: Path | None
) -> tuple[dict[str, Any], list[Table], list[Figure]]:
    """The result of a table of pictures, its tables and its figures."""
    network, place = _planted(planted, settings.out)
    check_kind(wanted, network)
    subject = _subject(wanted, network, place, limit, pool)
    subject.given.to((settings.trace or {}).get("device"))
    if wanted.kind == "scores":
        subject, made = run_by_label(wanted, subject, settings, say)
        result = result_of(wanted, subject, made)
        return result, tables_of(result, wanted), []
    if wanted.kind == "visualizations":
        return visualizations(wanted, subject, settings, say)
    return *FigureRun(wanted, subject, settings, say).run(), []


def _planted(given: str, out: Path) -> tuple[Planted, Path]:
    """The index of a folder, or of a bundled network's pictures, and where it is."""
    if given in TITLES and not Path(given).exists():
        place = out / given
        return unpack(given, place), place
    return read_planted(Path(given)), Path(given)


def _subject(
    table: PublishedTable, planted: Planted, folder: Path, limit: int | None, pool: Path | None
) -> Subject:
    known = planted.trojan if table.pictures == "trojan" else planted.clean
    count = limit or table.count or len(known)
    pictures = known[:count]
    if len(pictures) < 2:
        raise ValueError(
            f"reproduce: {folder} must hold two {table.pictures} pictures, got {len(known)}"
        )
    if len(pictures) < count:
        say(f"{len(pictures)} pictures, as {folder} holds no more; asked for were {count}")
    paths = [str(folder / picture.file) for picture in pictures]
    weights = None if planted.weights is None else folder / planted.weights
    options = InputOptions(
        paths, planted.model, weights, False, planted.classes, planted.size, planted.normalize, True
    )
    masks = folder / "trojan" if table.pictures == "trojan" else None
    given = load_inputs(options, masks=masks, several=planted.labels is not None)
    if pool is None:
        files = [folder / p.file for p in planted.clean]
        labels: list[int | None] = [p.label for p in planted.clean]
    else:
        found = class_folder(pool)
        files, labels = found.files, [n for n in found.labels if isinstance(n, int)]
    return Subject(planted, folder, given, pictures, Pool(files, labels, given.preprocessing))
