"""Saliency maps of the dense model and of its traces, side by side."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from spade_xai.attribution.attribute import attribute, pixel_map
from spade_xai.attribution.methods import GRADIENT_METHODS, MethodName
from spade_xai.progress import Progress
from spade_xai.tracing.fidelity import Fidelity, spoken
from spade_xai.tracing.layer_report import LayerReport
from spade_xai.tracing.pruning.registry import TRACERS
from spade_xai.tracing.result import Trace
from spade_xai.tracing.trace import trace
from spade_xai.trojans.trojan import predictions


@dataclass
class Explanation:
    """What one image's saliency maps are before and after pruning for it."""

    name: str
    image: Tensor  # [3, H, W] in [0, 1], to be shown
    target: int  # the class explained
    prediction: int  # of the dense model
    maps: dict[str, dict[str, Tensor]]  # method -> "dense" or tracer -> [H, W]
    layers: dict[str, list[LayerReport]] = field(default_factory=dict)  # of each tracer
    fidelity: dict[str, Fidelity] = field(default_factory=dict)
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)  # "dense" or tracer -> stage

    def summary(self) -> dict[str, Any]:
        """All but image and maps, as JSON takes it."""
        return {
            "image": self.name,
            "target": self.target,
            "prediction": self.prediction,
            "methods": list(self.maps),
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


def explain(
    model: nn.Module,
    images: Tensor,
    names: Sequence[str],
    *,
    pictures: Tensor | None = None,
    target: int | None = None,
    methods: Sequence[str] = GRADIENT_METHODS,
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
        names: The name of each image.
        pictures: The same images in [0, 1], to be shown; None: images are in [0, 1].
        target: The class to explain; None: what the dense model predicts for each image.
        methods: Names in `METHODS`.
        tracers: Names in TRACERS.
        seed: The seed of augmentations and of methods that sample.
        z_box: As in `image_map`.
        progress: True for bars, or callback(stage, done, total).
        **trace_options: Further arguments of `trace`: sparsity, augmentations, layers, ...
    """
    check_tracers("explain", tracers)
    predicted = predictions(model, images)
    shown = images if pictures is None else pictures
    results = []
    for k, name in enumerate(names):
        x, answer = images[k : k + 1], int(predicted[k])
        label = answer if target is None else target
        result = Explanation(name, shown[k], label, answer, {method: {} for method in methods})
        add_maps(result, "dense", model, x, seed, z_box)
        for tracer in tracers:
            found = trace(
                model, x, method=TRACERS[tracer], seed=seed, progress=progress, **trace_options
            )
            add_trace(result, tracer, found)
            add_maps(result, tracer, found.model, x, seed, z_box)
        results.append(result)
    return results


def add_maps(
    result: Explanation,
    column: str,
    model: nn.Module,
    x: Tensor,
    seed: int = 0,
    z_box: bool = False,
) -> None:
    """Compute the maps of a model for x [1, 3, H, W] by the explanation's methods."""
    start = time.perf_counter()
    for method, maps in result.maps.items():
        maps[column] = image_map(model, x, result.target, method, seed, z_box)[0]
    result.seconds.setdefault(column, {})["maps"] = time.perf_counter() - start


def image_map(
    model: nn.Module, x: Tensor, target: int | Tensor, method: str, seed: int, z_box: bool = False
) -> Tensor:
    """The map [1, H, W] of one image x [1, 3, H, W].

    Args:
        model: Classifier. Not modified.
        x: As the model takes it.
        target: Class to explain.
        method: A name in METHODS.
        seed: The seed of methods that sample.
        z_box: LRP's z-box rule in the layers that read x, with x's least and greatest value as bounds (or 0 where it
            lies outside), as the released code of the paper has it.
    """
    options: dict[str, Any] = {}
    if z_box and method == "lrp":
        low, high = (float(v) for v in x.aminmax())
        options["bounds"] = (min(low, 0.0), max(high, 0.0))
    return pixel_map(
        attribute(model, x, target, cast(MethodName, method), seed=seed, progress=False, **options),
        method,
    )


def add_trace(result: Explanation, tracer: str, found: Trace) -> None:
    """Note a trace's layers, fidelity and times."""
    result.layers[tracer] = found.layers
    result.fidelity[tracer] = short_fidelity(found)
    result.seconds.setdefault(tracer, {}).update(found.timings)


def short_fidelity(found: Trace, most: int = 64) -> Fidelity:
    """A trace's fidelity on the first of its augmentations, at most so many."""
    return found.fidelity(augmentations=min(most, found.settings["augmentations"]))


def check_tracers(function: str, tracers: Sequence[str]) -> None:
    """Refuse names that are not in TRACERS."""
    for tracer in tracers:
        if tracer not in TRACERS:
            raise ValueError(f"{function}: tracers are {', '.join(TRACERS)}, got {tracer!r}")


def class_name(classes: Sequence[str] | None, index: int) -> str:
    """The name of a class, or its number."""
    return classes[index] if classes is not None and index < len(classes) else f"class {index}"


def unit_range(values: Tensor) -> tuple[Tensor, bool]:
    """Scale a map by its largest magnitude: to [0, 1], or to [-1, 1] with True if any entry is negative."""
    scale = values.abs().max().clamp_min(torch.finfo(values.dtype).tiny)
    return values / scale, bool((values < 0).any())
