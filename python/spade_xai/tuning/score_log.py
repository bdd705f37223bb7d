"""The checkpoint of a tuning run: what the run is, and every score as it came."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from spade_xai.models.inputs import Inputs
from spade_xai.models.layers import Layer
from spade_xai.tracing.augment import ImageAugment
from spade_xai.tracing.file import describe, fingerprint
from spade_xai.tracing.run import Run
from spade_xai.tracing.text_augment import TextAugment


def identity_of(
    model: nn.Module, run: Run, ratios: Sequence[float], groups: Sequence[Sequence[Layer]]
) -> dict[str, str]:
    """What a checkpoint must agree with, as text."""
    options = run.options
    samples = hashlib.blake2b(digest_size=16)
    for source in run.sources:
        samples.update(json.dumps(_content(source.inputs)).encode())
    weights = hashlib.blake2b(json.dumps(fingerprint(model)).encode(), digest_size=16)
    known = (str, ImageAugment, TextAugment, type(None))  # of others nothing can be said
    augment = repr(options.augment) if isinstance(options.augment, known) else "given"
    inputs = [
        weights.hexdigest(), samples.hexdigest(), options.method, augment, options.augmentations,
        options.damp, options.seed, options.forward_precision,
    ]  # fmt: skip
    return {
        "model": weights.hexdigest(),
        "samples": f"{len(run.sources)}: {samples.hexdigest()}",
        "method": options.method,
        "augment": augment,
        "augmentations": str(options.augmentations),
        "damp": str(options.damp),
        "seed": str(options.seed),
        "forward_precision": options.forward_precision,
        "grid": json.dumps(list(ratios)),
        "groups": json.dumps([[x.name for x in g] for g in groups]),
        "inputs": json.dumps(inputs),  # what Hessians and orders depend on
    }


def _content(inputs: Inputs) -> list[list[str]]:
    """Name and content of each tensor and option that the model is given."""
    if isinstance(inputs, dict):
        named = list(inputs.items())
    else:
        named = list(enumerate(inputs if isinstance(inputs, tuple) else (inputs,)))
    plain = (str, int, float, bool, type(None))  # of others only the type is known to last
    return [
        [str(name), *describe(value)]
        if isinstance(value, Tensor)
        else [str(name), repr(value) if isinstance(value, plain) else type(value).__name__]
        for name, value in named
    ]


class ScoreLog:
    """Scores by (group, ratio, sample), one JSON line each in a file that is only appended to."""

    def __init__(self, path: str | os.PathLike[str] | None, identity: dict[str, str]) -> None:
        self.path = None if path is None else Path(path)
        self.scores: dict[tuple[int, float, int], float] = {}
        if self.path is None:
            return
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        whole = [line for line in lines if line.endswith(b"\n")]  # an interrupted write is dropped
        if not whole:
            self.path.write_bytes(json.dumps(identity).encode() + b"\n")
            return
        self._read(whole, identity)
        if len(whole) < len(lines):
            with self.path.open("r+b") as file:
                file.truncate(sum(map(len, whole)))

    def _read(self, lines: list[bytes], identity: dict[str, str]) -> None:
        try:
            header, *rows = (json.loads(line) for line in lines)
            self.scores = {(int(g), float(r), int(s)): float(score) for g, r, s, score in rows}
            saved = dict(header)
        except (TypeError, ValueError) as error:
            raise ValueError(f"tune: checkpoint {self.path} is damaged: {error}") from None
        for name, value in identity.items():
            if saved.get(name) != value:
                raise ValueError(
                    f"tune: checkpoint {self.path} must belong to this run, {name} differs: "
                    f"{saved.get(name)} in the file, {value} here"
                )

    def add(self, group: int, ratio: float, sample: int, score: float) -> None:
        """Note a score, in the file before this returns."""
        self.scores[group, ratio, sample] = score
        if self.path is not None:
            with self.path.open("ab") as file:
                file.write(json.dumps([group, ratio, sample, score]).encode() + b"\n")
