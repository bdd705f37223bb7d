"""The toy experiment of Figure 3: pruning for a point of the small circle moves the visualised optimum there."""

import runpy
from pathlib import Path

import torch

EXAMPLE = Path(__file__).parents[2] / "examples" / "two_circles.py"


def test_optimum_moves_to_the_circle_of_the_sample():
    example = runpy.run_path(str(EXAMPLE))
    inside, optimum, pruned_for = (example[n] for n in ("inside", "optimum", "pruned_for"))
    model, accuracy = example["train"]()
    assert accuracy > 0.97
    assert inside(optimum(model)[None], "large")
    for name, (x, y, radius) in example["CIRCLES"].items():
        sparse = pruned_for(model, torch.tensor([x + radius / 3, y + radius / 3]))
        assert (sparse[2].weight == 0).float().mean() >= 0.9
        assert inside(optimum(sparse)[None], name), name
