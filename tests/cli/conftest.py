"""Pictures for the command line, and a call of it in process."""

import re

import numpy as np
import pytest
from PIL import Image

from spade_xai.cli import main


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Two images of 16 pixels a side with masks, in the working directory."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k, name in enumerate(("a", "b")):
        pixels = np.random.default_rng(k).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
        mask = np.zeros((16, 16), np.uint8)
        mask[3 : 9 + k, 4:10] = 255
        Image.fromarray(mask).save(folder / f"{name}_mask.png")
    return folder


@pytest.fixture
def run(capsys):
    """Run a command line; give exit code, stdout and stderr, without colours."""

    def call(*arguments):
        with pytest.raises(SystemExit) as exit:
            main([str(a) for a in arguments])
        out, err = (re.sub(r"\x1b\[[0-9;]*m", "", text) for text in capsys.readouterr())
        return exit.value.code or 0, out, err

    return call
