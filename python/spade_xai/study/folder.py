"""The folder of a study: what it holds, and that it is as it was built.

study.json      all that the experimenter knows: images, regions, tasks with their answers, lists (this module)
site/           what raters are given, and any jsPsych host takes: pages, pictures by content, tasks without answers
parts/          one file per image, so that an interrupted build goes on
answers.sqlite  what raters answered to `study serve`
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from spade_ext.files import read_json, write_json
from spade_xai.reports.plain import from_plain
from spade_xai.study.assignment import Slot

FORMAT = "spade_xai.Study.1"
MANIFEST, SITE, PARTS, ANSWERS = "study.json", "site", "parts", "answers.sqlite"


@dataclass(frozen=True)
class StudyImage:
    """An image of the study.

    Attributes:
        name: Its name.
        picture: The file of what raters see, below site/.
        classes: Numbers of the two classes whose neurons compete.
        class_names: Their names.
        roles: "right" and "predicted"; without labels "first" and "second".
        probabilities: What the dense network gives them.
        regions: The files of the regions of the two classes.
        region_share: The share of the picture that each region takes.
        faithful: Whether the trace of the image is faithful.
        kept_answer: Whether the sparse network answers as the dense one.
    """

    name: str
    picture: str
    classes: list[int]
    class_names: list[str]
    roles: list[str]
    probabilities: list[float]
    regions: list[str]
    region_share: float
    faithful: bool
    kept_answer: bool


@dataclass(frozen=True)
class Task:
    """A picture, two regions of it, and what one neuron looks for.

    Attributes:
        id: A name that says nothing of what the task is about.
        image: Its place in the study's images.
        neuron: Which of the image's two classes: 0 or 1. Its region is the one to find.
        condition: "dense" or "SPADE": the network whose visualisation is shown.
        pattern: The file of the visualisation.
    """

    id: str
    image: int
    neuron: int
    condition: str
    pattern: str


@dataclass(frozen=True)
class Study:
    """All of a study but its files.

    Attributes:
        title: What raters read first.
        settings: What it was built with.
        images: The images.
        tasks: Every task.
        lists: What each rater works through.
        left_out: The number of images that were left out, by reason.
        files: The SHA-256 of each file below site/.
    """

    title: str
    settings: dict[str, Any]
    images: list[StudyImage]
    tasks: list[Task]
    lists: list[list[Slot]]
    left_out: dict[str, int]
    files: dict[str, str] = field(default_factory=dict)

    @cached_property
    def id(self) -> str:
        """A name of what raters are asked, which answers belong to."""
        content = [[image.picture, image.regions] for image in self.images]
        asked = [content, [[task.id, task.pattern] for task in self.tasks], asdict(self)["lists"]]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]

    def shown(self, slot: Slot) -> dict[str, str]:
        """What a rater is shown of a slot."""
        task = self.tasks[slot.task]
        image = self.images[task.image]
        target, other = image.regions[task.neuron], image.regions[1 - task.neuron]
        left, right = (target, other) if slot.target_left else (other, target)
        return {
            "task": task.id, "picture": image.picture, "pattern": task.pattern, "left": left, "right": right,
        }  # fmt: skip

    def write(self, folder: Path) -> None:
        """Write study.json, with its format and a digest."""
        write_json(folder / MANIFEST, FORMAT, asdict(self))


def read_study(folder: Path, *, check_files: bool = True) -> Study:
    """Read a study, and check that its files are those it was built with.

    Args:
        folder: What `study build` wrote.
        check_files: Whether to read every file of site/.

    Raises:
        OSError: There is no study, or a file of it is missing.
        ValueError: The study or a file of it was changed.
    """
    try:
        study: Study = from_plain(Study, read_json("read_study", folder / MANIFEST, FORMAT))
    except (TypeError, KeyError) as error:
        raise ValueError(f"read_study: {folder / MANIFEST} is not a study: {error}") from None
    for name, digest in study.files.items() if check_files else ():
        path = folder / SITE / name
        if not path.is_file():
            raise FileNotFoundError(f"read_study: no file {path}")
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise ValueError(f"read_study: {path} was changed after the study was built")
    return study
