"""Measure SPADE on the backdoored EfficientNet-Lite0 that ships: every method dense and after tracing, with controls.

python -m benchmarks.imagenet_study --photographs 20 --methods saliency input_x_gradient
    measure the first 20 photographs, then write results/imagenet-study.json and docs/imagenet-study.md
python -m benchmarks.imagenet_study --page
    write the page only, from the file

A photograph that is measured has a file of its own in --work, so an interrupted run goes on where it was. The whole of
it takes all photographs and the ten methods of the paper, which is the default.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor, nn

from benchmarks import ROOT, machine
from benchmarks.imagenet_page import blocks
from benchmarks.imagenet_summary import summary
from benchmarks.trojan_study import filled
from spade_xai.measures import baselines, metrics
from spade_xai.reports.explain import image_map
from spade_xai.reports.page import write_atomically
from spade_xai.tracing.augment import ImageAugment
from spade_xai.tracing.result import Trace
from spade_xai.tracing.trace import trace
from spade_xai.trojans.imagenet import load_network, load_trojan_pictures, metadata, preprocessing

PAGE = ROOT / "docs" / "imagenet-study.md"
RESULT = ROOT / "benchmarks" / "results" / "imagenet-study.json"
TEN = (
    "saliency", "input_x_gradient", "deep_lift", "lrp", "guided_backprop", "guided_grad_cam",
    "lime", "occlusion", "integrated_gradients", "gradient_shap",
)  # fmt: skip
TRACERS = {"SPADE": "obc", "FastSPADE": "sparsegpt"}
BLUR = 5.0  # pixels, standard deviation
RIVALS = ("smooth_grad", f"dense, blurred {BLUR:g} px")


def measure(number: int, count: int, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Score all maps of photographs, from number on; the trace of the next one is a control."""
    network = load_network()
    trojans = load_trojan_pictures("trojan", per_photograph=1)
    clean = load_trojan_pictures("clean")
    usable = [k for k in range(len(clean)) if k in trojans.photographs]
    made: dict[int, dict[str, Trace]] = {}

    def traces(k: int) -> dict[str, Trace]:
        """Traces of a photograph with and without its patch, by tracer."""
        if k not in made:
            photo = usable[k % len(usable)]
            own = trojans.photographs.index(photo)
            if len(made) > 1:  # those of the photograph before the last are not needed any more
                made.pop(min(made))
            made[k] = {}
            for name, method in TRACERS.items():
                for kind, x in (("trojan", trojans.inputs[own]), ("clean", clean.inputs[photo])):
                    made[k][f"{name}, {kind}"] = trace(
                        network, x[None], method=method, augmentations=options.augmentations,
                        augment=_augment(), sparsity=options.sparsity, progress=False,
                    )  # fmt: skip
        return made[k]

    for k in range(number, count):
        start = time.process_time()
        photo = usable[k]
        own = trojans.photographs.index(photo)
        mine, others = traces(k), traces(k + 1)
        x, mask = trojans.inputs[own : own + 1], trojans.masks[own : own + 1]
        target = int(trojans.predictions[own])
        models: dict[str, nn.Module] = {"dense": network}
        about: dict[str, Any] = {}
        for name in TRACERS:
            found = mine[f"{name}, trojan"]
            models[name] = found.model
            models[f"{name} of the picture without its patch"] = mine[f"{name}, clean"].model
            models[f"{name} of another clean picture"] = others[f"{name}, clean"].model
            models[f"{name} of another Trojan picture"] = others[f"{name}, trojan"].model
            about[name] = describe(found, network, x, target)
        ratios = {layer.name: layer.sparsity_got for layer in mine["SPADE, trojan"].layers}
        models["magnitude pruning"] = baselines.magnitude_prune(network, ratios)
        shared = {"edges": baselines.edge_map(x), "random": baselines.random_map(x, seed=k)}
        planted = {}
        for method in options.methods:
            maps = {name: image_map(m, x, target, method, 0) for name, m in models.items()}
            maps[RIVALS[1]] = blurred(maps["dense"])
            planted[method] = scored({**maps, **shared}, mask)
        rival = image_map(network, x, target, "smooth_grad", 0)
        yield {
            "photograph": photo,
            "name": trojans.names[own],
            "backdoor": trojans.backdoors[own],
            "traces": about,
            "planted": planted,
            "smooth_grad": scored({"smooth_grad": rival}, mask)["smooth_grad"],
            "clean": clean_scores(network, clean.inputs[photo : photo + 1], mine, others, options),
            "cpu_seconds": time.process_time() - start,
        }


