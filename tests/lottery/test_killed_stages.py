"""Every stage is killed by kill -9 at its writes, again and again, and ends with the files of a stage that was not."""

import json
import os
import subprocess
import sys
from pathlib import Path

from safetensors import safe_open

from spade_xai.lottery.storage import read_state


def content(path):
    """The bytes of a file; of tensors the metadata in any order, whose digest is of every bit."""
    if path.suffix != ".safetensors":
        return path.read_bytes()
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    read_state(path, metadata["format"].split(".")[2])  # checks the digest
    return metadata


def contents(folder):
    return {str(p.relative_to(folder)): content(p) for p in folder.rglob("*") if p.is_file()}


def test_killed_stages_end_with_the_same_files(finished_run, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1",
                   "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}  # fmt: skip
    program = Path(__file__).parent.parent / "support" / "killed_stages.py"
    command = [sys.executable, program, finished_run.path, tmp_path]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kills = json.loads(done.stdout.splitlines()[-1])
    assert len(kills) == 7 + ("SPADE_KILLS" in os.environ)
    for stage, count in kills.items():
        assert count >= 1, stage
        whole, killed = (contents(tmp_path / stage / name) for name in ("whole", "killed"))
        parts = [name for name in killed if name.endswith(".spade-part")]
        assert {n: v for n, v in killed.items() if n not in parts} == whole, stage
