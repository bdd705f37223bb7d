"""Options that commands of `spade-xai lottery` share."""

from pathlib import Path
from typing import Annotated

import typer

RunFolder = Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)]
Workers = Annotated[int, typer.Option(min=0, help="The number of processes that read pictures.")]
