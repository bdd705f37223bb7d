"""Are explanations of hard pictures less steady? (open question 3 of the paper).

Difficulty of a test picture: the loss of ticket 0; EL2N, the mean over seeds of |softmax - one-hot|_2 (Paul,
Ganguli and Dziugaite, NeurIPS 2021); forgetting events, how often an epoch of round 0 answers it wrong after the
one before was right (Toneva et al., ICLR 2019); and the share of seeds that do not give the commonest answer.
"""

from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata, spearmanr
from torch import Tensor
from torch.nn import functional as F

from spade_xai.lottery.collect import estimate
from spade_xai.lottery.folder import Arm, Run
from spade_xai.lottery.pcbm import contributions
from spade_xai.lottery.stability import TOP, jaccard
from spade_xai.lottery.stages import pcbm_of, projections
from spade_xai.lottery.storage import RunError, read_json, read_state, write_json

MEASURES = ("loss", "el2n", "forgetting", "disagreement")
BOOTSTRAP = 1000


def difficulty(run: Run, *, base: str = "magnitude", seed: int = 0) -> dict[str, Any]:
    """Rank test pictures by difficulty, and compare how steady their concepts and maps are.

    Args:
        run: With tickets, bottlenecks and maps.
        base: The arm.
        seed: Of the bootstrap.

    Returns:
        What difficulty.json holds: for each measure of difficulty, ticket and kind of explanation the mean stability
        of the easy, middle and hard third, and Spearman's correlation with its bootstrap interval, over all pictures
        and over those that ticket 0 and the ticket answer right with every seed.
    """
    arms = [arm for arm in run.arms() if arm.name == base]
    if not arms:
        raise RunError(f"difficulty: {run.path} must hold tickets of arm {base!r}")
    hard = measures_of(run, arms)
    count = len(run.data.test)
    key = read_json(run.path / "maps.json", "maps")["key"]
    shared = sorted(set.intersection(*(set(arm.numbers()) for arm in arms)) - {0})
    rows = []
    for number in shared:
        steady = {
            "concepts": torch.stack([_concepts(run, arm, number) for arm in arms]).mean(0),
            "maps": torch.stack([_maps(arm, number, key) for arm in arms]).mean(0),
        }
        right = torch.stack([_right(run, arm, k) for arm in arms for k in (0, number)]).all(0)
        for kind, values in steady.items():
            for measure in MEASURES:
                given = hard[measure][: len(values)]
                for where, chosen in (
                    ("all", torch.ones(count, dtype=torch.bool)),
                    ("right", right),
                ):
                    keep = chosen[: len(values)]
                    rows.append(
                        {
                            "ticket": number,
                            "alive": arms[0].ticket(number).alive,
                            "explanation": kind,
                            "difficulty": measure,
                            "pictures": where,
                            "thirds": thirds(given[keep], values[keep]),
                            **correlation(given[keep], values[keep], seed),
                        }
                    )
    record = {
        "arm": base,
        "seeds": [arm.seed for arm in arms],
        "measures": {name: values.tolist() for name, values in hard.items()},
        "rows": rows,
    }
    write_json(run.path / "difficulty.json", "difficulty", record)
    return record


def measures_of(run: Run, arms: list[Arm]) -> dict[str, Tensor]:
    """Difficulty of each test picture, float64 [N], larger is harder; the mean over seeds."""
    labels = run.data.test.labels
    logits = [read_state(a.file("logits", 0, "safetensors"), "logits")[0]["test"] for a in arms]
    answers = [
        read_state(a.file("answers", 0, "safetensors"), "answers")[0]["answers"] for a in arms
    ]
    one_hot = F.one_hot(labels, logits[0].shape[1]).double()
    given = torch.stack([x.argmax(1) for x in logits])
    common = given.mode(0).values
    return {
        "loss": torch.stack(
            [F.cross_entropy(x.double(), labels, reduction="none") for x in logits]
        ).mean(0),
        "el2n": torch.stack([(x.double().softmax(1) - one_hot).norm(dim=1) for x in logits]).mean(
            0
        ),
        "forgetting": torch.stack([forgetting(a, labels) for a in answers]).mean(0),
        "disagreement": (given != common).double().mean(0),
    }


def forgetting(answers: Tensor, labels: Tensor) -> Tensor:
    """How often a right answer is followed by a wrong one, [N] of answers [epochs, N].

    A picture that is never answered right counts as many as there are epochs: it was not learned.
    """
    right = answers == labels
    lost = (right[:-1] & ~right[1:]).sum(0).double()
    return torch.where(right.any(0), lost, float(len(answers)))


def thirds(hard: Tensor, values: Tensor) -> dict[str, Any]:
    """Mean stability of the easy, middle and hard third by rank; ties are split by order."""
    order = hard.argsort(stable=True)
    parts = zip(("easy", "middle", "hard"), order.tensor_split(3), strict=True)
    return {name: estimate(values[part]) for name, part in parts}


def correlation(hard: Tensor, values: Tensor, seed: int, draws: int = BOOTSTRAP) -> dict[str, Any]:
    """Spearman's correlation with its 95 % interval, by the percentiles of a bootstrap over pictures."""
    keep = torch.isfinite(values)
    x, y = hard[keep].numpy(), values[keep].numpy()
    if len(x) < 4 or len(np.unique(x)) < 2 or len(np.unique(y)) < 2:
        return {"spearman": None, "interval": None, "n": len(x)}
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(x), (draws, len(x)))
    a, b = rankdata(x[picks], axis=1), rankdata(y[picks], axis=1)
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    scale = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    found = (a * b).sum(1)[scale > 0] / scale[scale > 0]
    low, high = np.percentile(found, [2.5, 97.5]) if len(found) else (np.nan, np.nan)
    return {
        "spearman": float(spearmanr(x, y).statistic),
        "interval": [float(low), float(high)],
        "n": len(x),
    }


def _concepts(run: Run, arm: Arm, number: int) -> Tensor:
    """Jaccard of each picture's three leading concepts at the ticket and at ticket 0."""
    labels = run.data.test.labels
    local = []
    for ticket, owner in ((number, arm), (0, arm.reference)):
        model, _ = pcbm_of(run, owner, ticket)
        local.append(contributions(model, projections(run, owner, ticket)[1], labels))
    return jaccard(local[0], local[1], min(TOP, local[0].shape[1]))


def _maps(arm: Arm, number: int, key: str) -> Tensor:
    tensors, record = read_state(arm.file("drift", number, "safetensors"), "drift")
    if record["key"] != key:
        raise RunError(f"difficulty: maps of {arm.path}, ticket {number} are of other settings")
    return tensors["drift/iou_threshold"].double()


def _right(run: Run, arm: Arm, number: int) -> Tensor:
    logits = read_state(arm.file("logits", number, "safetensors"), "logits")[0]["test"]
    return logits.argmax(1) == run.data.test.labels
