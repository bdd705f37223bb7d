"""What is made of one image of a study: two regions, visualisations of the dense and the sparse network."""

import hashlib
import io
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from spade_ext.files import read_json, write_bytes, write_json
from spade_xai.exceptions import UnfaithfulTraceWarning
from spade_xai.features.visualize import visualize
from spade_xai.models.copies import unwrap
from spade_xai.models.inputs import device_of
from spade_xai.models.preprocessing import Preprocessing
from spade_xai.progress import Progress
from spade_xai.reports.answers import class_name
from spade_xai.reports.plain import from_plain
from spade_xai.study.assignment import CONDITIONS
from spade_xai.study.folder import PARTS, SITE, StudyImage
from spade_xai.study.options import StudyOptions
from spade_xai.study.regions import SHAPES, last_feature_maps, revealed, score_cam
from spade_xai.tracing.file import describe
from spade_xai.tracing.pruning.registry import TRACERS
from spade_xai.tracing.trace import trace

PART_FORMAT = "spade_xai.StudyPart.1"


@dataclass(frozen=True)
class Candidate:
    """An image that may come into the study.

    Attributes:
        name: Its name.
        image: [3, H, W] in [0, 1].
        x: The same as the model takes it, [1, 3, H, W].
        label: The right class; None where nobody knows.
    """

    name: str
    image: Tensor
    x: Tensor
    label: int | None


@dataclass(frozen=True)
class Part:
    """What was made of one image, or why nothing was.

    Attributes:
        key: A digest of all that it depends on.
        left_out: Why nothing was made; None: something was.
        image: The image in the study.
        patterns: The file of each visualisation by "neuron condition".
    """

    key: str
    left_out: str | None
    image: StudyImage | None
    patterns: dict[str, str]


class PartMaker:
    """Makes the part of an image, or finds it made."""

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        options: StudyOptions,
        known: Preprocessing,
        classes: Sequence[str] | None,
        tracer: str,
        trace_options: dict[str, Any],
        settings: dict[str, Any],
        progress: Progress,
    ) -> None:
        self._folder, self._model, self._options, self._known = folder, model, options, known
        self._classes, self._tracer, self._trace_options = classes, tracer, trace_options
        # What an image's part depends on; not how many images there are, or how they are assigned.
        free = ("title", "count", "tasks", "repeats", "neurons")
        kept = {k: v for k, v in settings.items() if k not in free}
        rounding = ("batch_size", "max_memory", "device")  # what changes no more than that
        kept["trace"] = {k: v for k, v in kept["trace"].items() if k not in rounding}
        self._settings = json.dumps(kept, sort_keys=True)
        self._progress = progress
        self._layer = options.cam_layer
        self._dense: dict[int, str] = {}

    def make(self, candidate: Candidate, turn: int) -> Part:
        """The part of an image."""
        candidate = replace(candidate, x=candidate.x.to(device_of(self._model)))
        with torch.no_grad():
            probabilities = unwrap(self._model(candidate.x)).float().softmax(1)[0].cpu()
        answer = int(probabilities.argmax())
        if candidate.label == answer:
            return Part("", "right answer", None, {})
        second = int(probabilities.topk(2).indices[1])
        first, roles = (candidate.label, ["right", "predicted"])
        if first is None:
            pair, roles = [answer, second], ["first", "second"]
        else:
            pair = [first, answer]
        neurons = [turn] if self._options.neurons == "one" else [0, 1]
        key = digest(json.dumps([self._settings, pair, neurons, describe(candidate.x)]).encode())
        file = self._folder / PARTS / f"{key[:24]}.json"
        found = self._read(file, key)
        if found is None:
            found = self._made(candidate, key, pair, roles, neurons, probabilities)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, PART_FORMAT, asdict(found))
        return found

    def _read(self, file: Path, key: str) -> Part | None:
        if not file.is_file():
            return None
        part: Part = from_plain(Part, read_json("build_study", file, PART_FORMAT))
        files = list(part.patterns.values())
        if part.image is not None:
            files += [part.image.picture, *part.image.regions]
        whole = all((self._folder / SITE / name).is_file() for name in files)
        return part if part.key == key and whole else None

    def _made(
        self,
        candidate: Candidate,
        key: str,
        pair: list[int],
        roles: list[str],
        neurons: list[int],
        probabilities: Tensor,
    ) -> Part:
        options = self._options
        if self._layer is None:
            self._layer = last_feature_maps(self._model, candidate.x)
        maps = score_cam(self._model, candidate.x, pair, layer=self._layer)
        regions = SHAPES[options.shape](maps.cpu(), options.region)
        if bool((regions[0] & regions[1]).any()):
            return Part(key, "regions overlap", None, {})
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UnfaithfulTraceWarning
            )  # study.json and the report tell
            traced = trace(
                self._model, candidate.x, method=TRACERS[self._tracer], seed=options.seed,
                progress=self._progress, **self._trace_options,
            )  # fmt: skip
        with torch.no_grad():
            sparse = int(unwrap(traced.model(candidate.x)).argmax())
        patterns = {}
        for k in neurons:
            if pair[k] not in self._dense:
                self._dense[pair[k]] = self._pattern(self._model, pair[k], candidate.x)
            patterns[f"{k} {CONDITIONS[0]}"] = self._dense[pair[k]]
            patterns[f"{k} {CONDITIONS[1]}"] = self._pattern(traced.model, pair[k], candidate.x)
        image = StudyImage(
            name=candidate.name,
            picture=self._keep(candidate.image),
            classes=pair,
            class_names=[class_name(self._classes, k) for k in pair],
            roles=roles,
            probabilities=[float(probabilities[k]) for k in pair],
            regions=[self._keep(revealed(candidate.image, region)) for region in regions],
            region_share=float(regions[0].float().mean()),
            faithful=traced.faithful,
            kept_answer=sparse == int(probabilities.argmax()),
        )
        return Part(key, None, image, patterns)

    def _pattern(self, model: nn.Module, neuron: int, x: Tensor) -> str:
        size = self._options.pattern_size
        shape = tuple(x.shape[1:]) if size is None else (x.shape[1], size, size)
        image = visualize(
            model, neuron, shape, steps=self._options.steps, seed=self._options.seed,
            parametrization=self._options.parametrization, mean=self._known.mean, std=self._known.std,
            progress=self._progress,
        )  # fmt: skip
        return self._keep(image)

    def _keep(self, image: Tensor) -> str:
        """Write a picture [3, H, W] in [0, 1] under a name that is its content's."""
        pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "png")
        data = buffer.getvalue()
        name = f"pictures/{digest(data)[:24]}.png"
        path = self._folder / SITE / name
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, data)
        return name


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
