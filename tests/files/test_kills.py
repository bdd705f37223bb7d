"""Runs that are killed, in the middle of writes and anywhere else, and started again give what a whole run gives.

`SPADE_KILLS=60 pytest tests/files/test_kills.py` kills sixty times.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from results import contents

KILLS = int(os.environ.get("SPADE_KILLS", "4"))
TESTS = Path(__file__).parents[1]
FAST = ["-m", "command_line:make", "-n", "8", "--batch-size", "8", "--augment", "noise"]
COMMANDS = {
    "trace": ["trace", "pictures", *FAST, "-s", "0.5", "-t", "FastSPADE", "-o", "out"],
    "explain": ["explain", "pictures", *FAST, "-s", "0.5", "-a", "saliency", "-o", "out"],
    "evaluate": ["evaluate", "pictures", *FAST, "-s", "0.5", "-a", "saliency", "-o", "out"],
    "tune": [
        "tune", "pictures", *FAST, "-a", "saliency", "--grid", "0.3,0.6", "--checkpoint", "out/c.jsonl",
        "-o", "out/tuned.json",
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Runs command lines in a folder with two pictures; see killed.py."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("kills"))
    Path("pictures").mkdir()
    for k in range(2):
        pixels = np.random.default_rng(k).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"pictures/{k}.png")
    paths = [str(TESTS / "support"), str(TESTS / "cli"), *sys.path]
    process = subprocess.Popen(
        [sys.executable, TESTS / "support" / "killed.py"], stdin=subprocess.PIPE, text=True,
        stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip

    def run(arguments, kill=None):
        process.stdin.write(json.dumps({"arguments": arguments, "kill": kill}) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield run
    process.stdin.close()
    process.wait(timeout=60)
    os.chdir(before)


@pytest.mark.parametrize("command", COMMANDS)
def test_killed_runs_give_what_whole_ones_give(server, command):
    arguments, draws = COMMANDS[command], random.Random(command)

    def fresh():
        shutil.rmtree("out", ignore_errors=True)
        Path("out").mkdir()

    fresh()
    start = time.perf_counter()
    code, events = server(arguments)
    seconds = time.perf_counter() - start
    assert code == 0 and events > 4
    whole = contents("out")
    fresh()
    killed = 0
    while killed < max(1, KILLS // len(COMMANDS)):
        kill = ["event", draws.randint(1, events)]
        if killed % 3 == 2:
            kill = ["seconds", draws.uniform(0, seconds)]
        code, _ = server(arguments, kill)
        if code in (-signal.SIGKILL, -signal.SIGALRM):
            killed += 1
            if draws.random() < 0.5:  # else the next run goes on, and may be killed too
                continue
            assert server(arguments)[0] == 0
        else:
            assert code == 0  # it ended before
        assert contents("out") == whole
        fresh()
    assert server(arguments)[0] == 0
    assert contents("out") == whole  # nothing of killed runs is left beside
