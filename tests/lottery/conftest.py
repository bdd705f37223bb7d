"""A tiny finished run on drawn pictures, shared by the tests of a process."""

import shutil

import pytest
from tiny_runs import finished, tiny


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """Two seeds of three tickets with banks, bottlenecks and maps. Not to be changed."""
    return finished(tmp_path_factory.mktemp("lottery") / "run")


@pytest.fixture
def own_run(finished_run, tmp_path):
    """A copy of the finished run that a test may change."""
    shutil.copytree(finished_run.path, tmp_path / "run")
    return type(finished_run).open(tmp_path / "run")


@pytest.fixture
def new_run(tmp_path):
    """A run without tickets."""
    return tiny(tmp_path / "run")
