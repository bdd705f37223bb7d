"""Do concepts last longer in one domain than in another? (open question 1 of the paper: medical against natural).

Overlap by chance depends on how many concepts there are: three of 108 share little by chance, three of eight a
lot. So the Jaccard index of the three leading concepts is adjusted, (J - E J) / (1 - E J), and its slope over
log(share alive) is compared by a permutation test over classes.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from spade_xai.lottery.folder import Run
from spade_xai.lottery.stability import TOP, adjusted, chance_jaccard, jaccard
from spade_xai.lottery.stages import concepts_of, pcbm_of
from spade_xai.lottery.storage import RunError, write_json

DRAWS = 2000


def compare(first: Run, second: Run, *, base: str = "magnitude", seed: int = 0) -> dict[str, Any]:
    """Compare how fast the leading concepts of two runs change.

    Args:
        first: A run with bottlenecks; compare.json is written there.
        second: Another.
        base: The arm of both.
        seed: Of bootstrap and permutations.

    Returns:
        For each run the adjusted stability by ticket and its slope over log(alive) with a bootstrap interval over
        classes and seeds; the difference of the slopes and its p-value, two-sided.
    """
    runs = {"first": first, "second": second}
    found = {name: _curves(run, base) for name, run in runs.items()}
    rng = np.random.default_rng(seed)
    record: dict[str, Any] = {"arm": base}
    slopes = {}
    for name, (alive, values, chance) in found.items():
        # values [seeds, classes, tickets]
        slopes[name] = _slopes(alive, values.mean(0))
        low, high = np.percentile(_bootstrap(alive, values, rng), [2.5, 97.5])
        record[name] = {
            "run": runs[name].path.name,
            "data": runs[name].record["data"]["kind"],
            "classes": values.shape[1],
            "concepts": len(concepts_of(runs[name])["names"]),
            "seeds": values.shape[0],
            "chance": chance,
            "alive": alive.tolist(),
            "adjusted": values.mean((0, 1)).tolist(),
            "slope": float(slopes[name].mean()),
            "interval": [float(low), float(high)],
        }
    difference = float(slopes["first"].mean() - slopes["second"].mean())
    record["difference"] = difference
    record["p"] = permutation_p(slopes["first"], slopes["second"], rng)
    write_json(first.path / "compare.json", "compare", record)
    return record


def _curves(run: Run, base: str) -> tuple[Tensor, Tensor, float]:
    """Shares alive [tickets], adjusted overlap [seeds, classes, tickets], overlap by chance."""
    arms = [arm for arm in run.arms() if arm.name == base]
    if not arms:
        raise RunError(f"compare: {run.path} must hold tickets of arm {base!r}")
    numbers = sorted(set.intersection(*(set(a.numbers()) for a in arms)) - {0})
    if len(numbers) < 2:
        raise RunError(
            f"compare: {run.path} must hold at least 2 pruned tickets, got {len(numbers)}"
        )
    count = len(concepts_of(run)["names"])
    if count <= TOP:
        raise RunError(f"compare: {run.path} must have more than {TOP} concepts, got {count}")
    chance = chance_jaccard(count, TOP)
    values = []
    for arm in arms:
        dense = pcbm_of(run, arm, 0)[0].weight
        row = [jaccard(pcbm_of(run, arm, k)[0].weight, dense, TOP) for k in numbers]
        values.append(adjusted(torch.stack(row, 1), chance))
    alive = torch.tensor([arms[0].ticket(k).alive for k in numbers], dtype=torch.float64)
    return alive, torch.stack(values), chance


def _slopes(alive: Tensor, values: Tensor) -> np.ndarray:
    """Least-squares slope over log(alive) of each row [rows, tickets]: positive where overlap falls with sparsity."""
    x = alive.log()
    x = x - x.mean()
    return ((values - values.mean(1, keepdim=True)) @ x / x.square().sum()).numpy()


def _bootstrap(alive: Tensor, values: Tensor, rng: np.random.Generator) -> np.ndarray:
    """Mean slope of resampled seeds and classes."""
    seeds, classes, _ = values.shape
    found = []
    for _ in range(DRAWS):
        s = torch.from_numpy(rng.integers(0, seeds, seeds))
        c = torch.from_numpy(rng.integers(0, classes, classes))
        found.append(float(_slopes(alive, values[s][:, c].mean(0)).mean()))
    return np.array(found)


def permutation_p(a: np.ndarray, b: np.ndarray, rng: np.random.Generator) -> float:
    """Two-sided p of the difference of means, by random exchanges of classes between the runs."""
    both = np.concatenate([a, b])
    seen = abs(a.mean() - b.mean())
    hits = 0
    for _ in range(DRAWS):
        mixed = rng.permutation(both)
        hits += abs(mixed[: len(a)].mean() - mixed[len(a) :].mean()) >= seen - 1e-12
    return float(hits + 1) / (DRAWS + 1)
