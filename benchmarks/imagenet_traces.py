"""Traces of the study on the backdoored EfficientNet-Lite0, kept in files: each is made once."""

import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from spade_xai.exceptions import UnfaithfulTraceWarning
from spade_xai.models.efficientnet_lite import EfficientNetLite
from spade_xai.models.preprocessing import Preprocessing
from spade_xai.tracing.augment import ImageAugment
from spade_xai.tracing.result import Trace, load_trace
from spade_xai.tracing.schedule import last_blocks
from spade_xai.tracing.trace import trace
from spade_xai.trojans.imagenet import (
    TrojanPictures,
    load_network,
    load_trojan_pictures,
    preprocessing,
)

TRACERS = {"SPADE": "obc", "FastSPADE": "sparsegpt"}
BLOCKS, RATIOS = 5, {"SPADE": 0.95, "FastSPADE": 0.8}  # of the fixed schedule: last blocks and head
KINDS = ("trojan", "second", "fixed", "tuned", "clean")


@dataclass
class Pictures:
    """Two Trojan pictures of each photograph, with different patches, and the photographs themselves.

    The first Trojan pictures of all photographs come before the second ones.
    """

    network: EfficientNetLite
    preprocessing: Preprocessing
    trojans: TrojanPictures
    clean: TrojanPictures

    @classmethod
    def of(cls, folder: Path | None) -> "Pictures":
        """Those of the network that ships, or of a folder that `examples/train_imagenet_trojan.py` wrote."""
        return cls(
            load_network(folder),
            preprocessing(folder),
            load_trojan_pictures("trojan", folder=folder),
            load_trojan_pictures("clean", folder=folder),
        )

    def __len__(self) -> int:
        """Number of photographs."""
        return len(self.clean)

    def number(self, k: int, kind: str) -> int:
        """Where the k-th photograph's Trojan picture is among `trojans`."""
        return k % len(self) + (len(self) if kind == "second" else 0)

    def input(self, k: int, kind: str) -> Tensor:
        """What the network takes of the k-th photograph, [1, 3, H, W]: without a patch for "clean"."""
        number = self.number(k, kind)
        if kind == "clean":
            photo = self.trojans.photographs[number]
            return self.clean.inputs[photo : photo + 1]
        return self.trojans.inputs[number : number + 1]

    def answer(self, k: int, kind: str) -> int:
        """What the network answers to it."""
        number = self.number(k, kind)
        if kind == "clean":
            return int(self.clean.predictions[self.trojans.photographs[number]])
        return int(self.trojans.predictions[number])

    def mask(self, k: int, kind: str) -> Tensor:
        """Pixels of its patch, bool [1, H, W]."""
        number = self.number(k, kind)
        return self.trojans.masks[number : number + 1]


class Traces:
    """Traces by photograph, tracer and kind.

    Args:
        folder: Where they are kept.
        pictures: What is traced.
        augmentations: As in `trace`.
    """

    def __init__(self, folder: Path, pictures: Pictures, augmentations: int) -> None:
        self.folder, self.pictures, self.augmentations = folder, pictures, augmentations
        folder.mkdir(parents=True, exist_ok=True)
        known = pictures.preprocessing
        self.augment = ImageAugment("resnet", mean=known.mean, std=known.std)

    def file(self, k: int, tracer: str, kind: str) -> Path:
        """Where a trace is kept."""
        return self.folder / f"{k % len(self.pictures):03}-{tracer}-{kind}.safetensors"

    def ratios(self, tracer: str) -> Path:
        """Where tuned ratios are kept, which imagenet_tuned writes."""
        return self.folder / f"ratios-{tracer}.json"

    def __contains__(self, key: tuple[int, str, str]) -> bool:
        return self.file(*key).exists()

    def __call__(self, k: int, tracer: str, kind: str) -> Trace:
        """The trace of the k-th photograph; of the one after the last, that of the first.

        "trojan", "second" and "clean" are faithful traces of the two pictures with a patch and of that without one.
        "fixed" and "tuned" are of the first picture: one sparsity in the last blocks and the head, and the ratios of
        imagenet_tuned.
        """
        if kind not in KINDS:
            raise ValueError(f"Traces: kind must be one of {', '.join(KINDS)}, got {kind!r}")
        file = self.file(k, tracer, kind)
        if not file.exists():
            self._make(k, tracer, "trojan" if kind == "fixed" else kind)
        return load_trace(file, self.pictures.network)

    def _make(self, k: int, tracer: str, kind: str) -> None:
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnfaithfulTraceWarning)  # they are counted
            found = trace(
                self.pictures.network, self.pictures.input(k, kind), method=TRACERS[tracer],
                sparsity=str(self.ratios(tracer)) if kind == "tuned" else "faithful",
                augmentations=self.augmentations, augment=self.augment, progress=False,
            )  # fmt: skip
            if kind == "trojan":
                fixed = found.at(last_blocks(BLOCKS, RATIOS[tracer]))
                fixed.save(self.file(k, tracer, "fixed"))
        found.save(self.file(k, tracer, kind))
        print(f"trace {k} {tracer} {kind}: {time.process_time() - start:.0f} s", flush=True)


def described(found: Trace) -> dict[str, Any]:
    """Whether a trace is faithful, what it answers, how sparse it is and what it took."""
    verdict = found.verdict
    if verdict is None:
        raise ValueError("described: found must have a verdict")
    weights = sum(layer.rows * layer.cols for layer in found.layers)
    zeros = sum(layer.rows * layer.cols * layer.sparsity_got for layer in found.layers)
    seconds = sum(found.timings.values())
    search = found.timings.get("fidelity", 0.0)
    return {
        "faithful": verdict.faithful,
        "kept": verdict.answer == verdict.dense_answer,
        "nearby": verdict.nearby_kept,
        "probability": verdict.probability_kept,
        "sparsity": zeros / weights,
        "seconds": seconds,
        "search": search / (seconds - search),
    }
