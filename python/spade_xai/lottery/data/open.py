"""The data set and the concepts that a run names."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from spade_xai.lottery.data import shapes
from spade_xai.lottery.data.pictures import ConceptPictures, Data, DataError


def open_data(spec: dict[str, Any]) -> Data:
    """The data set of a specification: {"kind": ..., options of that kind}."""
    options = {key: value for key, value in spec.items() if key != "kind"}
    if spec["kind"] == "shapes":
        return shapes.load(shapes_options(options))
    raise DataError(f"lottery: data must be shapes, got {spec['kind']!r}")


def shapes_options(options: dict[str, Any]) -> shapes.Shapes:
    """Options of drawn pictures."""
    known = {f.name for f in fields(shapes.Shapes)}
    return shapes.Shapes(**{key: value for key, value in options.items() if key in known})


def open_concepts(bank: str, spec: dict[str, Any], data: Data) -> ConceptPictures:
    """The concepts that --bank names, for the data set of a specification."""
    if bank == "shapes":
        return shapes.concepts(shapes_options(spec))
    raise DataError(f"lottery: bank must be shapes or a folder, got {Path(bank)}")
