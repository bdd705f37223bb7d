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
    assert "start Python in another folder" in last and "pip install" in last
