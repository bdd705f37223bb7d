"""Run a study of lottery tickets by `spade-xai lottery`, and keep its figures in results/.

python -m benchmarks.lottery_study NAME RUN

runs the commands of STUDIES[NAME] with the folder RUN, which may hold what an interrupted run has done, and writes
results/lottery-NAME.json: the record of RUN/report.json without what only the report's pictures need, beside the
commands, the machine and the commit. `python -m benchmarks.lottery_page` puts it into the documents.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import RESULTS, ROOT
from benchmarks.machine import commit, describe
from spade_xai.lottery.storage import read_json
from spade_xai.reports.page import write_atomically

BULKY = {"measures", "by_class", "by_picture"}
SEEDS = "--seed 0 --seed 1 --seed 2"
EXAMPLE = "examples/lottery_photographs.py"
STUDIES = {
    "shapes": (
        f"find shapes -o RUN {SEEDS}",
        f"find shapes -o RUN {SEEDS} --scope global",
        "find shapes -o RUN --criterion sparsegpt --criterion obc --criterion gradcam "
        "--criterion structured --criterion random",
        "find shapes -o RUN --reinit",
        "concepts RUN --bank shapes",
        "pcbm RUN",
        "maps RUN --traces 4",
        "regularize RUN --weight .1,1,10 --ticket 6",
        "difficulty RUN",
        "tcav RUN --limit 16",
        "report RUN",
    ),
    "photographs": (
        "find folder PHOTOGRAPHS/classes -m pretrained:efficientnet_lite0 -o RUN --size 112 --rounds 6 "
        "--percent 10 --epochs 4 --first-epochs 6 --batch 16 --rate 0.01",
        "concepts RUN --bank PHOTOGRAPHS/concepts --count 12",
        "pcbm RUN",
        "maps RUN",
        "difficulty RUN",
        "report RUN",
    ),
}


def slim(value: Any) -> Any:
    """The record without lists of one value per picture or class, and with six digits."""
    if isinstance(value, dict):
        return {k: slim(v) for k, v in value.items() if k not in BULKY}
    if isinstance(value, list):
        return [slim(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def main() -> None:
    """Run the commands and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=STUDIES)
    parser.add_argument("run", type=Path, help="folder of the run")
    given = parser.parse_args()
    begun, commands = commit(), STUDIES[given.name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    photographs = given.run.with_name(f"{given.run.name}-pictures")
    if any("PHOTOGRAPHS" in command for command in commands) and not photographs.is_dir():
        subprocess.run([sys.executable, ROOT / EXAMPLE, photographs], check=True, env=environment)
    places = {"RUN": str(given.run), "PHOTOGRAPHS": str(photographs)}
    for command in commands:
        words = [
            "/".join(places.get(part, part) for part in word.split("/")) for word in command.split()
        ]
        subprocess.run(
            [sys.executable, "-m", "spade_xai", "lottery", *words], check=True, env=environment
        )
    record = slim(read_json(given.run / "report.json", "report"))
    if "tcav" in record:  # a row per ticket, class and concept: those of the first arm
        rows = record["tcav"]["rows"]
        record["tcav"]["rows"] = [row for row in rows if row["arm"] == record["arms"][0]]
    if "folder" in record["data"]:  # of this machine
        record["data"]["folder"] = "PHOTOGRAPHS/classes"
    result = {
        "commands": [f"spade-xai lottery {command}" for command in commands],
        "commit": begun,
        "machine": {**describe(), "threads": 1},
        **record,
    }
    text = json.dumps(result, separators=(",", ":")).replace('},{"arm"', '},\n{"arm"') + "\n"
    write_atomically(RESULTS / f"lottery-{given.name}.json", text.encode())


if __name__ == "__main__":
    main()
