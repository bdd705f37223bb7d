"""spade-xai study build: a study of one's own network and images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from spade_xai.commands import options as o
from spade_xai.commands.inputs import InputOptions, load_inputs
from spade_xai.commands.output import end, print_json, ready_folder, reporter
from spade_xai.commands.pruning import PruningOptions
from spade_xai.commands.runs import check_outputs, told_file
from spade_xai.commands.signature import flat

STUDY = "Study"
JsPsych = Annotated[
    str,
    typer.Option(
        rich_help_panel=STUDY,
        help="Where jsPsych comes from: npm, a folder with its packages, or cdn (raters' browsers load it).",
    ),
]


@dataclass(frozen=True, kw_only=True)
class StudyOptionsOfCommand:
    """What the study is like; see `StudyOptions`."""

    labels: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=STUDY, show_default="the two most probable classes are used",
            help="CSV file with the name and the right class of each image; misclassified images are used.",
        ),
    ] = None  # fmt: skip
    count: Annotated[
        int, typer.Option("--count", min=2, rich_help_panel=STUDY, help="The most images.")
    ] = 100
    region: Annotated[
        float, typer.Option(rich_help_panel=STUDY, help="Share of the picture in each region.")
    ] = 0.1
    shape: Annotated[
        str,
        typer.Option(
            rich_help_panel=STUDY,
            help="square (where Score-CAM is largest on average) or pixels (of the largest values).",
        ),
    ] = "square"
    cam_layer: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=STUDY, show_default="the last feature maps",
            help="Layer whose maps Score-CAM weighs.",
        ),
    ] = None  # fmt: skip
    neurons: Annotated[
        str,
        typer.Option(
            rich_help_panel=STUDY, help="one of an image's two classes at random, or both."
        ),
    ] = "one"
    steps: Annotated[
        int, typer.Option(min=1, rich_help_panel=STUDY, help="Steps of each visualisation.")
    ] = 512
    parametrization: Annotated[
        str, typer.Option(rich_help_panel=STUDY, help="fourier or maco, as in `visualize`.")
    ] = "fourier"
    pattern_size: Annotated[
        int | None,
        typer.Option(
            min=8, rich_help_panel=STUDY, show_default="as the network's inputs",
            help="Pixels per side of visualisations.",
        ),
    ] = None  # fmt: skip
    tasks: Annotated[
        int | None,
        typer.Option(
            min=2, rich_help_panel=STUDY, show_default="all images, at most 32",
            help="Images per rater, even.",
        ),
    ] = None  # fmt: skip
    repeats: Annotated[
        int | None,
        typer.Option(
            min=0, rich_help_panel=STUDY, show_default="one in ten",
            help="Tasks that a rater gets twice.",
        ),
    ] = None  # fmt: skip
    title: Annotated[str, typer.Option(rich_help_panel=STUDY, help="What raters read first.")] = (
        "Which part of the picture?"
    )
    consent: Annotated[
        Path | None,
        typer.Option(rich_help_panel=STUDY, help="Text file with the consent text of your board."),
    ] = None
    contact: Annotated[
        str | None,
        typer.Option(rich_help_panel=STUDY, help="Whom raters can ask, in the text that ships."),
    ] = None
    jspsych: JsPsych = "npm"


@flat
def build(
    inputs: InputOptions,
    *,
    class_names: o.ClassNames = None,
    study: StudyOptionsOfCommand,
    tracer: o.OneTracer = "SPADE",
    sparsity: o.Sparsity = "last_block:0.99",
    pruning: PruningOptions,
    out: Annotated[
        Path, typer.Option("--out", "-o", rich_help_panel=o.OUTPUT, help="Folder of the study.")
    ] = Path("study"),
    as_json: o.AsJson = False,
    progress: o.Progress = None,
) -> None:
    """Make a study: regions by Score-CAM, visualisations without and with SPADE, tasks, and the pages for raters.

    An interrupted build goes on where it stopped.

    Examples:
      spade-xai study build val/ -m torchvision:resnet50 -w r50.pth --labels val.csv -o study
      spade-xai study build photos/ -m pretrained:efficientnet_lite0 --count 8 --steps 64 -n 64 -o study
    """
    from spade_xai.models.images import ImageError
    from spade_xai.study.build import build_study
    from spade_xai.study.folder import MANIFEST
    from spade_xai.study.labels import read_labels
    from spade_xai.study.options import StudyOptions
    from spade_xai.study.part import Candidate

    given = load_inputs(inputs, class_names)
    given.to(pruning.device)
    reads = [
        *given.paths,
        *(p for p in (inputs.weights, class_names, study.labels, study.consent) if p),
    ]
    check_outputs([out / MANIFEST], reads)
    ready_folder(out)
    labels = None
    if study.labels is not None:
        labels = read_labels(study.labels, [path.name for path in given.paths], given.classes)
    options = StudyOptions(
        title=study.title, count=study.count, region=study.region, shape=study.shape, cam_layer=study.cam_layer,
        neurons=study.neurons, steps=study.steps, parametrization=study.parametrization,
        pattern_size=study.pattern_size, tasks=study.tasks, repeats=study.repeats, seed=pruning.seed,
    )  # fmt: skip

    def read(k: int) -> Candidate | None:
        try:
            picture = given.read(k)
        except ImageError as error:
            if inputs.strict:
                raise
            given.broken.append(str(error))
            return None
        label = None if labels is None else labels[k]
        return Candidate(picture.name, picture.image, picture.x, label)

    text = pruning.sparsity(sparsity)
    arguments = given.trace_arguments({"sparsity": o.parse_sparsity(text), **pruning.arguments()})
    arguments.pop("seed")
    schedule_file = Path(text) if Path(text).is_file() else None
    about = {
        "model": inputs.model, "sparsity": text, "sparsity_file": told_file(schedule_file),
        "augment": pruning.of_images, "images": given.told(),
    }  # fmt: skip
    made = build_study(
        out, given.model, len(given.paths), read, options, preprocessing=given.preprocessing,
        classes=given.classes, tracer=tracer, library=study.jspsych,
        consent=None if study.consent is None else study.consent.read_text("utf-8"),
        contact=study.contact, about=about,
        progress=reporter(progress), report=lambda line: typer.echo(line, err=as_json), **arguments,
    )  # fmt: skip
    if as_json:
        print_json(
            {
                "study": str(out), "id": made.id, "images": len(made.images), "tasks": len(made.tasks),
                "lists": len(made.lists), "left_out": made.left_out,
                "faithful": sum(image.faithful for image in made.images),
            }
        )  # fmt: skip
    else:
        faithful = sum(image.faithful for image in made.images)
        typer.echo(
            f"{out}: {len(made.images)} images ({faithful} with faithful traces), {len(made.tasks)} tasks, "
            f"{len(made.lists[0])} per rater; next: spade-xai study serve {out}"
        )
    end(given)
