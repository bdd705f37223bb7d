"""What `spade-xai evaluate` is asked for, and the model and images that are loaded for it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spade_ext.files import write_json
from spade_xai.commands import options as o
from spade_xai.commands.inputs import InputOptions, Inputs, load_inputs
from spade_xai.commands.output import finite
from spade_xai.commands.pruning import PruningOptions
from spade_xai.commands.runs import RunFiles
from spade_xai.progress import Progress
from spade_xai.reports import tables
from spade_xai.reports.page import write_page
from spade_xai.reports.report import html
from spade_xai.reports.scores import Scoring


@dataclass(frozen=True)
class Asked:
    """An evaluation as the command line describes it: text and numbers alone.

    Attributes:
        inputs: Model and images.
        masks: Folder of the masks; None: none.
        methods: Names of the saliency methods.
        z_box: As in `explain.image_map`.
        tracers: Names of the tracers; the first is also tried as pruned for another image.
        sparsity: Text of the option.
        pruning: How to prune.
    """

    inputs: InputOptions
    masks: Path | None
    methods: list[str]
    z_box: bool
    tracers: list[str]
    sparsity: str
    pruning: PruningOptions

    def ready(self) -> "Ready":
        """Load the model and find the images.

        Raises:
            ImageError, ModelError, ValueError: As `load_inputs`.
        """
        given = load_inputs(self.inputs, masks=self.masks)
        given.to(self.pruning.device)
        settings = {"command": "evaluate", "methods": self.methods, "z_box": self.z_box}
        files = RunFiles(given, self.pruning, self.sparsity, settings, [self.inputs.weights])
        return Ready(self, given, files)


@dataclass
class Ready:
    """An evaluation whose model is loaded.

    Attributes:
        asked: What it is.
        given: Model and images.
        files: The files of the run.
    """

    asked: Asked
    given: Inputs
    files: RunFiles

    def scoring(self, first: int = 0, progress: Progress = False) -> Scoring:
        """How maps are made and scored.

        Args:
            first: The place of the first sample among all images, for the draws of noise.
            progress: As in `evaluate`.
        """
        asked = self.asked
        sparsity = o.parse_sparsity(asked.sparsity)
        arguments = {"sparsity": sparsity, **asked.pruning.arguments()}
        options = self.given.trace_arguments(arguments)
        seed = options.pop("seed")
        return Scoring(self.given.model, asked.methods, seed, asked.z_box, progress, options, first)


def write_pages(ready: Ready, out: Path, record: dict[str, Any], about: dict[str, Any]) -> None:
    """Write report.html and scores.json, of figures as `tables.record` has them and what they are about."""
    title = f"SPADE: {ready.asked.inputs.model}"
    write_page(out / "report.html", html([], title=title, tables=tables.tables(record)))
    about = {"preprocessing": ready.given.told(), **about}
    write_json(out / "scores.json", "spade_xai.Evaluation.1", finite({**about, **record}))
