"""spade-xai evaluate --shard: many images, a shard at a time, here or on Ray; each shard is a file."""

import enum
import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import typer

from spade_xai.commands.evaluation import Asked, Ready, write_pages
from spade_xai.commands.output import ready_folder
from spade_xai.commands.records import SampleList
from spade_xai.commands.volume import say
from spade_xai.models.images import ImageError
from spade_xai.reports.evaluate import Evaluation
from spade_xai.reports.records import records_of
from spade_xai.shards.engines import here, on_ray
from spade_xai.shards.file import is_shard, read_shard, write_shard, write_table
from spade_xai.shards.rows import rows_of
from spade_xai.shards.totals import Totals

PANEL = "Many images"
GROUPS = "spade_xai.ShardGroups.1"


class Engine(str, enum.Enum):
    """Where shards are computed."""

    HERE = "here"
    RAY = "ray"


@dataclass(frozen=True)
class ShardOptions:
    """How an evaluation is cut, and where it runs."""

    shard: Annotated[
        int | None,
        typer.Option(
            min=1, rich_help_panel=PANEL,
            help="The most images that are done together and become one file of --out. The control of an image is the "
            "trace of another one of its shard.",
        ),
    ] = None  # fmt: skip
    engine: Annotated[
        Engine,
        typer.Option(rich_help_panel=PANEL, help="here: one shard after the other. ray: as tasks of Ray."),
    ] = Engine.HERE  # fmt: skip
    address: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=PANEL, show_default="a cluster of this machine alone",
            help="A running Ray cluster, such as auto. Model, images and --out must be at the same paths on all its "
            "machines.",
        ),
    ] = None  # fmt: skip
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, rich_help_panel=PANEL, show_default="1 with ray, else all cores",
            help="Threads of one shard. Runs of the same number of threads give the same figures to the last bit.",
        ),
    ] = None  # fmt: skip

    def wanted(self, out: Path | None) -> bool:
        """Whether the images are to be cut into shards.

        Raises:
            ModuleNotFoundError: pyarrow, which writes the shards, is not installed.
            ValueError: An option lacks another one.
        """
        if self.shard is None:
            for name, given in (
                ("--engine ray", self.engine is Engine.RAY),
                ("--threads", self.threads),
            ):
                if given:
                    raise ValueError(f"{name} needs --shard, the number of images per shard")
        elif out is None:
            raise ValueError("--shard needs --out, the folder of the shards' files")
        if self.address is not None and self.engine is not Engine.RAY:
            raise ValueError("--address needs --engine ray")
        if self.shard is not None and importlib.util.find_spec("pyarrow") is None:
            raise ModuleNotFoundError("--shard needs pyarrow: pip install 'spade-ext[shards]'")
        return self.shard is not None


@dataclass(frozen=True)
class Maker:
    """Computes shards of an evaluation and writes their files; it loads the model once per process.

    Attributes:
        asked: The evaluation.
        folder: Of the files.
        size: The most images per shard.
        threads: As in `ShardOptions`.
        directory: The working directory of the command, from which its names of files and modules go.
    """

    asked: Asked
    folder: Path
    size: int
    threads: int | None
    directory: Path

    @cached_property
    def ready(self) -> Ready:
        """Model and images, loaded."""
        os.chdir(self.directory)
        if str(self.directory) not in sys.path:
            sys.path.insert(0, str(self.directory))
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        return self.asked.ready()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "ready"}

    def file(self, number: int) -> Path:
        """Of a shard."""
        return self.folder / f"{number:05}.parquet"

    def run(self, number: int) -> str:
        """The key of everything that a shard depends on."""
        given = self.ready.given
        files = [[given.paths[k], *given.masks[k : k + 1]] for k in self._places(number)]
        content = [[str(pair[0]), *map(_digest, pair)] for pair in files]
        return self.ready.files.key(f"shard {number} of {self.size}: {content}", [])

    def __call__(self, number: int) -> None:
        """Compute a shard, unless its file is there."""
        run = self.run(number)
        if is_shard(self.file(number), run):
            return
        given, asked = self.ready.given, self.asked
        usable, skipped = [], {}
        for k in self._places(number):
            try:
                given.read(k)
            except ImageError as error:
                if given.strict:
                    raise
                skipped[given.names[k]] = str(error)
            else:
                usable.append(k)
        found = Evaluation({}, {name: [] for name in asked.tracers})
        answers: list[int] = []
        if usable:
            samples, controlled = SampleList(given, usable), asked.tracers[:1]
            records = records_of(self.ready.scoring(usable[0]), samples, asked.tracers, controlled)
            found.add(records, asked.methods)
            answers = [record["answer"] for record in records["dense"]]
        names = [given.names[k] for k in usable]
        folders = [given.paths[k].parent.name for k in usable]
        write_shard(self.file(number), rows_of(found, names, folders, answers, skipped), run)

    @property
    def count(self) -> int:
        """Of shards."""
        return -(-len(self.ready.given.paths) // self.size)

    def _places(self, number: int) -> range:
        """The images of a shard; all shards have as many, or one more, so that none is left with a single image."""
        images = len(self.ready.given.paths)
        return range(images * number // self.count, images * (number + 1) // self.count)


def evaluate_shards(asked: Asked, out: Path, options: ShardOptions) -> tuple[Ready, dict[str, Any]]:
    """Compute the shards that are missing, then write report.html, scores.json and groups.parquet of all.

    Returns:
        The model and images, and the figures as `tables.record` has them.
    """
    size = cast(int, options.shard)
    threads = options.threads or (1 if options.engine is Engine.RAY else None)
    maker = Maker(asked, (out / "shards").resolve(), size, threads, Path.cwd())
    ready = maker.ready
    numbers = range(maker.count)
    pages = [out / "report.html", out / "scores.json", out / "groups.parquet"]
    ready.files.check([*pages, *map(maker.file, numbers)])
    ready_folder(maker.folder)
    runs = [maker.run(number) for number in numbers]
    missing = [n for n in numbers if not is_shard(maker.file(n), runs[n])]
    say(f"shards of {size} images: {len(numbers)}, of which {len(missing)} are to be made")
    for done, number in enumerate(_made(maker, missing, options), 1):
        say(f"shard {number} is written, {done} of {len(missing)}")
    totals = Totals()
    for number in numbers:
        file = maker.file(number)
        shard = read_shard(file, runs[number])
        if shard is None:
            raise OSError(f"evaluate: {file} or its images were changed while the command ran")
        totals.add(shard)
    ready.given.broken = list(dict.fromkeys([*ready.given.broken, *totals.skipped]))
    record = totals.record()
    if not totals.images:
        raise ImageError(f"no image can be read: {'; '.join(totals.skipped[:3])}")
    key = ready.files.key(f"groups {runs}", [])
    write_table(out / "groups.parquet", totals.by_group(), GROUPS, key)
    write_pages(ready, out, record, {"shards": len(numbers), "images": totals.images})
    return ready, record


def _made(maker: Maker, missing: Sequence[int], options: ShardOptions) -> Iterator[int]:
    if options.engine is Engine.HERE:
        return here(maker, missing)
    gpus = int(str(maker.asked.pruning.device or "").startswith("cuda"))
    cpus = maker.threads or 1
    return on_ray(maker, missing, address=options.address, cpus=cpus, gpus=gpus)


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
