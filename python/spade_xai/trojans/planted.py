"""A folder with a backdoored network and its test pictures: what `spade-xai plant` writes and `reproduce` reads.

`planted.json` says which network it is and how its inputs are made of pictures, its backdoors, and of each picture its
true class and backdoor. Pictures with a patch lie in `trojan/`, each beside its mask; others in `clean/`.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from spade_ext.files import read_json, read_tensors, write_json

FORMAT = "spade_xai.Planted.1"
WEIGHTS_FORMAT = "spade_xai.PlantedWeights.1"
INDEX = "planted.json"
LABELS = "labels"
"""Entry of a file of weights: names of the labels, if the network says of each whether a picture has it."""


@dataclass(frozen=True)
class Picture:
    """One test picture.

    Attributes:
        file: Its path in the folder.
        label: Its true class; None: not known.
        backdoor: The name of the backdoor whose patch lies on it; None: none.
        mask: The path of the mask of the patch; None: none.
        explained: Of a network of several labels the number of the one that maps explain; None: it has classes.
    """

    file: str
    label: int | None = None
    backdoor: str | None = None
    mask: str | None = None
    explained: int | None = None


@dataclass(frozen=True)
class Planted:
    """What a folder holds.

    Attributes:
        title: Which network it is, in words.
        bundled: Whether it ships with the package, which the paper's networks do not.
        model: What `load_model` makes the network of.
        weights: The file of its weights in the folder; None: the model brings them.
        classes: The number of outputs, where the model takes it; None: the model's own.
        size: Pixels a side of its inputs; None: what the model's library says, or pictures as they are.
        normalize: As the option of commands.
        backdoors: Of each: name, source, target, patch (a file in the folder), size, tried, succeeded.
        trojan: Pictures with a patch that changes a right answer to the target. Backdoors take turns.
        clean: Pictures without one that are answered right.
        accuracy: "clean" and "trojan" with mean, standard_error and n, where they were measured.
        settings: How the network was made.
        labels: The names of the labels, if the network says of each whether a picture has it; None: it has classes.
            A backdoor's target is then a list with 0 or 1 for each.
    """

    title: str
    bundled: bool
    model: str
    weights: str | None
    classes: int | None
    size: int | None
    normalize: str
    backdoors: list[dict[str, Any]]
    trojan: list[Picture]
    clean: list[Picture]
    accuracy: dict[str, dict[str, Any]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    labels: list[str] | None = None


def write_planted(folder: Path, planted: Planted) -> None:
    """Write the index of a folder; its files are there already."""
    pictures = {
        kind: [vars(picture) for picture in getattr(planted, kind)] for kind in ("trojan", "clean")
    }
    write_json(folder / INDEX, FORMAT, {**vars(planted), **pictures})


def read_planted(folder: Path) -> Planted:
    """Read the index of a folder, and check that its weights are whole.

    Raises:
        FileNotFoundError: There is none.
        ValueError: The index or the weights are of another kind, or changed after they were written.
    """
    found = read_json("read_planted", folder / INDEX, FORMAT)
    pictures = {kind: [Picture(**entry) for entry in found[kind]] for kind in ("trojan", "clean")}
    planted = Planted(**{**found, **pictures})
    if planted.weights is not None:
        read_tensors("read_planted", folder / planted.weights, WEIGHTS_FORMAT)
    return planted


def turns(groups: Mapping[Any, Sequence[Any]]) -> list[Any]:
    """The first of each group, then the second of each, and so on."""
    longest = max((len(group) for group in groups.values()), default=0)
    return [group[k] for k in range(longest) for group in groups.values() if k < len(group)]


def picture_file(image: Tensor) -> bytes:
    """A picture [3, H, W] in [0, 1] as a PNG file."""
    return _png(image.permute(1, 2, 0))


def mask_file(mask: Tensor) -> bytes:
    """A mask bool [H, W] as a PNG file, white inside."""
    return _png(mask.float())


def _png(values: Tensor) -> bytes:
    """Of [H, W, 3] or [H, W] in [0, 1]."""
    buffer = io.BytesIO()
    Image.fromarray((values * 255).round().byte().cpu().numpy()).save(buffer, "png")
    return buffer.getvalue()
