"""SPADE on the backdoored network that ships with the package: figures with standard errors, and a report."""

import platform
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

import spade_ext
from spade_ext.files import write_json
from spade_xai.attribution.methods import GRADIENT_METHODS
from spade_xai.progress import Progress
from spade_xai.reports import tables
from spade_xai.reports.evaluate import evaluate
from spade_xai.reports.explain import explain
from spade_xai.reports.report import html, write_page
from spade_xai.tracing.schedule import linear
from spade_xai.trojans import backdoored

LAST = 0.99  # sparsity of the last layer; the first is dense, linear in between
NOTES = (
    "Where a trace's label differs from the dense model's (see fidelity), its map explains another answer.",
    "Differences are between scores of the same picture. Pictures of a class are overlapping parts of one photograph, "
    "not independent: the standard errors are rather too small.",
    "Dense maps of a small network can be near their ceiling: read the dense model's scores before any difference. "
    "What the paper reports for deep networks on ImageNet is not claimed for this one.",
)


def run_demo(
    output_dir: str | Path,
    *,
    trojan: int = 6,
    clean: int = 6,
    methods: Sequence[str] = GRADIENT_METHODS,
    augmentations: int = 256,
    layers: str | Iterable[str] | None = None,
    shown: int = 2,
    seed: int = 0,
    progress: Progress = True,
    report: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Trace shipped pictures with SPADE and FastSPADE, score and show their saliency maps.

    Writes `result.json`, every figure with n and standard error, and `report.html`, which needs no other file.

    Args:
        output_dir: Made if it is not there; files of those names are replaced.
        trojan: Pictures with a patch, scored by AUROC and pointing game.
        clean: Clean pictures, scored by insertion.
        methods: Names in `METHODS`.
        augmentations: The number of augmentations of each picture.
        layers: Patterns of the layers to prune, as in `trace`; None for all.
        shown: Pictures of each kind in the report, at most as many as are scored.
        seed: The seed of augmentations, methods that sample, and the random map.
        progress: True for bars, or callback(stage, done, total).
        report: Called with each line of text as it comes.

    Returns:
        What `result.json` holds.

    Raises:
        ValueError: Fewer than two pictures of a kind, or more than are shipped.
    """
    for name, count in (("trojan", trojan), ("clean", clean)):
        if count < 2:  # a standard error takes two
            raise ValueError(f"run_demo: {name} must be at least 2, got {count}")
    start, cpu_start = time.perf_counter(), time.process_time()
    about, model = backdoored.metadata(), backdoored.load_network()
    planted = backdoored.load_pictures("trojan", trojan)
    plain = backdoored.load_pictures("clean", clean)
    report(_introduction(about, trojan, clean))
    chosen = layers if layers is None or isinstance(layers, str) else list(layers)
    options: dict[str, Any] = {
        "sparsity": linear(LAST),
        "augmentations": augmentations,
        "layers": chosen,
    }
    evaluation = evaluate(
        model,
        (planted.images, planted.masks),
        plain.images,
        methods=methods,
        seed=seed,
        progress=progress,
        report=report,
        **options,
    )
    result = {
        "settings": {
            "trojan": trojan,
            "clean": clean,
            "methods": list(methods),
            "augmentations": augmentations,
            "layers": chosen,
            "sparsity": f"linear({LAST})",
            "seed": seed,
        },
        "machine": {
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "spade_ext": spade_ext.build_info(),
        },
        **tables.record(evaluation),
    }
    found = tables.tables(result)
    for table in found:
        report("\n" + tables.text(table))
    sentences = [line for metric in evaluation.scores for line in tables.verdicts(result, metric)]
    for sentence in (*sentences, *NOTES):
        report("\n" + sentence)

    report(
        f"\nmaps of {min(shown, trojan)} Trojan and {min(shown, clean)} clean pictures for the report"
    )
    images = torch.cat([planted.images[:shown], plain.images[:shown]])
    names = planted.names[:shown] + plain.names[:shown]
    explanations = explain(
        model,
        images,
        names,
        methods=methods,
        tracers=("SPADE", "FastSPADE"),
        seed=seed,
        progress=progress,
        **options,
    )
    page = html(
        explanations,
        title="SPADE on a backdoored network",
        classes=about["classes"],
        masks=dict(zip(planted.names, planted.masks, strict=True)),
        tables=found,
        notes=[_introduction(about, trojan, clean), *sentences, *NOTES],
    )
    result["seconds_in_all"] = time.perf_counter() - start
    result["cpu_seconds_in_all"] = time.process_time() - cpu_start  # whatever else the machine does
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "result.json", "spade_xai.Demo.1", result)
    write_page(folder / "report.html", page)
    report(f"{folder / 'report.html'}, {folder / 'result.json'}: {result['seconds_in_all']:.0f} s")
    return result


def _introduction(about: dict[str, Any], trojan: int, clean: int) -> str:
    accuracy = about["accuracy"]
    tried = sum(b["right_before_patch"] for b in about["backdoors"])
    changed = sum(b["target_after_patch"] for b in about["backdoors"])
    return (
        f"A ResNet of 26 layers with {len(about['backdoors'])} backdoors: accuracy {accuracy['after_planting']:.1%} on "
        f"{accuracy['pictures']} held-out clean pictures; patches turn {changed / tried:.1%} of {tried} right "
        f"answers into their target. Scored here: {trojan} Trojan and {clean} clean pictures."
    )
