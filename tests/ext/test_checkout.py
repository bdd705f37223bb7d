"""Python started in the root of a checkout that was not compiled says what to do."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import spade_ext


def test_sources_without_the_compiled_part(tmp_path):
    sources = Path(spade_ext.__file__).parent
    shutil.copytree(sources, tmp_path / "spade_ext", ignore=shutil.ignore_patterns("*.so*", "lib"))
    # -S: without site-packages, where an editable install would find the compiled part of another folder
    command = [sys.executable, "-S", "-c", "import spade_ext"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: spade_ext: {tmp_path / 'spade_ext'} holds the sources")
    assert "start Python in another folder" in last and "CONTRIBUTING.md" in last


def test_sources_beside_the_compiled_part_of_another_checkout(tmp_path):
    """As an editable install of one checkout finds it, when Python is started in another."""
    sources = Path(spade_ext.__file__).parent
    shutil.copytree(sources, tmp_path / "spade_ext", ignore=shutil.ignore_patterns("*.so*", "lib"))
    program = f"""
import importlib.util, sys
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "spade_ext._C":
            return importlib.util.spec_from_file_location(name, {spade_ext._C.__file__!r})
sys.meta_path.append(Finder)
import spade_ext
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )  # fmt: skip
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: spade_ext: {tmp_path / 'spade_ext'} holds the sources")
    assert f"which is there for those of {sources} alone" in last
