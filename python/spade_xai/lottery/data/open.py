"""The data set and the concepts that a run names."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from spade_xai.choices import misnamed
from spade_xai.lottery.data import cub, derm7pt, folders, ham10000, shapes
from spade_xai.lottery.data.pictures import ConceptPictures, Data, DataError


def open_data(spec: dict[str, Any]) -> Data:
    """The data set of a specification: {"kind": ..., "folder": ..., options of that kind}.

    Raises:
        DataError: An unknown kind or option, or a folder that is not as published.
    """
    options = {key: value for key, value in spec.items() if key not in ("kind", "folder")}
    kind = spec["kind"]
    if kind == "shapes":
        return shapes.load(shapes_options(options))
    readers: dict[str, Any] = {"cub": cub.load, "ham10000": ham10000.load, "folder": folders.load}
    if kind not in readers:
        raise DataError(f"lottery: {misnamed('data', ('shapes', *readers), kind)}")
    folder = Path(spec["folder"])
    if not folder.is_dir():
        raise DataError(f"lottery: no folder {folder}")
    try:
        return readers[kind](folder, **options)
    except TypeError as error:
        raise DataError(f"lottery: data set {kind} has no such option: {error}") from None


def shapes_options(options: dict[str, Any]) -> shapes.Shapes:
    """Options of drawn pictures."""
    known = {f.name for f in fields(shapes.Shapes)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise DataError(
            f"lottery: shapes has no option {unknown[0]!r}; options are {', '.join(sorted(known))}"
        )
    return shapes.Shapes(**options)


def open_concepts(bank: str, spec: dict[str, Any], data: Data) -> ConceptPictures:
    """The concepts that --bank names, for the data set of a specification.

    Args:
        bank: "shapes", "cub" (of a run on CUB), "derm7pt:FOLDER", or a folder of concepts.
        spec: Of the data set.
        data: The data set.
    """
    kind, _, where = bank.partition(":")
    if bank == "shapes":
        options = {k: v for k, v in spec.items() if k != "kind"} if spec["kind"] == "shapes" else {}
        return shapes.concepts(shapes_options(options))
    if bank == "cub":
        if data.kind != "cub":
            raise DataError(f"lottery: bank cub needs a run on cub, got a run on {data.kind}")
        return cub.concepts(Path(spec["folder"]), data)
    if kind == "derm7pt":
        return derm7pt.concepts(Path(where))
    return folders.concepts(Path(bank))
