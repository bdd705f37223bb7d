"""Run a stage of a lottery run in processes that are killed at their writes, each later than the last, until one ends.

Started as a program of its own, which forks before it uses any threads: python killed_stages.py BASE WORK. WORK/STAGE
holds the run of a stage that was not killed in `whole` and that of the killed one in `killed`. The whole study, which
takes as long as all stages together, is among them if SPADE_KILLS is set.
"""

import importlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import torch

from spade_ext import files
from spade_xai.lottery import study
from spade_xai.lottery.difficulty import difficulty
from spade_xai.lottery.folder import Run
from spade_xai.lottery.maps import MapSettings, maps_stage
from spade_xai.lottery.pcbm import PCBMSettings
from spade_xai.lottery.regularize import regularize
from spade_xai.lottery.report import write_report
from spade_xai.lottery.settings import bank_of
from spade_xai.lottery.stages import concepts_stage, pcbm_stage
from spade_xai.lottery.tcav import tcav_stage

# What stages import where they use it: here once, and not in each child.
for library in ("captum.attr", "matplotlib.pyplot", "sklearn.linear_model", "sklearn.svm"):
    importlib.import_module(library)

STAGES = {
    "concepts": lambda path: concepts_stage(Run.open(path), "shapes", bank_of("shapes", count=16)),
    "pcbm": lambda path: pcbm_stage(Run.open(path), PCBMSettings(epochs=3, residual=True)),
    "maps": lambda path: maps_stage(Run.open(path), MapSettings(limit=8, insertion=1)),
    "tcav": lambda path: tcav_stage(Run.open(path), limit=3),
    "difficulty": lambda path: difficulty(Run.open(path)),
    "regularize": lambda path: regularize(Run.open(path), [1.0], tickets=[2]),
    "report": lambda path: write_report(Run.open(path), path / "report.html"),
}
if "SPADE_KILLS" in os.environ:
    STAGES["all"] = lambda path: write_report(
        study.run_all(path, "shapes", [0], quick=True, report=str), path / "report.html"
    )


FIRST = {"concepts": 2, "pcbm": 2, "maps": 8, "regularize": 28, "report": 4, "all": 17}
"""The write that a stage is killed at first; 1 if it is not here."""


def killed_at(write: int) -> None:
    """From now on kill this process at a write: at odd ones before the file has its name, at even ones after."""
    whole, count = files.written_whole, 0

    class Killing:
        def __init__(self, path):
            nonlocal count
            count += 1
            self.inner, self.number = whole(path), count

        def __enter__(self):
            return self.inner.__enter__()

        def __exit__(self, *error):
            if self.number == write and write % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            done = self.inner.__exit__(*error)
            if self.number == write:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

    files.written_whole = Killing


def attempt(stage: str, path: Path, write: int | None) -> bool:
    """Run the stage in a process of its own; whether it ended by itself."""
    child = os.fork()
    if not child:
        code = 1
        try:
            torch.set_num_threads(1)
            if write:
                killed_at(write)
            STAGES[stage](path)
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return False
    if status:
        raise SystemExit(f"{stage}: status {status}")
    return True


def main() -> None:
    """Print how often each stage was killed."""
    base, work = Path(sys.argv[1]), Path(sys.argv[2])
    study.QUICK_DATA = {"train": 96, "validation": 36, "test": 36, "concepts": 300}
    study.QUICK_TRAINING = {"epochs": 1, "first_epochs": 2}
    kills = dict.fromkeys(STAGES, 0)
    for stage in STAGES:
        whole, killed = (work / stage / name / "run" for name in ("whole", "killed"))
        for path in (whole, killed):
            if stage == "all":
                path.mkdir(parents=True)
            else:
                shutil.copytree(base, path)
        if not attempt(stage, whole, None):
            raise SystemExit("killed by another")
        while not attempt(stage, killed, FIRST.get(stage, 1) * 4 ** kills[stage]):
            kills[stage] += 1
            if kills[stage] > 30:
                raise SystemExit(f"{stage}: no progress")
    print(json.dumps(kills))


if __name__ == "__main__":
    main()
