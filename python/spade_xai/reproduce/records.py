"""Records of samples in other orders, known ones, and those of several groups of methods put together."""

from collections.abc import Mapping, Sequence
from typing import Any

from spade_xai.commands.records import RecordFiles
from spade_xai.reports.explain import DENSE
from spade_xai.reports.scores import Sample, Work


class Ordered(Sequence[Sample]):
    """Samples in another order."""

    def __init__(self, samples: Sequence[Sample], order: Sequence[int]) -> None:
        self.samples, self.order = samples, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, k: Any) -> Any:
        return self.samples[self.order[k]]


class KnownRecords:
    """A store that knows the dense network's records, once they are made."""

    def __init__(self, files: RecordFiles, dense: Sequence[dict[str, Any]]) -> None:
        self.files, self.dense = files, dense

    def known(self, part: str, work: Work) -> dict[str, Any] | None:
        """The record, if it was made."""
        if part == DENSE and self.dense:
            return self.dense[work.place]
        return self.files.known(part, work)

    def keep(self, part: str, work: Work, record: dict[str, Any]) -> None:
        """Write the record."""
        self.files.keep(part, work, record)


def merged(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The record of a sample from those of groups of methods."""
    result: dict[str, Any] = {"scores": {}, "following": [], "seconds": {}}
    for record in records:
        _add(result["scores"], record["scores"])
        for k, scores in enumerate(record["following"]):
            if k == len(result["following"]):
                result["following"].append({})
            _add(result["following"][k], scores)
        for stage, seconds in record["seconds"].items():
            result["seconds"][stage] = result["seconds"].get(stage, 0.0) + seconds
    return result


def _add(scores: dict[str, dict[str, float]], more: Mapping[str, Mapping[str, float]]) -> None:
    for metric, by_method in more.items():
        scores.setdefault(metric, {}).update(by_method)
