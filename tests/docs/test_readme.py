"""The README's Python runs as it stands."""

import re
from pathlib import Path


def test_python_of_the_readme(tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "README.md").read_text()
    programs = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(programs) == 2
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for program in programs:
        exec(program, names)
    assert names["saliency"].shape == (1, 64, 64)
    assert names["batch"].shape == (25, 32, 64)
    assert (tmp_path / "layer.safetensors").exists()
