"""Figures of the documents, from the committed result files: tables between markers, rewritten whole.

<!-- figures NAME --> ... <!-- end figures --> holds the table that TABLES[NAME] makes.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from benchmarks import RESULTS, ROOT, costs, full_set, peer_tables
from benchmarks.configurations import configurations
from benchmarks.layers import MODELS, LayerShape, layers_of
from benchmarks.markdown import device, seconds, table
from benchmarks.report import beside, fits, kernels, latencies
from benchmarks.result_file import read_results, write_text

DOCUMENTS = ("README.md", "docs/performance.md", "docs/other-projects.md", "docs/many-images.md")
MARKED = re.compile(r"(<!-- figures ([\w-]+) -->\n).*?(<!-- end figures -->)", re.DOTALL)


def results() -> dict[str, dict[str, Any]]:
    """Every committed result file of this suite by its name; studies beside them have a form of their own.

    Raises:
        ValueError: A file lacks benchmarks that failed.
    """
    files = [f for f in sorted(RESULTS.glob("*.json")) if "benchmarks" in json.loads(f.read_text())]
    found = {file.name: read_results(file) for file in files}
    for name, data in found.items():
        if data.get("failed"):
            raise ValueError(f"figures: {name} is incomplete, some of its benchmarks failed")
    return found


def _latency_rows(names: tuple[str, ...]) -> list[list[str]]:
    found = [{**row, "on": device(data)} for data in results().values() for row in latencies(data)]
    best: dict[tuple[str, str], dict[str, Any]] = {}
    # a full run replaces a sampled one, and one that did more replaces one that did less
    for run in sorted(found, key=lambda r: (r["mode"] == "full", r["measured_seconds"])):
        best[run["configuration"], run["on"]] = run
    rows = []
    for run in sorted(best.values(), key=lambda r: (r["method"], r["model"], r["augmentations"])):
        if run["configuration"] not in names:
            continue
        target = run["published"][0] if run["published"] else None
        rows.append(
            [
                _what(run),
                run["on"],
                _mode(run),
                seconds(run["forward_hessian_seconds"]),
                seconds(run["prune_save_seconds"]),
                seconds(run["total_seconds"]),
                f"{seconds(target.seconds)} ({target.source.split(';')[0]})" if target else "",
            ]
        )
    return rows


def _what(run: dict[str, Any]) -> str:
    name = {"obc": "SPADE", "sparsegpt": "FastSPADE"}[run["method"]]
    name = f"Batched {name} ({run['samples']})" if run["samples"] > 1 else name
    layers = "" if run["layers"] == "all" else f", {run['layers']} only"
    return f"{name}, {run['model']}{layers}, {run['augmentations']} augmentations"


def _mode(run: dict[str, Any]) -> str:
    if run["mode"] == "full":
        return "full"
    parts = [f"{run['augmentations_run']} augmentations"]
    if "rows_share" in run:
        parts.append(f"{100 * run['rows_share']:.2g} % of eliminations")
    if "samples_run" in run:
        parts.append(f"batch of {run['samples_run']}")
    return f"extrapolated from {', '.join(parts)}"


HEADLINE = (
    "spade-mobilenet_v2-1024",
    "spade-resnet50",
    "fastspade-resnet50",
    "fastspade-resnet50-128",
    "batched-resnet50",
)
LATENCY_HEAD = [
    "configuration", "on", "run", "forward + Hessian", "pruning + saving", "total", "published, on a GPU",
]  # fmt: skip


def work() -> str:
    """Arithmetic of whole networks by formula."""
    rows = []
    for model in MODELS:
        layers = layers_of(model)

        def total(count: Callable[[LayerShape], float], layers: list[LayerShape] = layers) -> str:
            return f"{sum(x.count * count(x) for x in layers):.2g}"

        rows.append(
            [
                model,
                f"{sum(x.count * x.rows * x.cols for x in layers) / 1e6:.1f} M",
                total(lambda x: 2 * x.rows * x.cols * x.samples),
                total(lambda x: costs.hessian(x, 1).plain_flop),
                total(lambda x: costs.hessian(x, 1).flop),
                total(lambda x: costs.damped_inverse(x.cols).flop),
                total(lambda x: costs.obc_trace(x.rows, x.cols).flop),
                total(lambda x: costs.sparsegpt(x.rows, x.cols).flop),
                f"{sum(4 * x.count * x.cols**2 for x in layers) / 1e9:.2f} GB",
                str(max(x.cols for x in layers)),
            ]
        )
    head = [
        "flop", "weights", "forward, an image", "Hessian, an image", "with shared products",
        "inverses", "exact OBC", "SparseGPT", "all H in float32", "largest D",
    ]  # fmt: skip
    return table(head, rows)


def latency() -> str:
    """Every configuration that was measured."""
    return table(LATENCY_HEAD, _latency_rows(tuple(configurations())))


def latency_headline() -> str:
    """The configurations of HEADLINE."""
    return table(LATENCY_HEAD, _latency_rows(HEADLINE))


def stages() -> str:
    """Seconds of each stage in the full runs, and the peak of memory beyond what the process held before."""
    names = ("augment", "forward", "hessian", "prune", "save")
    rows = []
    for data in results().values():
        for run in latencies(data):
            if run["mode"] == "full":
                parts = [run["stage_seconds"][name] for name in names]
                shares = [f"{s:.1f} s ({100 * s / run['total_seconds']:.0f} %)" for s in parts]
                if run.get("asynchronous"):  # only the sum of the first three means something
                    together = run["forward_hessian_seconds"]
                    share = 100 * together / run["total_seconds"]
                    shares[:3] = ["", "", f"{together:.1f} s ({share:.0f} %), all three"]
                what = f"{_what(run)}, {device(data)}" if run.get("asynchronous") else _what(run)
                peak = run["peak_extra_bytes"]
                rows.append([what, *shares, f"{peak / 1e9:.2f} GB" if peak else ""])
    return table(["configuration", *names, "peak memory"], rows)


def widths() -> str:
    """Where exact OBC spends its time: layers by columns."""
    rows = []
    for data in results().values():
        for run in latencies(data):
            if run["method"] != "obc":
                continue
            spent: dict[int, float] = {}
            for layer in run["layer_seconds"]:
                spent[layer["cols"]] = spent.get(layer["cols"], 0.0) + layer["seconds"]
            most = sorted(spent.items(), key=lambda item: -item[1])[:4]
            shares = ", ".join(f"{d}: {100 * s / sum(spent.values()):.0f} %" for d, s in most)
            rows.append([_what(run), _mode(run), shares])
    return table(["configuration", "run", "columns D: share of the pruning"], sorted(rows))


def operations() -> str:
    """Every operation of the quick suite."""
    rows = [
        [
            f"`{k['op']}`",
            device(data),
            k["problem"],
            seconds(k["seconds"]["median"]),
            f"{k['gflops']:.0f}",
            f"{100 * k['share_of_sgemm']:.0f} %",
            f"{100 * k['share_of_copy']:.0f} %",
            f"{100 * k['share_of_limit']:.0f} %",
            beside(k),
        ]
        for data in results().values()
        for k in kernels(data)
    ]
    head = [
        "operation",
        "on",
        "problem",
        "time",
        "GFLOP/s",
        "of SGEMM",
        "of copy",
        "of its limit",
        "times faster than",
    ]
    return table(head, rows)


def scaling() -> str:
    """Fitted powers."""
    rows = [
        [
            f["op"],
            device(data),
            f["variable"],
            _range(f["values"]),
            f"{f['exponent']:.2f}",
            str(f["expected"]),
        ]
        for data in results().values()
        for f in fits(data)
        if f["exponent"] is not None
    ]
    return table(["operation", "on", "over", "values", "fitted power", "in the limit"], rows)


def _range(values: list[float]) -> str:
    return f"{values[0]:.0f} to {values[-1]:.0f}"


def language_model() -> str:
    """What examples/prune_llm.py has found."""
    methods = ["dense", "magnitude", "sparsegpt", "obc"]
    rows = [
        [target, *(f"{values[m]:.2f}" for m in methods)]
        for file in sorted(RESULTS.glob("*.json"))
        for target, values in json.loads(file.read_text()).get("perplexity", {}).items()
    ]
    return table(["pruned", *methods], rows)


def runs() -> str:
    """Machine and command of every result file."""
    rows = [
        [
            f"`{name}`",
            f"`{data['command']}`",
            f"{data['machine']['cpu']}, {device(data)}",
            f"torch {data['machine']['torch']}",
            f"`{data['commit'][:10]}`",
        ]
        for name, data in results().items()
    ]
    return table(["result file", "command", "machine", "versions", "commit"], rows)


def of_a_full_set() -> str:
    """Seconds per image of an evaluation, and days of a full set."""
    head = ["configuration", "trace", "maps", "scores", f"days for {full_set.IMAGES:,} images"]
    on = full_set.about()
    note = f"Seconds per image on {on['cpu']}, {on['threads']} threads, EfficientNet-Lite0 at 224 x 224 pixels."
    return f"{note}\n\n{table(head, full_set.rows())}"


def of_many_images() -> str:
    """The most memory of an evaluation by the number of images."""
    few, many = full_set.COUNTS
    return table(["engine", f"{few} images", f"{many} images"], full_set.memory_rows())


TABLES: dict[str, Callable[[], str]] = {
    "work": work,
    "latency": latency,
    "latency-headline": latency_headline,
    "stages": stages,
    "widths": widths,
    "operations": operations,
    "scaling": scaling,
    "published-code": lambda: peer_tables.published_code(results()),
    "published-flows": lambda: peer_tables.flows(results()),
    "wide-layers": lambda: peer_tables.wide_layers(results()),
    "language-model": language_model,
    "runs": runs,
    "full-set": of_a_full_set,
    "many-images-memory": of_many_images,
}


def filled(text: str) -> str:
    """A document with its tables as the result files have them."""
    return MARKED.sub(lambda m: m[1] + "\n" + TABLES[m[2]]() + "\n" + m[3], text)


def outdated() -> list[str]:
    """Documents whose figures differ from the result files."""
    texts = {name: (ROOT / name).read_text() for name in DOCUMENTS}
    return [name for name, text in texts.items() if filled(text) != text]


def write_figures() -> None:
    """Write the figures of all documents."""
    for name in DOCUMENTS:
        path = ROOT / name
        write_text(path, filled(path.read_text()))
