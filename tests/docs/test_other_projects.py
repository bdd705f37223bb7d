"""The page for other pruning projects: its Python runs block by block, and its language model is pruned."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(
    r"```python\n(.*?)```", (ROOT / "docs/other-projects.md").read_text(), re.DOTALL
)


@pytest.mark.parametrize("place", range(len(BLOCKS)))
def test_block(place):
    torch.manual_seed(0)
    names = {}
    exec(BLOCKS[place], names)
    pruned = names.get("layer") or names["model"][0]
    if isinstance(pruned, torch.nn.Module):
        assert float((pruned.weight == 0).float().mean()) == pytest.approx(0.5, abs=0.01)
    else:
        assert pruned.sparsity == 0.5


def test_a_language_model_is_pruned_three_ways(tmp_path, capsys):
    pytest.importorskip("transformers")
    example = runpy.run_path(str(ROOT / "examples" / "prune_llm.py"))
    written = tmp_path / "results.json"
    results = example["main"](["--steps", "3", "--sparsity", "0.7", "2:4", "--json", str(written)])
    assert list(results) == ["0.7", "2:4"]
    for values in results.values():
        assert list(values) == ["dense", "magnitude", "sparsegpt", "obc"]
        assert all(1 < value < 400 for value in values.values())
        assert len(set(values.values())) == 4
    assert capsys.readouterr().out.count("perplexity per byte") == 2
    assert json.loads(written.read_text())["perplexity"] == results


def test_the_language_model_needs_no_torchvision(tmp_path):
    """transformers imports torchvision where it finds it, and a build for another PyTorch cannot be imported."""
    pytest.importorskip("transformers")
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        'raise RuntimeError("operator torchvision::nms does not exist")'
    )
    places = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    told = subprocess.run(
        [sys.executable, ROOT / "examples" / "prune_llm.py", "--help"],
        env={**os.environ, "PYTHONPATH": places},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--sparsity" in told.stdout
