"""What the study on the backdoored EfficientNet-Lite0 measures, in the order of importance."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor, nn

from benchmarks.imagenet_traces import TRACERS, Traces, described
from benchmarks.imagenet_tuned import PHOTOGRAPHS, tune_ratios
from spade_xai.attribution.attribute import attribute, pixel_map
from spade_xai.measures import baselines, metrics
from spade_xai.reports.explain import image_map

Scores = dict[str, dict[str, dict[str, float]]]
"""Metric by method and map."""

BLUR = 5.0  # pixels, standard deviation
NOISY_COPIES = 16
STEPS = 25  # of insertion and deletion
SHARED = ("SmoothGrad", "edges", "random")
"""Maps that are the same beside each method."""


@dataclass(frozen=True)
class Arm:
    """One part of the study.

    Attributes:
        title: What the page calls it.
        methods: Maps that are compared.
        metrics: What is measured of each.
        measure: Called with traces, number of the photograph and methods.
        leave_out: So many photographs at the end, which something was chosen by.
    """

    title: str
    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    measure: Callable[[Traces, int, Sequence[str]], dict[str, Any]]
    leave_out: int = 0


def spade(traces: Traces, k: int, methods: Sequence[str]) -> dict[str, Any]:
    """SPADE, and its control of the paper: the trace of a clean photograph of another class."""
    return _traced(traces, k, methods, "SPADE", {})


def fast_spade(traces: Traces, k: int, methods: Sequence[str]) -> dict[str, Any]:
    """FastSPADE with the same control, and what needs no trace."""
    x, target = traces.pictures.input(k, "trojan"), traces.pictures.answer(k, "trojan")
    network = traces.pictures.network
    smooth = attribute(network, x, target, "smooth_grad", samples=NOISY_COPIES, progress=False)
    maps = (
        pixel_map(smooth, "smooth_grad"),
        baselines.edge_map(x),
        baselines.random_map(x, seed=k),
    )
    return _traced(traces, k, methods, "FastSPADE", dict(zip(SHARED, maps, strict=True)))


def _traced(
    traces: Traces, k: int, methods: Sequence[str], tracer: str, shared: dict[str, Tensor]
) -> dict[str, Any]:
    own, other = traces(k, tracer, "trojan"), traces(k + 1, tracer, "clean")
    models = {
        "dense": traces.pictures.network,
        tracer: own.model,
        f"{tracer} of another clean picture": other.model,
    }
    about = {
        f"{tracer}, Trojan pictures": described(own),
        f"{tracer}, clean pictures": described(other),
    }
    blur = ("dense", tracer)
    return {"scores": planted(traces, k, methods, models, shared, blur), "traces": about}


def controls(traces: Traces, k: int, methods: Sequence[str]) -> dict[str, Any]:
    """Other traces and other ways to prune."""
    models: dict[str, nn.Module] = {"dense": traces.pictures.network}
    about: dict[str, Any] = {}
    for tracer in TRACERS:
        fixed = traces(k, tracer, "fixed")
        models[tracer] = traces(k, tracer, "trojan").model
        models[f"{tracer}, last 5 blocks and head at a fixed sparsity"] = fixed.model
        models[f"{tracer} of the picture without its patch"] = traces(k, tracer, "clean").model
        models[f"{tracer} of another Trojan picture"] = traces(k + 1, tracer, "trojan").model
        about[f"{tracer}, fixed sparsity"] = described(fixed)
    found = traces(k, "SPADE", "trojan").layers
    ratios = {layer.name: layer.sparsity_got for layer in found if layer.status == "pruned"}
    models["magnitude pruning, SPADE's sparsities"] = baselines.magnitude_prune(
        traces.pictures.network, ratios
    )
    return {"scores": planted(traces, k, methods, models, {}), "traces": about}


def second(traces: Traces, k: int, methods: Sequence[str]) -> dict[str, Any]:
    """FastSPADE again, on the other Trojan picture of the photograph: another patch at another place."""
    own, other = traces(k, "FastSPADE", "second"), traces(k + 1, "FastSPADE", "clean")
    models = {
        "dense": traces.pictures.network,
        "FastSPADE": own.model,
        "FastSPADE of another clean picture": other.model,
    }
    about = {"FastSPADE, second Trojan pictures": described(own)}
    scores = planted(traces, k, methods, models, {}, kind="second")
    name = traces.pictures.trojans.names[traces.pictures.number(k, "second")]
    return {"scores": scores, "traces": about, "name": name}


def tuned(tracer: str, traces: Traces, k: int, methods: Sequence[str]) -> dict[str, Any]:
    """Ratios tuned on other photographs, beside faithful traces."""
    tune_ratios(traces, tracer)
    own = traces(k, tracer, "tuned")
    models = {
        "dense": traces.pictures.network,
        tracer: traces(k, tracer, "trojan").model,
        f"{tracer}, tuned sparsity": own.model,
    }
    about = {f"{tracer}, tuned sparsity": described(own)}
    return {"scores": planted(traces, k, methods, models, {}), "traces": about}


def costly(traces: Traces, k: int, methods: Sequence[str]) -> dict[str, Any]:
    """Methods of many passes."""
    models: dict[str, nn.Module] = {"dense": traces.pictures.network}
    models.update({tracer: traces(k, tracer, "trojan").model for tracer in TRACERS})
    return {"scores": planted(traces, k, methods, models, {})}


def clean(traces: Traces, k: int, methods: Sequence[str]) -> dict[str, Any]:
    """Insertion and deletion of the photograph without a patch."""
    network = traces.pictures.network
    models: dict[str, nn.Module] = {"dense": network}
    for tracer in TRACERS:
        models[tracer] = traces(k, tracer, "clean").model
        models[f"{tracer} of another clean picture"] = traces(k + 1, tracer, "clean").model
    x, target = traces.pictures.input(k, "clean"), traces.pictures.answer(k, "clean")
    scores: Scores = {method: {} for method in methods}
    for method, of_method in scores.items():
        maps = torch.cat([image_map(m, x, target, method, 0) for m in models.values()])
        many = x.expand(len(maps), -1, -1, -1)
        options: dict[str, Any] = {"steps": STEPS, "progress": False}
        found = {
            "insertion": metrics.insertion(network, many, maps, target, **options),
            "deletion": metrics.deletion(network, many, maps, target, **options),
        }
        for number, name in enumerate(models):
            of_method[name] = {metric: float(v[number]) for metric, v in found.items()}
    return {"scores": scores}


def planted(
    traces: Traces,
    k: int,
    methods: Sequence[str],
    models: dict[str, nn.Module],
    shared: dict[str, Tensor],
    blur: Sequence[str] = (),
    kind: str = "trojan",
) -> Scores:
    """How well each method's map of each model finds the patch."""
    x, target = traces.pictures.input(k, kind), traces.pictures.answer(k, kind)
    mask = traces.pictures.mask(k, kind)
    found: Scores = {}
    for method in methods:
        maps = {name: image_map(m, x, target, method, 0) for name, m in models.items()}
        maps.update({f"{name}, blurred": blurred(maps[name]) for name in blur})
        found[method] = {
            name: {
                "auroc": float(metrics.auroc(m, mask)),
                "pointing_game": float(metrics.pointing_game(m, mask)),
            }
            for name, m in {**maps, **shared}.items()
        }
    return found


