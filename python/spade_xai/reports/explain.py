"""Saliency maps of the dense model and of its traces, side by side."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from spade_ext.checks import check_int
from spade_xai.attribution.attribute import attribute, pixel_map
from spade_xai.attribution.methods import QUICK_METHODS, MethodName
from spade_xai.choices import misnamed
from spade_xai.models.inputs import device_of
from spade_xai.progress import Progress, reporting
from spade_xai.reports.answers import Answer, answers_of, probability_of
from spade_xai.tracing.fidelity import Fidelity, spoken
from spade_xai.tracing.layer_report import LayerReport
from spade_xai.tracing.pruning.registry import TRACERS
from spade_xai.tracing.result import Trace
from spade_xai.tracing.trace import trace
from spade_xai.trojans.trojan import predictions

DENSE = "dense"
"""The column of the whole network, beside those of the tracers."""


@dataclass(kw_only=True)
class Explained:
    """What one input's maps are before and after pruning for it: what images and texts have in common.

    Attributes:
        name: The name of the input.
        target: The class explained.
        prediction: The class that the dense model answers.
        maps: method -> "dense" or tracer -> the map for the target.
        layers: Report of each layer, of each tracer; as they stand in the model.
        fidelity: Of each tracer's trace.
        seconds: "dense" or tracer -> stage -> seconds; they add up to the time that the input took.
        answers: The five most probable classes, of "dense" and each tracer.
        label: The class that the user says the input is; None: none said.
        label_probability: That "dense" and each tracer give the label.
        label_maps: As maps, for the label; empty if there is none or it is the target.
        equal: Methods left out, as their maps equal those of another: method -> the other.
    """

    name: str
    target: int
    prediction: int
    maps: dict[str, dict[str, Tensor]]
    layers: dict[str, list[LayerReport]] = field(default_factory=dict)
    fidelity: dict[str, Fidelity] = field(default_factory=dict)
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    label: int | None = None
    label_probability: dict[str, float] = field(default_factory=dict)
    label_maps: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    equal: dict[str, str] = field(default_factory=dict)

    def common(self) -> dict[str, Any]:
        """All but the name and the maps, as JSON takes it."""
        return {
            "target": self.target,
            "prediction": self.prediction,
            "label": self.label,
            "label_probability": self.label_probability,
            "answers": {
                column: [asdict(answer) for answer in answers]
                for column, answers in self.answers.items()
            },
            "methods": list(self.maps),
            "equal_methods": self.equal,
            "traces": {
                tracer: {
                    "layers": [asdict(layer) for layer in self.layers[tracer]],
                    **spoken(asdict(self.fidelity[tracer])),
                    "fidelity": asdict(self.fidelity[tracer]),
                    "seconds": self.seconds[tracer],
                }
                for tracer in self.layers
            },
        }


@dataclass(kw_only=True)
class Explanation(Explained):
    """What one image's saliency maps are before and after pruning for it.

    Attributes:
        image: [3, H, W] in [0, 1], to be shown; maps are [H, W].
    """

    image: Tensor

    def summary(self) -> dict[str, Any]:
        """All but image and maps, as JSON takes it."""
        return {"image": self.name, **self.common()}


def explain(
    model: nn.Module,
    images: Tensor,
    names: Sequence[str] | None = None,
    *,
    pictures: Tensor | None = None,
    target: int | None = None,
    label: int | None = None,
    methods: Sequence[str] = QUICK_METHODS,
    tracers: Sequence[str] = ("SPADE",),
    seed: int = 0,
    z_box: bool = False,
    progress: Progress = True,
    **trace_options: Any,
) -> list[Explanation]:
    """Trace each image and explain the dense and the sparse model's answer by the same methods.

    Attributions, and what they take for no input, act in the space of the model's inputs: of normalised images, a
    baseline of 0 is the mean colour.

    Args:
        model: Classifier. Not modified.
        images: [B, 3, H, W], as the model takes them.
        names: The name of each image; None: numbers.
        pictures: The same images in [0, 1], to be shown; None: images are in [0, 1].
        target: The class to explain; None: what the dense model predicts for each image.
        label: The class that the images are, which is explained beside the target; None: none.
        methods: Names in `METHODS`.
        tracers: Names in TRACERS: "SPADE", "FastSPADE", ...
        seed: The seed of augmentations and of methods that sample.
        z_box: As in `image_map`.
        progress: True for bars, or callback(stage, done, total).
        **trace_options: Further arguments of `trace`: sparsity, augmentations, layers, ...

    Returns:
        Explanation of each image; `plot` draws it.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spade_xai import explain
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        >>> images = torch.rand(1, 3, 8, 8)
        >>> (found,) = explain(model, images, methods=["saliency"], augmentations=16, progress=False)
        >>> found.maps["saliency"]["SPADE"].shape
        torch.Size([8, 8])
        >>> found.answers["dense"][0].index == found.prediction
        True
    """
    check_tracers("explain", tracers)
    if label is not None:
        check_int("explain", "label", label, 0)
    images = images.to(device_of(model))
    predicted = predictions(model, images)
    shown = images if pictures is None else pictures
    names = [f"image {k + 1}" for k in range(len(images))] if names is None else names
    results = []
    for k, name in enumerate(names):
        x, answer = images[k : k + 1], int(predicted[k])
        explained = answer if target is None else target
        empty: dict[str, dict[str, Tensor]] = {method: {} for method in methods}
        result = Explanation(
            name=name, image=shown[k], target=explained, prediction=answer, maps=empty, label=label
        )
        if label is not None and label != explained:
            result.label_maps = {method: {} for method in methods}
        with whole_time(result, DENSE):
            add_maps(result, DENSE, model, x, seed, z_box, progress)
        for tracer in tracers:
            with whole_time(result, tracer):
                found = trace(
                    model, x, method=TRACERS[tracer], seed=seed, progress=progress, **trace_options
                )
                add_trace(result, tracer, found)
                add_maps(result, tracer, found.model, x, seed, z_box, progress)
        drop_equal(result)
        results.append(result)
    return results


@contextmanager
def whole_time(result: Explained, column: str) -> Iterator[None]:
    """Note the time that no stage of a column took as a stage "other"."""
    start = time.perf_counter()
    yield
    seconds = result.seconds.setdefault(column, {})
    seconds["other"] = max(0.0, time.perf_counter() - start - sum(seconds.values()))


def add_maps(
    result: Explanation,
    column: str,
    model: nn.Module,
    x: Tensor,
    seed: int = 0,
    z_box: bool = False,
    progress: Progress = False,
) -> None:
    """Compute the answers and maps of a model for x [1, 3, H, W], the maps by the explanation's methods."""
    start = time.perf_counter()
    result.answers[column] = answers_of(model, x)
    if result.label is not None:
        result.label_probability[column] = probability_of(model, x, result.label)
    wanted = [(result.target, method, maps) for method, maps in result.maps.items()]
    if result.label is not None:
        wanted += [(result.label, method, maps) for method, maps in result.label_maps.items()]
    with reporting(progress, "maps") as report:
        for done, (target, method, maps) in enumerate(wanted, 1):
            maps[column] = image_map(model, x, target, method, seed, z_box)[0]
            if report is not None:
                report(done, len(wanted))
    result.seconds.setdefault(column, {})["maps"] = time.perf_counter() - start


