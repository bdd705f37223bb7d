"""A study of drawn squares that needs no network, and a server of it in a process of its own."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from spade_xai.study.assignment import assign
from spade_xai.study.folder import SITE, Study, StudyImage, Task
from spade_xai.study.packages import pinned, place
from spade_xai.study.page import write_site


def draw(folder, name, color):
    """A picture of one colour below site/; its place."""
    path = folder / SITE / "pictures" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), color, np.uint8)).save(path)
    return f"pictures/{name}.png"


def some_study(folder, images=4, *, tasks=None, repeats=1, neurons=1, title="Squares", seed=0):
    """Images, tasks and lists; pictures in the folder, no pages."""
    pictures, found, cells = [], [], []
    for k in range(images):
        region = [draw(folder, f"r{k}{n}", (40 * n, 10 * k % 256, 200)) for n in range(2)]
        picture = draw(folder, f"p{k}", (10 * k % 256, 0, 0))
        names = [f"class {2 * k + n}" for n in range(2)]
        pictures.append(
            StudyImage(
                f"image{k}.png", picture, [2 * k, 2 * k + 1], names, ["right", "predicted"],
                [0.3, 0.6], region, 0.1, True, True,
            )
        )  # fmt: skip
        own = []
        for neuron in range(neurons):
            for condition in ("dense", "SPADE"):
                pattern = draw(folder, f"v{len(found)}", (0, 10 * k % 256, 9))
                own.append(len(found))
                found.append(Task(f"task{len(found)}", k, neuron, condition, pattern))
        cells.append(own)
    lists = assign(cells, tasks=tasks or images, repeats=repeats, seed=seed)
    return Study(title, {"seed": seed}, pictures, found, lists, {"regions overlap": 0})


def write_study(folder, study, library="cdn", **options):
    """The study's pages and study.json, as `study build` writes them."""
    options = {"consent": None, "contact": None, **options}
    files = write_site(folder, study, library=library, **options)
    made = replace(study, files=files)
    made.write(folder)
    return made


class Process:
    """`spade-xai study serve` in a process of its own, on a free port or a given one."""

    def __init__(self, folder, port=0):
        self.running = subprocess.Popen(
            [sys.executable, "-m", "spade_xai", "study", "serve", str(folder), "--port", str(port)],
            stdout=subprocess.PIPE, text=True, cwd=folder, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        line = self.running.stdout.readline()
        self.url = re.search(r"http://[^ ]+", line)[0]
        self.port = int(re.search(r":(\d+)/", self.url)[1])

    def kill(self):
        """End it as a power cut would."""
        self.running.kill()
        self.running.wait()
        self.running.stdout.close()


def fetched_library(folder):
    """jsPsych's packages in a folder, from npm; the test is skipped where npm or its registry is missing."""
    from spade_xai.study.packages import library_files

    if shutil.which("npm") is None:
        pytest.skip("npm is not installed: jsPsych cannot be fetched")
    try:
        files = library_files("npm")
    except OSError as error:
        pytest.skip(f"jsPsych cannot be fetched: {error}")
    for package in pinned():
        for path in package.files:
            target = folder / package.name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(files[place(package, path)])
    return folder
