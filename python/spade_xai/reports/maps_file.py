"""The maps of an image as a safetensors file, with what was found about its traces."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_type_hints

from torch import Tensor

from spade_ext.files import parse_json, read_tensors, write_tensors
from spade_xai.reports.explain import Explanation
from spade_xai.reports.plain import from_plain

_FORMAT = "spade_xai.Maps.1"
_SPACE = "the model's inputs: images scaled, cut and normalised as `preprocessing` says"


def write_maps(
    path: Path, found: Explanation, mask: Tensor | None, further: Mapping[str, str]
) -> None:
    """Write maps ("METHOD/dense" and "METHOD/TRACER", [H, W]), the image and its mask; whole or not at all.

    Maps for the label, where there is one beside the target, are "label/METHOD/dense" and so on.

    Args:
        path: The path of the file.
        found: What to write.
        mask: bool [H, W]; None: none.
        further: Texts to note, such as the preprocessing.
    """
    tensors = {"image": found.image}
    if mask is not None:
        tensors["mask"] = mask
    for method, columns in found.maps.items():
        tensors.update({f"{method}/{column}": map for column, map in columns.items()})
    for method, columns in found.label_maps.items():
        tensors.update({f"label/{method}/{column}": map for column, map in columns.items()})
    notes = {
        field.name: plain(getattr(found, field.name))
        for field in fields(found)
        if field.name not in ("image", "maps", "label_maps")
    }
    order = [[method, list(columns)] for method, columns in found.maps.items()]
    metadata = {"space": _SPACE, "order": json.dumps(order), "notes": json.dumps(notes)}
    write_tensors("write_maps", path, _FORMAT, tensors, {**further, **metadata})


def read_maps(path: Path) -> tuple[Explanation, Tensor | None, dict[str, str]]:
    """What `write_maps` wrote: explanation, mask and all texts.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Another kind of file, or one that changed after it was written.
    """
    tensors, metadata = read_tensors("read_maps", path, _FORMAT)
    try:
        notes, order = parse_json(metadata["notes"]), parse_json(metadata["order"])
        hints = get_type_hints(Explanation)
        values: dict[str, Any] = {k: from_plain(hints[k], v) for k, v in notes.items()}
        values["image"] = tensors["image"]
        values["maps"] = {m: {c: tensors[f"{m}/{c}"] for c in columns} for m, columns in order}
        values["label_maps"] = {
            m: {c: tensors[f"label/{m}/{c}"] for c in columns}
            for m, columns in order
            if f"label/{m}/{columns[0]}" in tensors
        }
        return Explanation(**values), tensors.get("mask"), metadata
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"read_maps: {path} is damaged: {error!r}") from None


def plain(value: Any) -> Any:
    """Dataclasses inside dicts and lists as dicts."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value
