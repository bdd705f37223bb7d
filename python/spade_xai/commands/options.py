"""What the options of commands are called, how they are described, and what their text means."""

import enum
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer

from spade_xai.attribution.methods import METHODS
from spade_xai.choices import misnamed
from spade_xai.commands.volume import OUTPUT as OUTPUT
from spade_xai.tracing import schedule
from spade_xai.tracing.augment import RECIPES, STEPS, ImageAugment
from spade_xai.tracing.pruning.registry import TRACERS, method_of
from spade_xai.tracing.text_augment import OPERATIONS

MODEL, PRUNING = "Model and images", "Pruning"


class Quality(str, enum.Enum):
    """How much work maps are worth."""

    QUICK = "quick"
    PAPER = "paper"


QUICK_COUNT = 256
"""Augmentations of quality "quick"."""


class Precision(str, enum.Enum):
    """The precision of the passes that give a layer its inputs; see `trace`."""

    FLOAT32 = "float32"
    TF32 = "tf32"
    BFLOAT16 = "bfloat16"


def _check_device(name: str | None) -> str | None:
    try:
        kind = torch.device(name or "cpu").type
    except RuntimeError as error:
        raise typer.BadParameter(str(error)) from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter(
            "this machine has no CUDA device, or PyTorch was built without CUDA"
        )
    return name


def _check_tracer(name: str) -> str:
    """The paper's name of a tracer that is given by that name, or by the one that `trace` takes."""
    try:
        return method_of("--tracer", name).title
    except ValueError:
        raise typer.BadParameter(misnamed("tracer", TRACERS, name)) from None


def _check_tracers(names: list[str]) -> list[str]:
    return [_check_tracer(name) for name in names]


def check_methods(names: list[str] | None) -> list[str] | None:
    """Names as METHODS has them; typer calls it."""
    return names and [_check_method(name) for name in names]


def _check_method(name: str) -> str:
    """The name in METHODS of a method that is given in any case, with or without the marks between its words."""
    plain = {method.replace("_", ""): method for method in METHODS}
    found = plain.get(re.sub("[-_ ]", "", name.lower()))
    if found is None:
        raise typer.BadParameter(misnamed("method", METHODS, name))
    return found


