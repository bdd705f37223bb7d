"""What a set of many images costs, for docs/many-images.md.

python -m benchmarks.full_set             seconds of each stage, by two photographs that ship
python -m benchmarks.full_set --memory    the most memory of `spade-xai evaluate` by the number of images

Each configuration is a command of `spade-xai evaluate` with shards.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

from benchmarks import RESULTS, machine
from spade_xai.reports.page import write_atomically
from spade_xai.trojans.bundled import unpack

RESULT, MEMORY = RESULTS / "full-set.json", RESULTS / "many-images-memory.json"
COUNTS = (8, 80)  # images of the toy network, in shards of 4
ENGINES = {"in one process": [], "`--engine ray`, the command itself": ["--engine", "ray"]}
IMAGES = 21121  # of the paper's evaluation on ImageNet
NAMES = ("animals_panda.jpg", "coffee.jpg")
CONFIGURATIONS = {
    "FastSPADE, defaults": ["-t", "FastSPADE"],
    "SPADE, defaults": ["-t", "SPADE"],
    "FastSPADE, `--quality paper`": ["-t", "FastSPADE", "--quality", "paper"],
}
MODEL = "pretrained:efficientnet_lite0"


def measure() -> None:
    """Run every configuration on the photographs, and write what each stage took."""
    pictures = files("spade_xai.trojans") / "imagenet_assets" / "pictures"
    found = []
    for name, options in CONFIGURATIONS.items():
        with tempfile.TemporaryDirectory() as folder:
            images = [str(pictures / image) for image in NAMES]
            command = ["evaluate", *images, "-m", MODEL, *options, "--shard", "2", "-o", folder]
            subprocess.run(
                [sys.executable, "-m", "spade_xai", *command, "--json"],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            scores = json.loads((Path(folder) / "scores.json").read_text())
        shown = ["spade-xai", "evaluate", "photos/", "-m", MODEL, *options, "--shard", "2"]
        found.append(
            {
                "name": name,
                "command": " ".join(shown),
                "images": scores["traces"],
                "seconds": scores["seconds"],
            }
        )
    result = {"commit": machine.commit(), "machine": machine.describe(), "configurations": found}
    write_atomically(RESULT, (json.dumps(result, indent=1) + "\n").encode())


def measure_memory() -> None:
    """Run few and many small images, and write the most memory that the command's own process had."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        known = unpack("toy", Path(folder) / "toy")
        sources = [Path(folder) / "toy" / picture.file for picture in known.trojan]
        for count in COUNTS:
            images = Path(folder) / f"images-{count}"
            images.mkdir()
            for k in range(count):
                shutil.copy(sources[k % len(sources)], images / f"{k:04}.png")
        weights = [] if known.weights is None else ["-w", str(Path(folder) / "toy" / known.weights)]
        for name, options in ENGINES.items():
            for count in COUNTS:
                command = [
                    "evaluate", str(Path(folder) / f"images-{count}"), "-m", known.model, *weights,
                    "--normalize", known.normalize, "-t", "FastSPADE", "-a", "saliency", "-n", "4", "-s", "0.5",
                    "--shard", "4", "-o", str(Path(folder) / f"out-{count}-{len(options)}"), *options,
                ]  # fmt: skip
                most = _most_memory([sys.executable, "-m", "spade_xai", *command, "--json"])
                found.append({"engine": name, "images": count, "bytes": most})
    result = {"commit": machine.commit(), "machine": machine.describe(), "memory": found}
    write_atomically(MEMORY, (json.dumps(result, indent=1) + "\n").encode())


def _most_memory(command: list[str]) -> int:
    """Bytes that the process of a command held at most, its children not counted."""
    most = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            lines = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
            most = max([most, *(1024 * int(line.split()[1]) for line in lines)])
            time.sleep(0.1)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return most


def memory_rows() -> list[list[str]]:
    """Engine; megabytes of each number of images."""
    found: dict[str, list[str]] = {}
    for run in json.loads(MEMORY.read_text())["memory"]:
        found.setdefault(run["engine"], []).append(f"{run['bytes'] / 1e6:.0f} MB")
    return [[engine, *cells] for engine, cells in found.items()]


def rows() -> list[list[str]]:
    """Configuration; seconds per image of traces, of maps, of scores; days of all images."""
    result = json.loads(RESULT.read_text())
    table = []
    for run in result["configurations"]:
        parts = {"traces": 0.0, "maps": 0.0, "scores": 0.0}
        for stage, seconds in run["seconds"].items():
            part = (
                "maps"
                if stage == "maps"
                else "scores"
                if stage in ("metrics", "fidelity")
                else "traces"
            )
            parts[part] += seconds / run["images"]
        days = sum(parts.values()) * IMAGES / 86400
        table.append([run["name"], *(f"{value:.1f}" for value in parts.values()), f"{days:.1f}"])
    return table


def about() -> dict[str, Any]:
    """The machine of the result."""
    return json.loads(RESULT.read_text())["machine"]


if __name__ == "__main__":
    if sys.argv[1:] == ["--memory"]:
        measure_memory()
    else:
        measure()
