"""benchmarks/gpu.sh over commands that only note how they were called; tests that require a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.gpu_parts import PARTS

ROOT = Path(__file__).parents[2]
NOTING = """#!/bin/sh
echo "$(basename "$0") $* [$SPADE_REQUIRE_CUDA$PYTORCH_NO_CUDA_MEMORY_CACHING]" >> "$CALLS"
case "$*" in *$FAILS*) exit 1 ;; esac
"""
MEASURED = ["goals", "hessian", "pruning", "traces", "scaling", "long-traces"]
STEPS = ["build", "test", "check", *MEASURED, "memcheck", "racecheck", "synccheck"]


@pytest.fixture
def gpu_script(tmp_path):
    """Runs the script, commands with `fails` among their words failing; gives its result and the calls."""
    for name in ("python", "compute-sanitizer"):
        (tmp_path / name).write_text(NOTING)
        (tmp_path / name).chmod(0o755)

    def run(fails, *steps):
        calls = tmp_path / "calls"
        calls.write_text("")
        own = {"CALLS": str(calls), "FAILS": fails, "PYTHON": "python"}
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", ROOT / "benchmarks" / "gpu.sh", tmp_path / "out", *steps],
            env={**os.environ, **own, "PATH": path}, capture_output=True, text=True,
        )  # fmt: skip
        told = [x.removeprefix("== ") for x in done.stdout.splitlines() if x.startswith("== ")]
        return done, told, calls.read_text().splitlines()

    return run


def test_all_steps(gpu_script):
    done, told, calls = gpu_script("no such word")
    assert done.returncode == 0 and told == STEPS
    assert calls[5].startswith("python -m benchmarks gpu --check")
    parts = [call.split()[5] for call in calls if "benchmarks gpu --part" in call]
    assert parts == MEASURED and set(MEASURED) == set(PARTS)
    assert sum("--check" in call for call in calls) == 1
    memcheck, *others = calls[-3:]
    assert memcheck.endswith("[11]") and "--report-api-errors no" in memcheck
    for call, tool in zip([memcheck, *others], STEPS[-3:], strict=True):
        assert f"--tool {tool} " in call and "--kernel-name kns=spade" in call
    assert all(call.endswith("[1]") for call in others)
    files = [word for word in calls[4].split() if word.startswith("tests/")]
    assert files and all((ROOT / file).exists() for file in files)


def test_a_step_that_fails_does_not_keep_others_from_running(gpu_script):
    done, told, _ = gpu_script("--check")
    assert done.returncode == 1 and told == STEPS
    assert "failed: check" in done.stderr
    done, told, _ = gpu_script("-m pytest", "test", "goals", "other")
    assert done.returncode == 1 and told == ["test", "goals", "other"]
    assert "no such step: other" in done.stderr and "failed: test other" in done.stderr


def test_nothing_runs_without_the_build(gpu_script):
    done, told, calls = gpu_script("pip")
    assert done.returncode == 1 and told == ["build"] and len(calls) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_required_gpu_that_is_missing_fails_the_run():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--collect-only", "test_devices.py"],
        cwd=ROOT / "tests", env={**os.environ, "SPADE_REQUIRE_CUDA": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 4 and "torch finds no GPU" in done.stderr
