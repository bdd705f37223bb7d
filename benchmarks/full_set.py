"""What a set of many images costs, by the seconds of a few of them: `python -m benchmarks.full_set` measures.

Each configuration is a command of `spade-xai evaluate` with shards, on photographs that ship. The page
docs/many-images.md shows the table that follows.
"""

import json
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

from benchmarks import RESULTS, machine
from spade_xai.reports.page import write_atomically

RESULT = RESULTS / "full-set.json"
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
    measure()
