"""Build a study: choose images, find regions, visualise neurons without and with SPADE, assign tasks, write the pages.

Source: section 4.2.2 and appendix K of the paper.
"""

import hashlib
import io
import json
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from spade_ext.checks import check_int, check_range, check_seed
from spade_ext.files import read_json, write_bytes, write_json
from spade_xai.exceptions import UnfaithfulTraceWarning
from spade_xai.features.visualize import visualize
from spade_xai.models.copies import unwrap
from spade_xai.models.inputs import device_of
from spade_xai.models.preprocessing import Preprocessing
from spade_xai.progress import Progress
from spade_xai.reports.answers import class_name
from spade_xai.reports.plain import from_plain
from spade_xai.study.assignment import CONDITIONS, GAP, assign
from spade_xai.study.folder import PARTS, SITE, Study, StudyImage, Task
from spade_xai.study.page import write_site
from spade_xai.study.regions import SHAPES, last_feature_maps, revealed, score_cam
from spade_xai.tracing.file import describe, fingerprint
from spade_xai.tracing.pruning.registry import TRACERS
from spade_xai.tracing.trace import trace

PART_FORMAT = "spade_xai.StudyPart.1"
NEURONS = ("one", "both")


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """What a study is like.

    Attributes:
        title: What raters read first.
        count: The most images; those that are left out do not count.
        region: The share of the picture that each region takes, in (0, 0.5).
        shape: "square": the square of that size where Score-CAM is largest on average; "pixels": the pixels where it
            is largest, wherever they are.
        cam_layer: The layer whose feature maps Score-CAM weighs; None: the last one.
        neurons: "one" of the two classes per image, as often the one as the other, or "both".
        steps: Steps of each visualisation.
        parametrization: As in `visualize`.
        pattern_size: Pixels per side of visualisations; None: as the network's inputs.
        tasks: Images per rater, even; None: all, 32 at most.
        repeats: Tasks that a rater gets twice; None: one in ten.
        seed: The seed of every draw.
    """

    title: str = "Which part of the picture?"
    count: int = 100
    region: float = 0.1
    shape: str = "square"
    cam_layer: str | None = None
    neurons: str = "one"
    steps: int = 512
    parametrization: str = "fourier"
    pattern_size: int | None = None
    tasks: int | None = None
    repeats: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_int("build_study", "count", self.count, 2)
        check_int("build_study", "steps", self.steps, 1)
        check_range("build_study", "region", self.region, 0.0, 0.5)
        check_seed("build_study", self.seed)
        if self.shape not in SHAPES:
            raise ValueError(
                f"build_study: shape must be one of {', '.join(SHAPES)}, got {self.shape!r}"
            )
        if self.neurons not in NEURONS:
            raise ValueError(
                f"build_study: neurons must be one of {', '.join(NEURONS)}, got {self.neurons!r}"
            )


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
class _Part:
    """What was made of one image, or why nothing was."""

    key: str
    left_out: str | None
    image: StudyImage | None
    patterns: dict[str, str]  # file by "neuron condition"


def build_study(
    folder: Path,
    model: nn.Module,
    count: int,
    read: Callable[[int], Candidate | None],
    options: StudyOptions,
    *,
    preprocessing: Preprocessing | None = None,
    classes: Sequence[str] | None = None,
    tracer: str = "SPADE",
    library: str = "npm",
    consent: str | None = None,
    contact: str | None = None,
    about: Mapping[str, Any] | None = None,
    progress: Progress = True,
    report: Callable[[str], object] = lambda line: None,
    **trace_options: Any,
) -> Study:
    """Make a folder that `study serve` serves and any jsPsych host takes.

    Args:
        folder: Made if it is not there; what an interrupted build left is used again.
        model: Classifier. Not modified.
        count: The number of candidates.
        read: Gives a candidate by its number; None for one that cannot be read.
        options: What the study is like.
        preprocessing: Whose mean and std make the model's inputs of images in [0, 1].
        classes: Names of classes, for the experimenter; raters never see them.
        tracer: The pruning method of the SPADE condition, a name in TRACERS.
        library: Where jsPsych comes from, as in `library_files`.
        consent: Text of the consent page; None: the one that ships.
        contact: Whom raters can ask.
        about: Further settings that study.json tells, and that images are made again for if they change: among them
            what trace_options has that is neither text nor number, such as a schedule, under the same name.
        progress: True for bars, or callback(stage, done, total).
        report: Called with a line as each step ends.
        **trace_options: Further arguments of `trace`.

    Raises:
        ValueError: Fewer than two images are left, or an option is out of its range.
    """
    known = preprocessing or Preprocessing()
    settings = {
        **asdict(options),
        "tracer": tracer,
        "trace": _told(trace_options, about or {}),
        **(about or {}),
        "weights": _digest(json.dumps(fingerprint(model)).encode()),
    }
    maker = _Maker(
        folder, model, options, known, classes, tracer, trace_options, settings, progress
    )
    left_out = {"right answer": 0, "regions overlap": 0, "cannot be read": 0}
    order = list(range(count))
    random.Random(f"images {options.seed}").shuffle(order)
    parts: list[_Part] = []
    turns: list[int] = []
    for k in order:
        if len(parts) == options.count:
            break
        candidate = read(k)
        if candidate is None:
            left_out["cannot be read"] += 1
            continue
        if not turns:
            turns = [0, 1]
            random.Random(f"neurons {options.seed} {len(parts)}").shuffle(turns)
        made = maker.make(candidate, turns[-1])
        if made.left_out is not None:
            left_out[made.left_out] += 1
            report(f"{candidate.name}: left out: {made.left_out}")
            continue
        turns.pop()
        parts.append(made)
        report(f"{candidate.name}: image {len(parts)} of the study")
    if len(parts) < 2:
        told = ", ".join(f"{n} {reason}" for reason, n in left_out.items())
        raise ValueError(
            f"build_study: a study needs two images, got {len(parts)} of {count} ({told}); a smaller --region makes "
            "regions overlap less often"
        )
    study = _assembled(parts, options, settings, left_out)
    files = write_site(folder, study, library=library, consent=consent, contact=contact)
    study = replace(study, files=files)
    study.write(folder)
    return study


