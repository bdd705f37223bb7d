"""The README's Python runs as it stands."""

import re
from pathlib import Path


def test_python_of_the_readme(tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "README.md").read_text()
    programs = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(programs) == 2
    monkeypatch.chdir(tmp_path)
    first, second = ({}, {})  # each runs alone
    exec(programs[0], first)
    exec(programs[1], second)
    assert first["saliency"].shape == (1, 64, 64)
    assert second["batch"].shape == (25, 32, 64)
    assert (tmp_path / "layer.safetensors").exists()
