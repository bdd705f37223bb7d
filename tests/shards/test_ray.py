"""Shards as Ray tasks: equal to those of one process, whatever dies in the middle."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

pytest.importorskip("ray")

NET = '''
import os, signal
from pathlib import Path
import torch
from torch import nn

class Net(nn.Module):
    """Once a shard is written the worker is killed, and once there are two, the driver: where the files say so."""
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(784, 3))
    def forward(self, x):
        driver, worker = int(Path("driver").read_text()), os.getpid()
        if worker != driver:
            shards = len(list(Path("out/shards").glob("*.parquet")))
            for file, least, victim in (("kill worker", 1, worker), ("kill driver", 2, driver)):
                if shards >= least and Path(file).exists():
                    try:
                        os.rename(file, file + ", done")  # one process wins
                    except FileNotFoundError:
                        continue
                    os.kill(victim, signal.SIGKILL)
        return self.layers(x)
'''
ARGUMENTS = "evaluate pictures -m net.py:Net -a saliency -t FastSPADE -n 8 -s 0.5 --shard 1 --threads 1".split()
RAY = ["--engine", "ray", "-o", "out"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for k in range(5):
        pixels = np.random.default_rng(k).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"pictures/{k}.png")
    Path("net.py").write_text(NET)
    return tmp_path


def started(*arguments):
    """The command in a process of its own."""
    note = "import os, pathlib; pathlib.Path('driver').write_text(str(os.getpid()))"
    script = f"{note}; from spade_xai.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", script, *ARGUMENTS, *arguments],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(*arguments):
    process = started(*arguments)
    _, err = process.communicate(timeout=300)
    return process.returncode, err


def scores(out):
    """The rows of each shard but for times."""
    return {
        path.name: [row for row in parquet.read_table(path).to_pylist() if row["kind"] != "seconds"]
        for path in sorted((Path(out) / "shards").iterdir())
    }


def test_equal_to_one_process_though_a_worker_and_the_driver_are_killed(folder):
    code, err = ended("-o", "alone")
    assert code == 0, err
    expected = scores("alone")
    assert len(expected) == 5 and all(expected.values())

    for file in ("kill worker", "kill driver"):
        Path(file).touch()
    code, _ = ended(*RAY)
    assert code == -signal.SIGKILL
    assert Path("kill worker, done").exists() and Path("kill driver, done").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in Path("out/shards").iterdir()}
    assert 2 <= len(kept) < 5
    code, err = ended(*RAY)
    assert code == 0, err
    assert scores("out") == expected
    assert all(Path("out/shards", name).stat().st_mtime_ns == at for name, at in kept.items())