def blurred(maps: Tensor) -> Tensor:
    """Maps [B, H, W] smoothed by a Gaussian."""
    size = 2 * int(3 * BLUR) + 1
    return gaussian_blur2d(maps[:, None], (size, size), (BLUR, BLUR))[:, 0]


CHEAP = (
    "saliency", "input_x_gradient", "guided_backprop", "guided_grad_cam", "deep_lift", "lrp",
)  # fmt: skip
FEW = ("saliency", "input_x_gradient", "guided_grad_cam")
FOUND = ("auroc", "pointing_game")
ARMS = {
    "fast_spade": Arm("FastSPADE, and what needs no trace", CHEAP, FOUND, fast_spade),
    "spade": Arm("SPADE", CHEAP, FOUND, spade),
    "second": Arm("A second draw of Trojan pictures", FEW, FOUND, second),
    "tuned": Arm("Tuned sparsity", FEW, FOUND, partial(tuned, "FastSPADE"), PHOTOGRAPHS),
    "tuned_spade": Arm(
        "Tuned sparsity of SPADE", FEW, FOUND, partial(tuned, "SPADE"), PHOTOGRAPHS
    ),
    "controls": Arm("Further controls", FEW, FOUND, controls),
    "costly": Arm(
        "Methods of many passes",
        ("integrated_gradients", "gradient_shap", "occlusion", "lime"), FOUND, costly,
    ),
    "clean": Arm("Clean photographs", FEW, ("insertion", "deletion"), clean),
}  # fmt: skip
