"""The list of what CI installs: it names every package that the extras ask for, each with digests."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIST = (ROOT / "requirements-ci.txt").read_text()
LOCKED = dict(re.findall(r"^([\w.-]+)==([^ ;]+)", LIST, re.M))


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_requirement_is_listed_with_digests():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(one for name in extras for one in extras[name])]
    names = {canonical(re.match(r"[\w.-]+", one)[0]) for one in asked} - {"torch", "torchvision"}
    only_for_others = {"tomli"}  # of Pythons before 3.11
    assert names - only_for_others <= {canonical(name) for name in LOCKED}
    for entry in re.split(r"\n(?=[a-z])", LIST):
        assert "--hash=sha256:" in entry or entry.startswith("#"), entry