def _assembled(
    parts: list[_Part], options: StudyOptions, settings: dict[str, Any], left_out: dict[str, int]
) -> Study:
    tasks: list[Task] = []
    cells = []
    for k, part in enumerate(parts):
        of_image = []
        for name, pattern in part.patterns.items():
            neuron, condition = name.split(" ")
            text = f"{options.seed} {part.key} {name}"
            task = Task(_digest(text.encode())[:12], k, int(neuron), condition, pattern)
            of_image.append(len(tasks))
            tasks.append(task)
        cells.append(of_image)
    most = len(parts) - len(parts) % 2
    count = min(32, most) if options.tasks is None else options.tasks
    repeats = options.repeats
    if repeats is None:
        repeats = max(0, min(round(count / 10), count - GAP))
    lists = assign(cells, tasks=count, repeats=repeats, seed=options.seed)
    return Study(
        options.title, settings, [p.image for p in parts if p.image], tasks, lists, left_out
    )


class _Maker:
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

    def make(self, candidate: Candidate, turn: int) -> _Part:
        """The part of an image."""
        candidate = replace(candidate, x=candidate.x.to(device_of(self._model)))
        with torch.no_grad():
            probabilities = unwrap(self._model(candidate.x)).float().softmax(1)[0].cpu()
        answer = int(probabilities.argmax())
        if candidate.label == answer:
            return _Part("", "right answer", None, {})
        second = int(probabilities.topk(2).indices[1])
        first, roles = (candidate.label, ["right", "predicted"])
        if first is None:
            pair, roles = [answer, second], ["first", "second"]
        else:
            pair = [first, answer]
        neurons = [turn] if self._options.neurons == "one" else [0, 1]
        key = _digest(json.dumps([self._settings, pair, neurons, describe(candidate.x)]).encode())
        file = self._folder / PARTS / f"{key[:24]}.json"
        found = self._read(file, key)
        if found is None:
            found = self._made(candidate, key, pair, roles, neurons, probabilities)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, PART_FORMAT, asdict(found))
        return found

    def _read(self, file: Path, key: str) -> _Part | None:
        if not file.is_file():
            return None
        part: _Part = from_plain(_Part, read_json("build_study", file, PART_FORMAT))
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
    ) -> _Part:
        options = self._options
        if self._layer is None:
            self._layer = last_feature_maps(self._model, candidate.x)
        maps = score_cam(self._model, candidate.x, pair, layer=self._layer)
        regions = SHAPES[options.shape](maps.cpu(), options.region)
        if bool((regions[0] & regions[1]).any()):
            return _Part(key, "regions overlap", None, {})
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
        return _Part(key, None, image, patterns)

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
        name = f"pictures/{_digest(data)[:24]}.png"
        path = self._folder / SITE / name
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, data)
        return name


def _told(trace_options: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `trace` as JSON takes them."""
    told = {}
    for name, value in trace_options.items():
        plain = value is None or isinstance(value, str | int | float | list)
        if not plain and name not in about:
            raise ValueError(
                f"build_study: about must tell {name} in words, got none for {value!r}"
            )
        if plain:
            told[name] = value
    return told


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