def clean_scores(
    network: nn.Module,
    x: Tensor,
    mine: dict[str, Trace],
    others: dict[str, Trace],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Insertion and deletion of the photograph without a patch."""
    with torch.no_grad():
        target = int(network(x).argmax(1))
    models = {"dense": network}
    kept = {}
    for name in TRACERS:
        models[name] = mine[f"{name}, clean"].model
        models[f"{name} of another clean picture"] = others[f"{name}, clean"].model
        kept[name] = describe(mine[f"{name}, clean"], network, x, target)
    found: dict[str, Any] = {"traces": kept, "scores": {}}
    for method in options.methods:
        found["scores"][method] = {}
        for name, model in models.items():
            saliency = image_map(model, x, target, method, 0)
            found["scores"][method][name] = {
                "insertion": float(metrics.insertion(network, x, saliency, target, progress=False)),
                "deletion": float(metrics.deletion(network, x, saliency, target, progress=False)),
            }
    return found


def describe(found: Trace, network: nn.Module, x: Tensor, target: int) -> dict[str, Any]:
    """Whether a trace keeps the answer to x, with what probability, how sparse it is and what it took."""
    with torch.no_grad():
        sparse, dense = found.model(x).softmax(1)[0], network(x).softmax(1)[0]
    weights = sum(layer.rows * layer.cols for layer in found.layers)
    zeros = sum(layer.rows * layer.cols * layer.sparsity_got for layer in found.layers)
    return {
        "kept": int(sparse.argmax()) == target,
        "probability": float(sparse[target]),
        "dense_probability": float(dense[target]),
        "sparsity": zeros / weights,
        "seconds": sum(found.timings.values()),
    }


def scored(maps: dict[str, Tensor], mask: Tensor) -> dict[str, dict[str, float]]:
    """AUROC and pointing game of each map [1, H, W]."""
    return {
        name: {
            "auroc": float(metrics.auroc(m, mask)),
            "pointing_game": float(metrics.pointing_game(m, mask)),
        }
        for name, m in maps.items()
    }


def blurred(maps: Tensor) -> Tensor:
    """Maps [B, H, W] smoothed by a Gaussian."""
    size = 2 * int(3 * BLUR) + 1
    return gaussian_blur2d(maps[:, None], (size, size), (BLUR, BLUR))[:, 0]


def _augment() -> ImageAugment:
    known = preprocessing()
    return ImageAugment("resnet", mean=known.mean, std=known.std)


def main() -> None:
    """Measure what is asked for and not there yet, then write the summary."""
    with_patch = len(load_trojan_pictures("trojan", per_photograph=1))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=int, default=with_patch)
    parser.add_argument("--methods", nargs="+", choices=TEN, default=list(TEN))
    parser.add_argument("--augmentations", type=int, default=64)
    parser.add_argument(
        "--sparsity", type=json.loads, default=None, help="JSON; the default of trace"
    )
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "imagenet-study")
    parser.add_argument("--page", action="store_true", help="write the page only")
    options = parser.parse_args()
    if options.page:
        return write_page()
    if not 2 <= options.photographs <= with_patch:
        parser.error(f"--photographs must be in [2, {with_patch}], got {options.photographs}")
    settings = {
        "methods": options.methods,
        "augmentations": options.augmentations,
        "sparsity": options.sparsity,
        "network": metadata()["difference_sha256"],
    }
    folder = options.work
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "settings.json"
    if kept.exists() and json.loads(kept.read_text()) != settings:
        parser.error(f"--work {folder} holds measurements with other settings: {kept.read_text()}")
    write_atomically(kept, json.dumps(settings).encode())
    files = [folder / f"{k:03}.json" for k in range(options.photographs)]
    missing = [k for k, file in enumerate(files) if not file.exists()]
    if missing:
        for k, found in enumerate(measure(missing[0], options.photographs, options), missing[0]):
            write_atomically(files[k], (json.dumps(found, indent=1) + "\n").encode())
            print(f"{k + 1} of {options.photographs}: {found['cpu_seconds']:.0f} s", flush=True)
    records = [json.loads(file.read_text()) for file in files if file.exists()]
    result = {
        "command": f"python -m benchmarks.imagenet_study --photographs {len(records)} --methods "
        + " ".join(options.methods),
        "commit": machine.commit(),
        "machine": machine.describe(),
        "settings": settings,
        "of_photographs": with_patch,
        "cpu_seconds": sum(record["cpu_seconds"] for record in records),
        **summary(records, options.methods),
    }
    write_atomically(RESULT, (json.dumps(result, indent=1) + "\n").encode())
    write_page()


def write_page() -> None:
    """Put the figures of the result file into the page."""
    result = json.loads(RESULT.read_text())
    text = filled(PAGE.read_text(), blocks(result, metadata()))
    write_atomically(PAGE, text.encode())
    print(f"wrote {PAGE.relative_to(ROOT)}: {result['photographs']} photographs")


if __name__ == "__main__":
    main()
