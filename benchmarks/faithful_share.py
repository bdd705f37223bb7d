"""Measure how many default traces are faithful, and what the search for them adds, on photographs.

python -m benchmarks.faithful_share                       50 photographs, both methods, the default number of variants
python -m benchmarks.faithful_share --photographs 5       the first so many
python -m benchmarks.faithful_share --page                write the page only, from the results

The network is EfficientNet-Lite0 with its ImageNet weights, the photographs are those that ship with the package. Each
trace has a file in --work, so that an interrupted run goes on where it was.
"""

import argparse
import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import ROOT, machine
from benchmarks.imagenet_traces import TRACERS, described
from benchmarks.result_file import write_results, write_text
from benchmarks.trojan_study import filled
from spade_xai.exceptions import UnfaithfulTraceWarning
from spade_xai.models.efficientnet_lite import load_efficientnet_lite
from spade_xai.tracing.augment import ImageAugment
from spade_xai.tracing.trace import trace
from spade_xai.trojans.imagenet import load_trojan_pictures, preprocessing

PAGE = ROOT / "docs" / "which-sparsity.md"
RESULT = ROOT / "benchmarks" / "results" / "faithful-share.json"
MODEL = "efficientnet_lite0"


def main() -> None:
    """Measure what is not there yet, then write the results and the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=int, default=50)
    parser.add_argument("--augmentations", type=int, default=256)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "faithful-share")
    parser.add_argument("--page", action="store_true", help="write the page only")
    options = parser.parse_args()
    if not options.page:
        records = measure(options.work, options.photographs, options.augmentations)
        write_results(RESULT, summary(records, options.augmentations))
    write_text(PAGE, filled(PAGE.read_text(), {"faithful": block(json.loads(RESULT.read_text()))}))
    print(f"wrote {PAGE.relative_to(ROOT)}")


def measure(work: Path, photographs: int, augmentations: int) -> list[dict[str, Any]]:
    """One record per photograph and method, from files where they are."""
    network, known = load_efficientnet_lite(MODEL), preprocessing()
    augment = ImageAugment("resnet", mean=known.mean, std=known.std)
    pictures = load_trojan_pictures("clean", photographs)
    work.mkdir(parents=True, exist_ok=True)
    records = []
    for k, name in enumerate(pictures.names):
        for tracer, method in TRACERS.items():
            file = work / f"{k:03}-{tracer}-{augmentations}.json"
            if not file.exists():
                start = time.process_time()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UnfaithfulTraceWarning)  # they are counted
                    found = trace(
                        network, pictures.inputs[k : k + 1], method=method, augment=augment,
                        augmentations=augmentations, progress=False,
                    )  # fmt: skip
                seconds = time.process_time() - start
                record = {**described(found), "cpu_seconds": seconds}
                write_results(file, {"photograph": name, "tracer": tracer, **record})
                print(f"{name} {tracer}: {seconds:.0f} s, faithful {record['faithful']}")
            records.append(json.loads(file.read_text()))
    return records


def summary(records: Sequence[dict[str, Any]], augmentations: int) -> dict[str, Any]:
    """What the page needs of each method, with the records themselves."""
    return {
        "command": "python -m benchmarks.faithful_share",
        "commit": machine.commit(),
        "machine": machine.describe(),
        "augmentations": augmentations,
        "photographs": len({r["photograph"] for r in records}),
        "records": list(records),
    }


def block(result: dict[str, Any]) -> str:
    """The lines of the page, without the markers."""
    lines = []
    for tracer in TRACERS:
        some = [r for r in result["records"] if r["tracer"] == tracer]
        faithful = sum(r["faithful"] for r in some)
        sparsity = np.array([r["sparsity"] for r in some])
        # of the whole, the search took share / (1 + share)
        search = np.array([r["cpu_seconds"] * r["search"] / (1 + r["search"]) for r in some])
        share = np.array([r["search"] for r in some])
        error = sparsity.std(ddof=1) / len(some) ** 0.5
        lines.append(
            f"- {tracer}: {faithful} of {len(some)} traces are faithful; {sparsity.mean():.0%} ± {error:.0%} of the "
            f"weights are zero; the search takes {search.mean():.1f} CPU seconds of {_mean(some):.1f}, which is "
            f"{share.mean():.0%} of the rest of the trace (at most {share.max():.0%})."
        )
    about = (
        f"Measured by `{result['command']}` at commit {result['commit'][:12]} on the first {result['photographs']} "
        f"photographs that ship with the package, with EfficientNet-Lite0, its ImageNet weights and "
        f"{result['augmentations']} variants (mean ± one standard error):"
    )
    return "\n".join([about, "", *lines])


def _mean(records: Sequence[dict[str, Any]]) -> float:
    return float(np.mean([r["cpu_seconds"] for r in records]))


if __name__ == "__main__":
    main()
