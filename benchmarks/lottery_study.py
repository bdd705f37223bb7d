"""Keep the figures of a finished run of lottery tickets in results/.

python -m benchmarks.lottery_study RUN NAME COMMAND...

writes results/lottery-NAME.json: the record of RUN/report.json without what only the report's pictures need, beside the
commands that made it, the machine and the commit.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from spade_xai.lottery.storage import read_json
from spade_xai.reports.page import write_atomically

RESULTS = Path(__file__).parent / "results"
BULKY = {"measures", "by_class", "by_picture"}


def slim(value: Any) -> Any:
    """The record without lists of one value per picture or class, and with six digits."""
    if isinstance(value, dict):
        return {k: slim(v) for k, v in value.items() if k not in BULKY}
    if isinstance(value, list):
        return [slim(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument(
        "command", nargs="+", help="the commands that made the run, one argument each"
    )
    given = parser.parse_args()
    record = slim(read_json(given.run / "report.json", "report"))
    result = {"commands": given.command, "machine": describe(), **record}
    text = json.dumps(result, separators=(",", ":")).replace('},{"arm"', '},\n{"arm"') + "\n"
    write_atomically(RESULTS / f"lottery-{given.name}.json", text.encode())


if __name__ == "__main__":
    main()
