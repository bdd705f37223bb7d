"""The page for other pruning projects: its Python runs block by block, and its language model is pruned."""

import json
import re
import runpy
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
    results = example["main"](["--steps", "3", "--pattern", "2:4", "--json", str(written)])
    assert list(results) == ["dense", "magnitude", "sparsegpt", "obc"]
    assert all(1 < value < 400 for value in results.values()) and len(set(results.values())) == 4
    assert capsys.readouterr().out.count("perplexity per byte") == 4
    assert json.loads(written.read_text())["perplexity"] == results