def drop_equal(result: Explained) -> None:
    """Leave out methods whose maps all equal those of a method before them, and note which."""
    kept: list[str] = []
    for method, columns in list(result.maps.items()):
        twin = next((m for m in kept if _same(columns, result.maps[m])), None)
        if twin is None:
            kept.append(method)
            continue
        result.equal[method] = twin
        del result.maps[method]
        result.label_maps.pop(method, None)


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[column], b[column]) for column in a)


def image_map(
    model: nn.Module, x: Tensor, target: int | Tensor, method: str, seed: int, z_box: bool = False
) -> Tensor:
    """The map [1, H, W] of one image x [1, 3, H, W], computed where the model is and given on the CPU.

    Args:
        model: Classifier. Not modified.
        x: As the model takes it.
        target: Class to explain.
        method: A name in METHODS.
        seed: The seed of methods that sample.
        z_box: LRP's z-box rule in the layers that read x, with x's least and greatest value as bounds (or 0 where it
            lies outside), as the released code of the paper has it.
    """
    x = x.to(device_of(model))
    options: dict[str, Any] = {}
    if z_box and method == "lrp":
        low, high = (float(v) for v in x.aminmax())
        options["bounds"] = (min(low, 0.0), max(high, 0.0))
    return pixel_map(
        attribute(model, x, target, cast(MethodName, method), seed=seed, progress=False, **options),
        method,
    ).cpu()


def add_trace(result: Explained, tracer: str, found: Trace) -> None:
    """Note a trace's layers, fidelity and times."""
    order = {name: place for place, (name, _) in enumerate(found.dense.named_modules())}
    result.layers[tracer] = in_place(found.layers, order)
    start = time.perf_counter()
    result.fidelity[tracer] = short_fidelity(found)
    agreement = time.perf_counter() - start
    result.seconds.setdefault(tracer, {}).update(found.timings, agreement=agreement)


def in_place(layers: Sequence[LayerReport], order: Mapping[str, int]) -> list[LayerReport]:
    """Layers in order of execution, each that was left dense after the layer that stands before it in the model.

    Args:
        layers: Those that were run in order, then those left out.
        order: The place of each module in the model; projections of one attention have its place.
    """

    def place(layer: LayerReport) -> int:
        name = layer.name
        while name and name not in order:
            name = name.rpartition(".")[0]
        return order.get(name, len(order))

    result = [layer for layer in layers if not layer.reason]
    for layer in sorted((x for x in layers if x.reason), key=place):
        before = [k for k, other in enumerate(result) if place(other) <= place(layer)]
        result.insert(before[-1] + 1 if before else 0, layer)
    return result


def short_fidelity(found: Trace, most: int = 64) -> Fidelity:
    """A trace's fidelity on the first of its augmentations, at most so many."""
    return found.fidelity(augmentations=min(most, found.settings["augmentations"]))


def check_tracers(function: str, tracers: Sequence[str]) -> None:
    """Refuse names that are not in TRACERS."""
    for tracer in tracers:
        if tracer not in TRACERS:
            raise ValueError(f"{function}: {misnamed('tracer', TRACERS, tracer)}")
