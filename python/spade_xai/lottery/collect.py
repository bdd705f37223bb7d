"""All figures of a run as one record: accuracies, concepts, stability with ceiling and floor, drift, the shortcut."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spade_xai.lottery import stability as st
from spade_xai.lottery.concepts import bank_table, read_bank
from spade_xai.lottery.data import shapes
from spade_xai.lottery.data.pictures import Drawn
from spade_xai.lottery.drift import drift
from spade_xai.lottery.folder import Arm, Run
from spade_xai.lottery.gradcam import enlarged
from spade_xai.lottery.maps import maps_of
from spade_xai.lottery.pcbm import scores, top_concepts
from spade_xai.lottery.stages import bank_file, concepts_of, pcbm_of
from spade_xai.lottery.storage import read_json, read_state
from spade_xai.measures.metrics import Estimate, mean, paired

DRIFT = ("spearman", "cosine", "iou_threshold", "iou_top", "distance")


def collect(run: Run) -> dict[str, Any]:
    """The record that reports are made of. Stages that were not run are left out of it."""
    arms = run.arms()
    record: dict[str, Any] = {
        "data": run.record["data"],
        "network": run.record["network"],
        "training": run.record["training"],
        "pictures": {
            name: len(getattr(run.data, name)) for name in ("train", "validation", "test")
        },
        "classes": list(run.data.classes),
        "arms": sorted({arm.name for arm in arms}, key=lambda n: (n != "magnitude", n)),
        "seeds": sorted({arm.seed for arm in arms}),
        "tickets": [_ticket(run, arm, number) for arm in arms for number in arm.numbers()],
    }
    if (run.path / "pcbm.json").is_file():
        record["concepts"] = concepts_of(run)["names"]
        record["bank"] = concepts_of(run)["settings"]
        record["top_concepts"] = _top(run, arms)
        record["banks"] = [
            {"arm": arm.name, "seed": arm.seed, "number": k, **row}
            for arm in arms
            for k in arm.numbers()
            for row in bank_table(read_bank(bank_file(run, arm, k)))
        ]
        record["stability"], record["stability_references"] = _stability(run, arms)
    if (run.path / "maps.json").is_file():
        record["maps"] = read_json(run.path / "maps.json", "maps")
        record["drift"], record["drift_references"] = _drift(run, arms, record["maps"]["key"])
    if run.record["data"]["kind"] == "shapes":
        record["shortcut"] = _shortcut(run, arms)
    for name in ("regularize", "difficulty", "compare", "tcav"):
        path = run.path / f"{name}.json"
        if path.is_file():
            record[name] = read_json(path, name)
    record["correlation"] = _correlation(record)
    return record


def by_name(arms: Sequence[Arm]) -> dict[str, list[Arm]]:
    """Arms of each name, one per seed."""
    found: dict[str, list[Arm]] = {}
    for arm in arms:
        found.setdefault(arm.name, []).append(arm)
    return found


def estimate(values: Tensor | Sequence[float]) -> dict[str, Any]:
    """Mean, standard error and n, leaving out what is not a number."""
    x = torch.as_tensor(values, dtype=torch.float64)
    x = x[torch.isfinite(x)]
    if not len(x):
        return {"mean": None, "standard_error": None, "n": 0}
    return _as_dict(mean(x))


def difference(a: Tensor, b: Tensor) -> dict[str, Any]:
    """Mean of a - b over the same samples, leaving out pairs that are not numbers."""
    both = torch.isfinite(a) & torch.isfinite(b)
    if not bool(both.any()):
        return {"mean": None, "standard_error": None, "n": 0}
    return _as_dict(paired(a[both], b[both]))


def _as_dict(value: Estimate) -> dict[str, Any]:
    error = value.standard_error if value.n > 1 else None
    return {"mean": value.mean, "standard_error": error, "n": value.n}


def _ticket(run: Run, arm: Arm, number: int) -> dict[str, Any]:
    record = read_json(arm.file("ticket", number, "json"), "ticket")
    kept = ("number", "seed", "alive", "alive_weights", "weights", "best_epoch")
    row = {"arm": arm.name, **{key: record[key] for key in kept}}
    row |= {key: record[key] for key in ("validation_accuracy", "test_accuracy")}
    logits = read_state(arm.file("logits", number, "safetensors"), "logits")[0]["test"]
    answered = scores(logits, run.data.test.labels)
    row |= {f"test_{name}": answered[name] for name in ("balanced_accuracy", "auroc")}
    if "base" in arm.record:
        row["penalty"] = arm.record["penalty"]
    if (run.path / "pcbm.json").is_file():
        found = pcbm_of(run, arm, number)[1]
        row |= {f"pcbm_{name}": value for name, value in found["test"].items()}
        row |= {f"pcbm_h_{name}": value for name, value in found.get("test_h", {}).items()}
    return row


def _top(run: Run, arms: Sequence[Arm]) -> list[dict[str, Any]]:
    rows = []
    for arm in arms:
        dense = top_concepts(pcbm_of(run, arm.reference, 0)[0].weight)
        for number in arm.numbers():
            weights = pcbm_of(run, arm, number)[0].weight
            bank = read_bank(bank_file(run, arm, number))
            for y, name in enumerate(run.data.classes):
                chosen = top_concepts(weights)[y].tolist()
                rows.append(
                    {
                        "arm": arm.name,
                        "seed": arm.seed,
                        "number": number,
                        "class": name,
                        "concepts": [bank.names[c] for c in chosen],
                        "weights": [float(weights[y, c]) for c in chosen],
                        "in_dense": [c in dense[y].tolist() for c in chosen],
                        "above_chance": [bool(bank.known[c]) for c in chosen],
                    }
                )
    return rows


def _stability(run: Run, arms: Sequence[Arm]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows by arm, ticket and measure; means over classes of the mean over seeds."""
    named = by_name(arms)
    dense = [arm for arm in arms if arm.reference is arm and arm.name == arms[0].name]
    weights = {arm.seed: pcbm_of(run, arm, 0)[0].weight for arm in dense}
    references: dict[str, dict[str, Tensor]] = {}
    pairs = [
        st.stability(weights[a], weights[b]) for a, b in itertools.combinations(sorted(weights), 2)
    ]
    if pairs:
        references["other seed"] = _mean_of(pairs)
    redrawn = [
        st.stability(pcbm_of(run, arm, 0, "redrawn_pcbm")[0].weight, weights[arm.seed])
        for arm in dense
    ]
    references["other bank"] = _mean_of(redrawn)
    classes, concepts = next(iter(weights.values())).shape
    references["random rows"] = vars(st.random_rows(classes, concepts))
    chance = st.chance_jaccard(concepts, min(st.TOP, concepts))
    rows = []
    for name, members in named.items():
        for number in members[0].numbers():
            found = [
                st.stability(
                    pcbm_of(run, arm, number)[0].weight, pcbm_of(run, arm.reference, 0)[0].weight
                )
                for arm in members
                if number in arm.numbers()
            ]
            values = _mean_of(found)
            for measure in st.MEASURES:
                row = {"arm": name, "number": number, "measure": measure, "seeds": len(found)}
                row |= estimate(values[measure])
                row["by_class"] = values[measure].tolist()
                if "other seed" in references:
                    row["minus_other_seed"] = difference(
                        values[measure], references["other seed"][measure]
                    )
                if measure == "jaccard_top3":
                    row["adjusted"] = estimate(st.adjusted(values[measure], chance))
                rows.append(row)
    summary = {
        name: {measure: estimate(values[measure]) for measure in st.MEASURES}
        for name, values in references.items()
    }
    for (
        measure
    ) in st.MEASURES:  # a mean of draws, the same for every class: exact, not sampled over classes
        summary["random rows"][measure]["standard_error"] = 0.0
    return rows, {**summary, "chance_jaccard_top3": chance}


