"""jsPsych for the tests that run pages, fetched once."""

import pytest
from small_study import fetched_library, some_study, write_study


@pytest.fixture(scope="session")
def jspsych(tmp_path_factory):
    """A folder with jsPsych's packages."""
    return fetched_library(tmp_path_factory.mktemp("jspsych"))


@pytest.fixture
def study_folder(tmp_path):
    """A study of four images; its pages name jsPsych at a CDN."""
    folder = tmp_path / "squares"
    write_study(folder, some_study(folder))
    return folder
