"""Saliency maps of the dense model and of its traces, side by side."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from spade_xai.attribution.attribute import attribute, pixel_map
from spade_xai.progress import Progress
from spade_xai.tracing.result import Fidelity, LayerReport, Trace
from spade_xai.tracing.trace import trace
from spade_xai.trojans.trojan import predictions

TRACERS = {"SPADE": "obc", "FastSPADE": "sparsegpt"}
"""The paper's names of the pruning methods."""

GRADIENT_METHODS = (
    "saliency",
    "input_x_gradient",
    "deep_lift",
    "lrp",
    "guided_backprop",
    "guided_grad_cam",
)
"""The methods that need a few passes an image; the others need hundreds."""


@dataclass
class Explanation:
    """What one image's saliency maps are before and after pruning for it."""

    name: str
    image: Tensor  # [3, H, W] in [0, 1]
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
    target: int | None = None,
    methods: Sequence[str] = GRADIENT_METHODS,
    tracers: Sequence[str] = ("SPADE",),
    seed: int = 0,
    progress: Progress = True,
    **trace_options: Any,
) -> list[Explanation]:
    """Trace each image and explain the dense and the sparse model's answer by the same methods.

    Args:
        model: Classifier of images in [0, 1]. Not modified.
        images: [B, 3, H, W].
        names: Of each image.
        target: The class to explain; None: what the dense model predicts for each image.
        methods: Names in `saliency.METHODS`.
        tracers: Names in TRACERS.
        seed: Of augmentations and of methods that sample.
        progress: True for bars, or callback(stage, done, total).
        **trace_options: Further arguments of `trace`: sparsity, augmentations, layers, ...
    """
    check_tracers("explain", tracers)
    predicted = predictions(model, images)
    results = []
    for k, name in enumerate(names):
        image, answer = images[k : k + 1], int(predicted[k])
        label = answer if target is None else target
        result = Explanation(name, image[0], label, answer, {method: {} for method in methods})
        add_maps(result, "dense", model, seed)
        for tracer in tracers:
            found = trace(
                model, image, method=TRACERS[tracer], seed=seed, progress=progress, **trace_options
            )
            add_trace(result, tracer, found)
            add_maps(result, tracer, found.model, seed)
        results.append(result)
    return results


def add_maps(result: Explanation, column: str, model: nn.Module, seed: int = 0) -> None:
    """Compute the maps of a model by the explanation's methods."""
    start = time.perf_counter()
    for method, maps in result.maps.items():
        found = attribute(
            model, result.image[None], result.target, method, seed=seed, progress=False
        )
        maps[column] = pixel_map(found, method)[0]
    result.seconds.setdefault(column, {})["maps"] = time.perf_counter() - start


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