Images = Annotated[
    list[str], typer.Argument(help="Image files, folders or globs.", show_default=False)
]
ImagesOrTexts = Annotated[
    list[str] | None,
    typer.Argument(
        help="Image files, folders or globs; or files of texts: .txt, .tsv or .csv.",
        show_default=False,
    ),
]
OptionalImages = Annotated[
    list[str] | None, typer.Argument(help="Image files, folders or globs.", show_default=False)
]
Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", rich_help_panel=MODEL, show_default=False,
        help="pretrained:efficientnet_lite0, torchvision:NAME, timm:NAME, transformers:FOLDER, or "
        "package.module:function.",
    ),
]  # fmt: skip
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights", "-w", rich_help_panel=MODEL,
        help="State dict: a safetensors file, or a torch file (read with weights_only=True).",
    ),
]  # fmt: skip
Pretrained = Annotated[
    bool,
    typer.Option(
        "--pretrained", rich_help_panel=MODEL,
        help="Take the weights that a library downloads for its model; without them and --weights they are random.",
    ),
]  # fmt: skip
Classes = Annotated[
    int | None,
    typer.Option(min=1, rich_help_panel=MODEL, help="The number of outputs of a library's model."),
]
Size = Annotated[
    int | None,
    typer.Option(
        min=1, max=8192, rich_help_panel=MODEL,
        help="Scale images and cut this square, of the share that the model's library says; default: its size, or as "
        "they are.",
    ),
]  # fmt: skip
Normalize = Annotated[
    str,
    typer.Option(
        rich_help_panel=MODEL,
        help="What the model expects of images in [0, 1]: auto (what its library says), none, imagenet, or "
        "MEAN,MEAN,MEAN/STD,STD,STD.",
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict", rich_help_panel=MODEL,
        help="End at the first image that cannot be read; else it is reported and skipped, and the exit code is 3.",
    ),
]  # fmt: skip
ClassNames = Annotated[
    Path | None,
    typer.Option(rich_help_panel=MODEL, help="Text file with the name of one class per line."),
]
Masks = Annotated[
    Path | None,
    typer.Option(
        rich_help_panel=MODEL,
        help="Folder with the ground truth of STEM.png as STEM_mask.png or STEM.png: white where maps should point.",
    ),
]
Tracers = Annotated[
    list[str],
    typer.Option(
        "--tracer", "-t", callback=_check_tracers, rich_help_panel=PRUNING,
        help=f"Pruning method, may be repeated: {', '.join(TRACERS)}.",
    ),
]  # fmt: skip
OneTracer = Annotated[
    str,
    typer.Option(
        "--tracer", "-t", callback=_check_tracer, rich_help_panel=PRUNING,
        help=f"Pruning method: {', '.join(TRACERS)}.",
    ),
]  # fmt: skip
Sparsity = Annotated[
    str | None,
    typer.Option(
        "--sparsity", "-s", rich_help_panel=PRUNING, show_default="faithful, or as --quality says",
        help="faithful (as sparse as the answer is kept), a ratio, uniform:RATIO, linear:LAST, last_block:RATIO, "
        "last_blocks:COUNT:RATIO (and the head), paper:NAME (what the paper states), or a JSON or TOML file of "
        "patterns and ratios.",
    ),
]  # fmt: skip
Augment = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=PRUNING,
        show_default="resnet; eda for the texts of explain and evaluate",
        help=f"{', '.join(RECIPES)}, none, or steps joined by commas, of {', '.join(STEPS)}. For texts: "
        f"eda, none, or steps of {', '.join(OPERATIONS)}.",
    ),
]
Augmentations = Annotated[
    int | None,
    typer.Option(
        "--augmentations", "-n", min=1, rich_help_panel=PRUNING,
        show_default=f"{QUICK_COUNT}, or as --quality says",
        help="The number of random variants of each image: more are slower and less noisy.",
    ),
]  # fmt: skip
QualityOption = Annotated[
    Quality,
    typer.Option(
        "--quality", rich_help_panel=PRUNING,
        help=f"quick: {QUICK_COUNT} variants, two saliency methods. paper: 1024 variants (the paper's exact SPADE "
        "took 10240: -n 10240), all methods of a few passes, sparsity linear:0.99. Options that are given hold.",
    ),
]  # fmt: skip
Layers = Annotated[
    list[str] | None,
    typer.Option(
        "--layers", "-l", rich_help_panel=PRUNING, show_default="all",
        help="Dotted glob or re:PATTERN of layers to prune, such as layer4; may be repeated.",
    ),
]  # fmt: skip
Depthwise = Annotated[
    bool,
    typer.Option("--depthwise", rich_help_panel=PRUNING, help="Prune depthwise convolutions too."),
]
Damp = Annotated[
    float,
    typer.Option(
        min=0, rich_help_panel=PRUNING, help="Damping, relative to the mean diagonal of a Hessian."
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1, rich_help_panel=PRUNING, show_default="64; on a CPU fewer large ones",
        help="The number of augmentations in one pass of the network.",
    ),
]  # fmt: skip
Seed = Annotated[int, typer.Option(rich_help_panel=PRUNING, help="The seed of all random draws.")]
MaxMemory = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=PRUNING, show_default="half of what is free",
        help="Memory for Hessians and pruning, such as 2GB. Layers that do not fit take another pass.",
    ),
]  # fmt: skip
Device = Annotated[
    str | None,
    typer.Option(
        callback=_check_device, rich_help_panel=PRUNING, show_default="cpu",
        help="Where to run and prune the network and to compute its maps, such as cuda.",
    ),
]  # fmt: skip
ForwardPrecision = Annotated[
    Precision,
    typer.Option(rich_help_panel=PRUNING, help="The precision of the passes through the network."),
]
Maps = Annotated[
    list[str] | None,
    typer.Option(
        "--method", "-a", callback=check_methods, show_default="saliency and grad_cam, or as --quality says",
        help=f"Saliency method, may be repeated: {', '.join(METHODS)}.",
    ),
]  # fmt: skip
ZBox = Annotated[
    bool,
    typer.Option(
        "--z-box",
        help="Use LRP's z-box rule, with the least and greatest value of an image, in the layers that read the image.",
    ),
]
AsJson = Annotated[
    bool,
    typer.Option("--json", rich_help_panel=OUTPUT, help="Print JSON and nothing else to stdout."),
]
Progress = Annotated[
    bool | None,
    typer.Option(
        rich_help_panel=OUTPUT,
        show_default="bars on a terminal, else lines",
        help="Show bars on stderr; with --no-progress neither bars nor lines.",
    ),
]


def parse_sparsity(text: str) -> schedule.Sparsity:
    """A ratio, a schedule, "faithful", "paper:NAME", or the path of a file."""
    name, _, value = text.partition(":")
    named: dict[str, Callable[[float], schedule.Schedule]] = {
        "uniform": schedule.uniform,
        "linear": schedule.linear,
        "last_block": schedule.last_block,
    }
    if text == schedule.FAITHFUL or text.startswith(schedule.PAPER):
        return text
    if name in named:
        return named[name](_ratio(value or "0.99", text))
    if name == "last_blocks":
        count, _, ratio = value.partition(":")
        if not count.isdecimal():
            raise _refused(text)
        return schedule.last_blocks(int(count), _ratio(ratio or "0.99", text))
    if Path(text).suffix in (".json", ".toml"):
        return Path(text)
    return _ratio(text, text)


def _ratio(value: str, text: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise _refused(text) from None


def _refused(text: str) -> ValueError:
    return ValueError(
        "--sparsity must be faithful, a ratio, uniform:RATIO, linear:LAST, last_block:RATIO, "
        f"last_blocks:COUNT:RATIO, paper:NAME or a JSON or TOML file, got {text!r}"
    )


def parse_augment(text: str) -> str | ImageAugment | None:
    """A recipe's name, steps, or None."""
    if text == "none":
        return None
    return text if text in RECIPES else ImageAugment(text.split(","))


def parse_numbers(option: str, text: str) -> list[float]:
    """Numbers joined by commas."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} must be numbers joined by commas, got {text!r}") from None
