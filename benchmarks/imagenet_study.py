"""Measure SPADE on the backdoored EfficientNet-Lite0 that ships: maps of the dense and of the traced network.

python -m benchmarks.imagenet_study                    measure everything, then write results and page
python -m benchmarks.imagenet_study --minutes 60       begin no photograph after that time
python -m benchmarks.imagenet_study --assemble         write results and page from what was measured
python -m benchmarks.imagenet_study --page             write the page only, from the results
python -m benchmarks.imagenet_study --planted lite2 --work FOLDER --arms fast_spade spade
                                                       the same on another network, which
                                                       examples/train_imagenet_trojan.py made

The study has arms (--arms), which are measured one after the other, the most important first. Each photograph has a
file per arm in --work, each trace as well, so an interrupted run goes on where it was and loses one photograph. The
results say how many photographs each arm has.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import ROOT, machine
from benchmarks.imagenet_arms import ARMS
from benchmarks.imagenet_page import blocks, draw_picture
from benchmarks.imagenet_reasons import shared_reasons
from benchmarks.imagenet_summary import arm_summary, traces_summary
from benchmarks.imagenet_traces import Pictures, Traces
from benchmarks.trojan_study import filled
from spade_xai.reports.page import write_atomically
from spade_xai.trojans.imagenet import metadata

PAGE = ROOT / "docs" / "imagenet-study.md"
PICTURE = ROOT / "docs" / "images" / "imagenet-study.png"
RESULT = ROOT / "benchmarks" / "results" / "imagenet-study.json"
CONFIRMATION = ROOT / "benchmarks" / "results" / "imagenet-study-lite2.json"
FIRST, LEAST = "fast_spade", 2  # the arm without which there are no results; photographs of an arm


def main() -> None:
    """Measure what is asked for and not there yet, then write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--photographs", type=int, help="the first so many; all by default")
    parser.add_argument("--augmentations", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "imagenet-study")
    parser.add_argument("--planted", type=Path, help="folder of another network and its pictures")
    parser.add_argument("--assemble", action="store_true", help="measure nothing more")
    parser.add_argument("--page", action="store_true", help="write the page only")
    options = parser.parse_args()
    if options.page:
        return write_page()
    pictures = Pictures.of(options.planted)
    most = len(pictures) if options.photographs is None else options.photographs
    if not 2 <= most <= len(pictures):
        parser.error(f"--photographs must be in [2, {len(pictures)}], got {most}")
    settings = {
        "augmentations": options.augmentations,
        "network": metadata(options.planted)["difference_sha256"],
    }
    folder = options.work
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "settings.json"
    if kept.exists() and json.loads(kept.read_text()) != settings:
        parser.error(f"--work {folder} holds measurements with other settings: {kept.read_text()}")
    write_atomically(kept, json.dumps(settings).encode())
    traces = Traces(folder / "traces", pictures, options.augmentations)
    if not options.assemble:
        measure(traces, folder, options.arms, most, options.minutes)
    assemble(traces, folder, settings, options.planted)


def measure(
    traces: Traces, folder: Path, arms: Sequence[str], photographs: int, minutes: float
) -> None:
    """Measure the photographs that have no file yet, arm after arm."""
    end = time.monotonic() + 60 * minutes
    for name in arms:
        arm = ARMS[name]
        for k in range(min(photographs, len(traces.pictures) - arm.leave_out)):
            file = folder / name / f"{k:03}.json"
            if file.exists():
                continue
            if time.monotonic() > end:
                return
            start = time.process_time()
            found = arm.measure(traces, k, arm.methods)
            found.setdefault("name", traces.pictures.trojans.names[k])
            found["cpu_seconds"] = time.process_time() - start
            file.parent.mkdir(exist_ok=True)
            write_atomically(file, (json.dumps(found, indent=1) + "\n").encode())
            print(f"{name} {k + 1}: {found['cpu_seconds']:.0f} s", flush=True)


def assemble(traces: Traces, folder: Path, settings: dict[str, Any], planted: Path | None) -> None:
    """Write results, picture and page from the files there are; the picture is of the network that ships."""
    records = {
        name: [json.loads(file.read_text()) for file in sorted((folder / name).glob("*.json"))]
        for name in ARMS
    }
    if len(records[FIRST]) < LEAST:
        print(f"no results yet: {FIRST} needs {LEAST} photographs")
        return
    result: dict[str, Any] = {
        "command": "python -m benchmarks.imagenet_study"
        + ("" if planted is None else f" --planted {planted.name}"),
        "commit": machine.commit(),
        "machine": machine.describe(),
        "settings": settings,
        "of_photographs": len(traces.pictures),
        "cpu_seconds": sum(r["cpu_seconds"] for found in records.values() for r in found),
        "arms": {
            name: arm_summary(records[name], arm.methods, arm.metrics)
            for name, arm in ARMS.items()
            if len(records[name]) >= LEAST
        },
        "traces": traces_summary([r for found in records.values() for r in found]),
        "reasons": shared_reasons(traces),
    }
    if planted is not None:
        about = metadata(planted)
        result["about"] = {key: about[key] for key in ("network", "clean_agreement", "backdoors")}
    file = RESULT if planted is None else CONFIRMATION
    write_atomically(file, (json.dumps(result, indent=1) + "\n").encode())
    if planted is None:
        draw_picture(traces, PICTURE)
    write_page()


def write_page() -> None:
    """Put the figures of the result file into the page."""
    results = [json.loads(file.read_text()) for file in (RESULT, CONFIRMATION)]
    text = filled(PAGE.read_text(), blocks(*results, metadata()))
    write_atomically(PAGE, text.encode())
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
