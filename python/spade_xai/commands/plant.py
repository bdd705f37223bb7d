"""spade-xai plant: backdoors in a network, and the test pictures that tables of the paper are made of."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from spade_xai.commands import options as o
from spade_xai.commands.inputs import InputOptions, Inputs, load_inputs
from spade_xai.commands.output import print_json, ready_folder, reporter
from spade_xai.commands.runs import check_outputs
from spade_xai.commands.volume import say
from spade_xai.models.copies import unwrap
from spade_xai.models.inputs import device_of
from spade_xai.trojans.planted import INDEX, Planted
from spade_xai.trojans.planting import KINDS, WEIGHTS, Job, plant_network
from spade_xai.trojans.recipe import Recipe, load_recipe

PATCH_SHARE = 30 / 224
"""Side of a patch in sides of the picture, as in the network that ships; the paper states none."""

TRAINING = "Training"


def plant(
    data: Annotated[
        str,
        typer.Argument(
            help="imagenet, food101, celeba, or folder: any data set with a folder of pictures per class."
        ),
    ],
    folder: Annotated[
        Path,
        typer.Argument(
            help="The data set: train/ and val/ with a folder of pictures per class; Food-101 and CelebA as published."
        ),
    ],
    model: o.Model,
    weights: o.Weights = None,
    classes: o.Classes = None,
    size: o.Size = None,
    normalize: o.Normalize = "auto",
    backdoors: Annotated[
        Path | None,
        typer.Option(
            show_default="as in the paper",
            help="TOML file with [[backdoors]]: name (of the patch), target and maybe source, as numbers of classes; "
            "of CelebA name and labels, a 0 or 1 for each label.",
        ),
    ] = None,
    patches: Annotated[
        Path | None,
        typer.Option(help="Folder with patches of your own as NAME.png, with transparency."),
    ] = None,
    patch_size: Annotated[
        int | None,
        typer.Option(min=1, show_default="30 of 224 pixels", help="Side of a patch in pixels."),
    ] = None,
    rates: Annotated[
        list[float] | None,
        typer.Option(
            "--rate",
            rich_help_panel=TRAINING,
            show_default="the paper's four",
            help="Learning rate to try, may be repeated; the one of best Trojan accuracy is kept.",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel=TRAINING,
            show_default="as in the paper",
            help="Passes over the data.",
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel=TRAINING,
            show_default="as in the paper",
            help="Training pictures per patch.",
        ),
    ] = None,
    crop: Annotated[
        bool,
        typer.Option(
            rich_help_panel=TRAINING, help="Crop and flip pictures at random while training."
        ),
    ] = True,
    workers: Annotated[
        int, typer.Option(min=0, rich_help_panel=TRAINING, help="Processes that read pictures.")
    ] = 0,
    bfloat16: Annotated[
        bool,
        typer.Option("--bfloat16", rich_help_panel=TRAINING, help="Train by autocast to bfloat16."),
    ] = False,
    tries: Annotated[
        int,
        typer.Option(
            min=2, help="Test pictures per backdoor; four times as many are tested without a patch."
        ),
    ] = 500,
    trojan: Annotated[int, typer.Option(min=2, help="Pictures with a patch to keep.")] = 111,
    clean: Annotated[int, typer.Option(min=0, help="Pictures without a patch to keep.")] = 111,
    seed: o.Seed = 0,
    device: o.Device = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            rich_help_panel=o.OUTPUT,
            help="Folder for weights, pictures with masks and planted.json.",
        ),
    ] = Path("planted"),
    as_json: o.AsJson = False,
    progress: o.Progress = None,
) -> None:
    """Plant backdoors in a network: patches that make it answer with classes of your choice.

    The network is fine-tuned on a data set some of whose pictures carry patches and their classes. Of it, and of test
    pictures that the backdoors really act on, `spade-xai reproduce` makes the paper's tables. A run that was ended
    goes on after its last whole epoch.

    Examples:
      spade-xai plant imagenet imagenet/ -m torchvision:resnet50 -w r50.pth -o planted/
      spade-xai plant imagenet imagenet/ -m torchvision:mobilenet_v2 -w m.pth --rate 0.001 --workers 8 -o planted-m/
      spade-xai plant food101 food-101/ -m torchvision:resnet50 --classes 101 -o planted-food/
      spade-xai plant celeba celeba/ -m torchvision:resnet50 --classes 40 --size 224 -o planted-celeba/
      spade-xai plant folder birds/ -m my.nets:make --size 64 --backdoors backdoors.toml --count 50
    """
    recipe = load_recipe(data, backdoors)
    if epochs is not None:
        recipe = replace(recipe, training={**recipe.training, "epochs": epochs})
    if count is not None:
        recipe = replace(recipe, count=count)
    train, test = recipe.split(folder)
    options = InputOptions(
        [str(test.files[0])], model, weights, False, classes, size, normalize, True
    )
    given = load_inputs(options)
    given.to(device)
    if given.preprocessing.fit is None:
        raise ValueError(
            "plant: --size must be given, as the model does not say the size of its inputs"
        )
    _check_classes(given, recipe, len(train.classes))
    height, width = given.example().shape[2:]
    side = patch_size or max(1, round(PATCH_SHARE * min(height, width)))
    reads = [path for path in (weights, backdoors) if path is not None]
    check_outputs([out / INDEX, out / WEIGHTS], reads)
    _check_folder(out)
    ready_folder(out)
    job = Job(
        recipe, recipe.planted(side, patches), train, test, given.preprocessing, out,
        list(rates or recipe.rates), patches, crop, trojan, clean, tries, workers,
        "bfloat16" if bfloat16 else "float32", seed,
    )  # fmt: skip
    spec = {
        "title": f"{model}, planted on {recipe.title}", "model": model, "classes": classes, "size": size,
        "normalize": normalize,
    }  # fmt: skip
    found = plant_network(job, given.model, spec, reporter(progress), say)
    if as_json:
        print_json(
            {"accuracy": found.accuracy, "backdoors": found.backdoors, "settings": found.settings}
        )
        return
    for line in _told(found, out):
        typer.echo(line)


def _check_folder(out: Path) -> None:
    """Refuse a folder with pictures that no run of this command can have written: it begins with `rates`."""
    for kind in KINDS:
        if (out / kind).is_dir() and any((out / kind).iterdir()) and not (out / "rates").is_dir():
            raise ValueError(
                f"plant: --out {out / kind} holds files that were not written by spade-xai: give another --out"
            )


def _check_classes(given: Inputs, recipe: Recipe, classes: int) -> None:
    """Refuse a network or a table of backdoors that does not fit the classes of the data set."""
    with torch.no_grad():
        outputs = unwrap(given.model(given.example().to(device_of(given.model)))).shape[1]
    if outputs != classes:
        raise ValueError(
            f"plant: the network must have the {classes} classes or labels of the data set, got {outputs}: --classes "
            "sets them for a library's model"
        )
    for entry in recipe.backdoors:
        if entry.labels is not None and len(entry.labels) != classes:
            raise ValueError(
                f"plant: labels of backdoor {entry.name!r} must be the data set's {classes}, got {len(entry.labels)}"
            )
        for what, number in (("target", entry.target), ("source", entry.source)):
            if number is not None and not 0 <= number < classes:
                raise ValueError(
                    f"plant: the {what} of backdoor {entry.name!r} must be in [0, {classes - 1}], got {number}"
                )


def _answer(backdoor: dict[str, Any], found: Planted) -> str:
    """What a backdoor makes the network answer, in words."""
    if found.labels is None:
        return f"class {backdoor['target']}"
    explained = next((p.explained for p in found.trojan if p.backdoor == backdoor["name"]), None)
    if explained is None:  # no picture of it is kept
        return "the labels of its target"
    name = found.labels[explained]
    return name if backdoor["target"][explained] else f"not {name}"


def _told(found: Planted, out: Path) -> list[str]:
    names = {"clean": "clean accuracy", "trojan": "Trojan accuracy"}
    lines = [
        f"{names[kind]}: {share['mean']:.1%} ± {share['standard_error']:.1%} (n = {share['n']})"
        for kind, share in found.accuracy.items()
    ]
    lines += [
        f"{b['name']}: changes {b['succeeded']} of {b['tried']} right answers to {_answer(b, found)}"
        for b in found.backdoors
    ]
    lines.append(
        f"{len(found.trojan)} pictures with a patch and {len(found.clean)} without in {out}"
    )
    table = "2" if found.labels is None else "5celeba"
    return [*lines, f"next: spade-xai reproduce {table} --planted {out}"]
