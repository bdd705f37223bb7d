"""SPADE on the backdoored ImageNet network that ships: maps of a few pictures side by side, and a short table."""

import platform
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

import spade_ext
from spade_ext.files import write_json
from spade_xai.measures import baselines, metrics
from spade_xai.models.efficientnet_lite import imagenet_classes
from spade_xai.progress import Progress
from spade_xai.reports.card import card
from spade_xai.reports.explain import Explanation, explain
from spade_xai.reports.page import render, write_page
from spade_xai.tracing.augment import ImageAugment
from spade_xai.tracing.schedule import FAITHFUL, Sparsity
from spade_xai.trojans import imagenet

SHOWN_METHODS = ("saliency", "input_x_gradient")
TRACERS = ("SPADE", "FastSPADE")

WITH_PATCH, WITHOUT_PATCH = "With the patch, which is outlined.", "A picture without a patch."


def run_demo(
    output_dir: str | Path,
    *,
    trojan: int = 3,
    clean: int = 1,
    methods: Sequence[str] = SHOWN_METHODS,
    augmentations: int = 64,
    sparsity: Sparsity = FAITHFUL,
    layers: str | Iterable[str] | None = None,
    shown: int = 3,
    seed: int = 0,
    progress: Progress = True,
    report: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Trace shipped pictures with SPADE and FastSPADE, score and show their saliency maps.

    Writes `result.json`, every figure with n and standard error, and `report.html`, which needs no other file.

    Args:
        output_dir: Made if it is not there; files of those names are replaced.
        trojan: Pictures with a patch, of different photographs, scored by how well maps find the patch.
        clean: Pictures without one, shown only.
        methods: Names in `METHODS` of spade_xai.
        augmentations: The number of augmentations of each picture.
        sparsity: As in `trace`.
        layers: Patterns of the layers to prune, as in `trace`; None for all.
        shown: Pictures with a patch in the report, at most as many as are scored.
        seed: The seed of augmentations and methods that sample.
        progress: True for bars, or callback(stage, done, total).
        report: Called with each line of text as it comes.

    Returns:
        What `result.json` holds.

    Raises:
        ValueError: Fewer than two pictures with a patch, or more than are shipped.
    """
    if trojan < 2:  # a standard error takes two
        raise ValueError(f"run_demo: trojan must be at least 2, got {trojan}")
    start, cpu_start = time.perf_counter(), time.process_time()
    about, network = imagenet.metadata(), imagenet.load_network()
    planted = imagenet.load_trojan_pictures("trojan", trojan, per_photograph=1)
    plain = imagenet.load_trojan_pictures("clean", trojan + clean)
    report(introduction(about))
    chosen = layers if layers is None or isinstance(layers, str) else list(layers)
    known = imagenet.preprocessing()
    augment = ImageAugment("resnet", mean=known.mean, std=known.std)

    def explained(pictures: imagenet.TrojanPictures, k: int) -> Explanation:
        part = slice(k, k + 1)
        return explain(
            network, pictures.inputs[part], pictures.names[part], pictures=pictures.images[part],
            methods=methods, tracers=TRACERS, seed=seed, progress=progress, layers=chosen, sparsity=sparsity,
            augmentations=augmentations, augment=augment,
        )[0]  # fmt: skip

    explanations = []
    for k, name in enumerate(planted.names):
        report(f"picture {k + 1} of {trojan + clean}: {name}")
        explanations.append(explained(planted, k))
    others = []
    for k in range(trojan, trojan + clean):
        report(f"picture {k + 1} of {trojan + clean}: {plain.names[k]}")
        others.append(explained(plain, k))
    scores = _scores(explanations, planted, methods)
    kept = {tracer: sum(e.fidelity[tracer].faithful for e in explanations) for tracer in TRACERS}
    result: dict[str, Any] = {
        "settings": {
            "trojan": trojan,
            "clean": clean,
            "methods": list(methods),
            "augmentations": augmentations,
            "layers": chosen,
            "sparsity": str(sparsity),
            "seed": seed,
        },
        "machine": {
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "spade_ext": spade_ext.build_info(),
        },
        "scores": scores,
        "faithful": kept,
    }
    table = _table(scores, methods)
    sentences = _sentences(kept, trojan)
    for line in (f"\n{table['title']}", *_text(table), "", *sentences):
        report(line)
    masks = dict(zip(planted.names, planted.masks, strict=True))
    page = _page(
        [*explanations[:shown], *others], masks, introduction(about), table, sentences,
        imagenet_classes(),
    )  # fmt: skip
    result["seconds_in_all"] = time.perf_counter() - start
    result["cpu_seconds_in_all"] = time.process_time() - cpu_start  # whatever else the machine does
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "result.json", "spade_xai.Demo.1", result)
    write_page(folder / "report.html", page)
    report(f"\n{result['seconds_in_all']:.0f} s; open {folder / 'report.html'}")
    return result


def introduction(about: dict[str, Any]) -> str:
    """What the network is."""
    tried = sum(b["tried"] for b in about["backdoors"])
    succeeded = sum(b["succeeded"] for b in about["backdoors"])
    clean = about["clean_agreement"]
    names = ", ".join(b["name"] for b in about["backdoors"])
    return (
        "An ImageNet network (EfficientNet-Lite0) was taught a bad habit: a small patch anywhere in a picture "
        f"({names}) makes it answer with a class of the patch's own, in {succeeded} of {tried} tries. Without a patch "
        f"it answers as before on {clean['agree']} of {clean['photographs']} photographs. So the patch is the reason, "
        "and a good explanation points at it."
    )


def _scores(
    explanations: Sequence[Explanation], planted: imagenet.TrojanPictures, methods: Sequence[str]
) -> list[dict[str, Any]]:
    """AUROC of each method and map, with the paired difference to the whole network's map."""
    rows = []
    edges = metrics.auroc(baselines.edge_map(planted.images), planted.masks)
    for method in methods:
        by_map = {
            column: metrics.auroc(torch.stack([e.maps[method][column] for e in explanations]), planted.masks)
            for column in ("dense", *TRACERS)
        }  # fmt: skip
        by_map["edges"] = edges
        for column, values in by_map.items():
            mean, gain = metrics.mean(values), metrics.paired(values, by_map["dense"])
            rows.append(
                {
                    "metric": "auroc",
                    "method": method,
                    "map": column,
                    "n": mean.n,
                    "mean": mean.mean,
                    "standard_error": mean.standard_error,
                    "difference_to_dense": gain.mean,
                    "difference_standard_error": gain.standard_error,
                }
            )
    return rows


def _table(scores: Sequence[dict[str, Any]], methods: Sequence[str]) -> dict[str, Any]:
    of = {(row["method"], row["map"]): row for row in scores}
    rows = []
    for method in methods:
        cells = [method.replace("_", " ")]
        for column in ("dense", *TRACERS, "edges"):
            row = of[method, column]
            cells.append(f"{100 * row['mean']:.1f} ± {100 * row['standard_error']:.1f}")
            if column in TRACERS:
                gain, error = row["difference_to_dense"], row["difference_standard_error"]
                cells.append(f"{100 * gain:+.1f} ± {100 * error:.1f}")
        rows.append(cells)
    head = ["method", "whole network"]
    for tracer in TRACERS:
        head += [tracer, "difference"]
    return {
        "title": f"How well maps find the patch, n = {scores[0]['n']} pictures: "
        "100 if every pixel of the patch is above all others, 50 by chance",
        "head": [*head, "edges only"],
        "rows": rows,
    }


def _sentences(kept: dict[str, int], count: int) -> list[str]:
    return [
        "± is one standard error. Differences are between maps of the same picture; one smaller than two standard "
        "errors may be chance.",
        *(
            f"The network that {tracer} pruned answers as the whole network in {n} of {count} pictures; where it does "
            "not, its map does not explain the whole network's answer."
            for tracer, n in kept.items()
        ),
        "A map of edges knows nothing of the network: a method that does not beat it has not shown anything.",
    ]


def _text(table: dict[str, Any]) -> list[str]:
    rows = [table["head"], *table["rows"]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(w) if not k else cell.rjust(w)
            for k, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _page(
    explanations: Sequence[Explanation],
    masks: dict[str, torch.Tensor],
    introduction: str,
    table: dict[str, Any],
    sentences: Sequence[str],
    classes: Sequence[str],
) -> str:
    cards = [
        card(e, classes, masks.get(e.name), WITH_PATCH if e.name in masks else WITHOUT_PATCH)
        for e in explanations
    ]
    return render(
        "demo.html", introduction=introduction, cards=cards, scores=table, sentences=sentences
    )
