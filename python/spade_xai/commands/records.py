"""Scores of each sample in files, so that a command goes on where an earlier run of it ended."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from spade_ext.files import read_json, write_json
from spade_xai.commands.inputs import Inputs
from spade_xai.commands.runs import RunFiles
from spade_xai.models.inputs import device_of
from spade_xai.reports.explain import DENSE
from spade_xai.reports.scores import Sample, Work

_FORMAT = "spade_xai.Scores.2"


class SampleList(Sequence[Sample]):
    """The images that can be read, each read when it is asked for."""

    def __init__(self, given: Inputs, usable: Sequence[int]) -> None:
        self.given, self.usable = given, usable

    def __len__(self) -> int:
        return len(self.usable)

    def __getitem__(self, k: Any) -> Any:
        picture = self.given.read(self.usable[k])
        return Sample(picture.x.to(device_of(self.given.model)), picture.mask)


class RecordFiles:
    """A file for each sample and part of an evaluation; those of the same run are kept.

    Args:
        path: Of the record of a part of the sample at a place.
        key: A name of everything that the record depends on.
    """

    def __init__(self, path: Callable[[str, int], Path], key: Callable[[str, Work], str]) -> None:
        self.path, self.key = path, key

    def known(self, part: str, work: Work) -> dict[str, Any] | None:
        """The record, if it is there and of the same run."""
        try:
            saved = read_json("evaluate", self.path(part, work.place), _FORMAT)
        except (FileNotFoundError, ValueError):  # missing, damaged or of another kind
            return None
        return saved["record"] if saved.get("run") == self.key(part, work) else None

    def keep(self, part: str, work: Work, record: dict[str, Any]) -> None:
        """Write the record."""
        value = {"run": self.key(part, work), "record": record}
        write_json(self.path(part, work.place), _FORMAT, value)


def tensors_of(work: Work) -> list[Tensor | None]:
    """Images and masks that a record is of."""
    return [tensor for sample in (work.sample, *work.following) for tensor in sample]


def record_key(files: RunFiles) -> Callable[[str, Work], str]:
    """What names the record of a part of a sample; the dense one's draws of noise depend on the place."""

    def key(part: str, work: Work) -> str:
        place = work.place if part == DENSE else ""
        return files.key(f"{part} {place}", tensors_of(work))

    return key
