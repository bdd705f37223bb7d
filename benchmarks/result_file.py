"""Result files: what of pytest-benchmark's JSON the report needs, written whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

STATISTICS = ("min", "median", "mean", "stddev", "iqr", "rounds")
MOST_ROUNDS = 50  # calls of microseconds are repeated thousands of times


def slim(data: dict[str, Any]) -> dict[str, Any]:
    """What of pytest-benchmark's JSON is kept."""
    return {
        "command": data.get("command", "unknown"),
        "datetime": data.get("datetime", "unknown"),
        "machine": data["machine_info"],
        "commit": data["commit_info"]["commit"],
        "benchmarks": [
            {
                "name": b["fullname"].removeprefix("benchmarks/"),
                "group": b["group"],
                "seconds": {k: b["stats"][k] for k in STATISTICS},
                "rounds_seconds": b["stats"]["data"][:MOST_ROUNDS],
                **b["extra_info"],
            }
            for b in data["benchmarks"]
        ],
    }


def read_results(path: str | Path) -> dict[str, Any]:
    """A result file, ours or pytest-benchmark's.

    Raises:
        ValueError: The file holds neither.
    """
    try:
        data = json.loads(Path(path).read_text())
        return slim(data) if "machine_info" in data else {**data, "benchmarks": data["benchmarks"]}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"read_results: {path} is not a result file: {error!r}") from error


def write_text(path: Path, text: str) -> None:
    """Write to a temporary file beside path, then rename."""
    part = path.with_name(f"{path.name}.part{os.getpid()}")
    try:
        part.write_text(text)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_results(path: Path, data: dict[str, Any]) -> None:
    """Write a result file."""
    write_text(path, json.dumps(data, indent=1) + "\n")