def _mean_of(found: Sequence[st.Stability]) -> dict[str, Tensor]:
    return {m: torch.stack([getattr(s, m) for s in found]).mean(0) for m in st.MEASURES}


def _drift(run: Run, arms: Sequence[Arm], key: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows by arm, ticket and measure; means over pictures of the mean over seeds."""
    dense = [arm for arm in arms if arm.reference is arm and arm.name == arms[0].name]
    maps = {arm.seed: enlarged(maps_of(arm, 0, key)["maps"], run.network.size) for arm in dense}
    pairs = [drift(maps[a], maps[b]) for a, b in itertools.combinations(sorted(maps), 2)]
    references: dict[str, dict[str, Tensor]] = {}
    if pairs:
        references["other seed"] = {
            m: torch.stack([getattr(d, m) for d in pairs]).nanmean(0) for m in DRIFT
        }
    first = next(iter(maps.values()))
    references["other picture"] = {
        m: getattr(drift(first.roll(1, 0), first), m) for m in DRIFT
    }  # the floor: the same network's map of the next test picture
    rows = []
    for name, members in by_name(arms).items():
        for number in members[0].numbers():
            found = [
                read_state(arm.file("drift", number, "safetensors"), "drift")[0]
                for arm in members
                if number in arm.numbers()
            ]
            for entry in sorted(set.intersection(*(set(f) for f in found))):
                if entry == "relevance/index":
                    continue
                values = torch.stack([f[entry].double() for f in found]).nanmean(0)
                row = {"arm": name, "number": number, "measure": entry, "seeds": len(found)}
                row |= estimate(values)
                short = entry.removeprefix("drift/")
                if "other seed" in references and short in DRIFT and short != entry:
                    row["minus_other_seed"] = difference(values, references["other seed"][short])
                rows.append(row)
    summary = {
        name: {measure: estimate(values[measure]) for measure in DRIFT}
        for name, values in references.items()
    }
    return rows, summary


@torch.no_grad()
def _shortcut(run: Run, arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """What the planted mark does to answers and to the first class's concepts, by ticket."""
    test = run.data.test
    if not isinstance(test, Drawn):
        return []
    plain = test.subset((~shapes.has_mark(test)).nonzero()[:, 0].tolist())
    planted = shapes.with_mark(plain)
    others, first = plain.labels != shapes.SHORTCUT_CLASS, plain.labels == shapes.SHORTCUT_CLASS
    rows = []
    for arm in arms:
        for number in arm.numbers():
            model = arm.model(number)
            before = model(plain.images.float() / 255).argmax(1)
            after = model(planted.images.float() / 255).argmax(1)
            hit = [(a == shapes.SHORTCUT_CLASS).double() for a in (before, after)]
            row: dict[str, Any] = {"arm": arm.name, "seed": arm.seed, "number": number}
            row["first_class_right_without_mark"] = estimate(hit[0][first])
            row["first_class_gain_by_mark"] = difference(hit[1][first], hit[0][first])
            row["others_gain_by_mark"] = difference(hit[1][others], hit[0][others])
            if (run.path / "pcbm.json").is_file():
                bottleneck = pcbm_of(run, arm, number)[0].weight[shapes.SHORTCUT_CLASS]
                at = concepts_of(run)["names"].index(shapes.SHORTCUT)
                row["rank"] = 1 + int((bottleneck > bottleneck[at]).sum())
                row["weight"] = float(bottleneck[at])
                bank = read_bank(bank_file(run, arm, number))
                row["concept_accuracy"] = float(bank.accuracy[at])
                row["above_chance"] = bool(bank.known[at])
                row["shows"] = row["rank"] <= st.TOP and row["above_chance"]
            rows.append(row)
    return rows


def _correlation(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Spearman over the pruned tickets of an arm between accuracy and what explanations have in common with dense."""
    from scipy.stats import spearmanr

    rows = []
    for arm in record["arms"]:
        accuracy: dict[int, list[float]] = {}
        for ticket in record["tickets"]:
            if ticket["arm"] == arm and ticket["number"]:
                accuracy.setdefault(ticket["number"], []).append(ticket["test_accuracy"])
        for kind, measure in (("stability", "overlap"), ("drift", "drift/iou_threshold")):
            found = {
                row["number"]: row["mean"]
                for row in record.get(kind, [])
                if row["arm"] == arm and row["measure"] == measure and row["number"]
            }
            shared = sorted(k for k in found if k in accuracy and found[k] is not None)
            if len(shared) > 3:
                x = [sum(accuracy[k]) / len(accuracy[k]) for k in shared]
                result = spearmanr(x, [found[k] for k in shared])
                rows.append(
                    {
                        "arm": arm,
                        "measure": measure.removeprefix("drift/"),
                        "spearman": float(result.statistic),
                        "tickets": len(shared),
                    }
                )
    return rows
