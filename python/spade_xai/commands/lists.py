"""spade-xai models and spade-xai methods: what there is."""

import importlib
from typing import Annotated, Any

import typer

from spade_xai.attribution.methods import RECORDS
from spade_xai.commands import options as o
from spade_xai.commands.output import print_json, print_table
from spade_xai.models.efficientnet_lite import VARIANTS

Containing = Annotated[
    str, typer.Argument(help="List only names that hold this text.", show_default=False)
]


def models(text: Containing = "", as_json: o.AsJson = False) -> None:
    """List the models that --model takes: the packaged ones, and those of the libraries that are installed.

    Examples:
      spade-xai models resnet
      spade-xai models --json
    """
    names = [f"pretrained:{name}" for name in VARIANTS]
    for library, listed in (
        ("torchvision", "models.list_models"),
        ("timm", "list_models"),
        ("transformers", "CONFIG_MAPPING.keys"),
    ):
        try:
            found: Any = importlib.import_module(library)
            for part in listed.split("."):
                found = getattr(found, part)
            names += [f"{library}:{name}" for name in found()]
        except (ImportError, RuntimeError, AttributeError) as error:
            reason = str(error).splitlines()[0]
            typer.echo(f"spade-xai: {library} cannot be used: {reason}", err=True)
    names = [name for name in names if text.lower() in name.lower()]
    if as_json:
        print_json(names)
    else:
        typer.echo("\n".join(names))


def methods(as_json: o.AsJson = False) -> None:
    """List the saliency methods that --method takes, what they cost and what they are for.

    Examples:
      spade-xai methods
      spade-xai methods --json
    """
    if as_json:
        print_json([{"name": m.name, "cost": m.cost, "use": m.use} for m in RECORDS.values()])
        return
    width = max(len(m.cost) for m in RECORDS.values())
    rows = [[m.name, f"{m.cost.ljust(width)}  {m.use}"] for m in RECORDS.values()]
    longest = max(len(row[1]) for row in rows)
    print_table(
        ["method", f"{'passes per input'.ljust(width)}  use".ljust(longest)],
        [[name, text.ljust(longest)] for name, text in rows],
    )
