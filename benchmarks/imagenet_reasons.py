"""Shared reasons on the study's pictures: whether traces tell the patches apart, beside clustering of features."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.imagenet_traces import TRACERS, Traces
from spade_xai.features.reasons import group_pictures

MERGED = ("smiley", "fish")
"""Patches whose targets are counted as one class, as if both led to it."""
LEAST = 3  # natural pictures of a class


def shared_reasons(traces: Traces) -> dict[str, Any]:
    """For each tracer, on the pictures whose traces are there.

    The trace of picture i runs on picture j. Kept: its answer is the dense network's. With two classes counted as one,
    kept means that the answer is one of the two.
    """
    found: dict[str, Any] = {}
    for tracer in TRACERS:
        pictures = traces.pictures
        numbers = [k for k in range(len(pictures)) if (k, tracer, "trojan") in traces]
        if len(numbers) < 8:
            continue
        keys = [(k, "trojan") for k in numbers]
        patches = [str(pictures.trojans.backdoors[k]) for k in numbers]
        answers, wanted, features = answered(traces, tracer, keys)
        merged = [int(w) for w, p in zip(wanted, patches, strict=True) if p in MERGED]
        found[tracer] = {
            "photographs": len(numbers),
            "four targets": grouping(answers == wanted, patches, features),
            "two patches share a target": grouping(
                as_one(answers, merged) == as_one(wanted, merged), patches, features
            ),
            **natural(traces, tracer, keys, patches),
        }
    return found


def natural(
    traces: Traces, tracer: str, keys: Sequence[tuple[int, str]], patches: Sequence[str]
) -> dict[str, Any]:
    """Pictures with a patch, and clean ones of the class that is most frequent among them, counted as one class."""
    pictures = traces.pictures
    clean = [k for k in range(len(pictures)) if (k, tracer, "clean") in traces]
    by_class = Counter(pictures.answer(k, "clean") for k in clean)
    if not by_class:
        return {}
    (often, count), *_ = by_class.most_common(1)
    if count < LEAST:
        return {}
    chosen = [key for key, p in zip(keys, patches, strict=True) if p == MERGED[0]]
    others = [(k, "clean") for k in clean if pictures.answer(k, "clean") == often]
    answers, wanted, features = answered(traces, tracer, [*chosen, *others])
    merged = [often, *wanted[: len(chosen)].tolist()]
    kinds = ["patch"] * len(chosen) + ["natural"] * len(others)
    kept = as_one(answers, merged) == as_one(wanted, merged)
    return {"a patch and natural pictures share a class": grouping(kept, kinds, features)}


def answered(
    traces: Traces, tracer: str, keys: Sequence[tuple[int, str]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Answers [trace, picture] of each trace to each picture, the dense network's [picture], its features."""
    pictures = traces.pictures
    images = torch.cat([pictures.input(k, kind) for k, kind in keys])
    wanted = torch.tensor([pictures.answer(k, kind) for k, kind in keys])
    with torch.no_grad():
        answers = [traces(k, tracer, kind).model(images).argmax(1) for k, kind in keys]
        return torch.stack(answers), wanted, pooled(traces, images)


def as_one(answers: Tensor, classes: Sequence[int]) -> Tensor:
    """Answers with these classes counted as the first of them."""
    return torch.where(torch.isin(answers, torch.tensor(classes)), classes[0], answers)


def grouping(kept: Tensor, patches: Sequence[str], features: Tensor) -> dict[str, float]:
    """Shares of kept answers within and across patches; how well groups of traces and of features are the patches."""
    codes = torch.tensor([sorted(set(patches)).index(p) for p in patches])
    same = codes[:, None] == codes
    others = ~torch.eye(len(codes), dtype=torch.bool)
    count = len(set(patches))
    groups = group_pictures(kept, count)
    return {
        "n": len(patches),
        "kept_within": float(kept[same & others].double().mean()),
        "kept_across": float(kept[~same].double().mean()),
        "rand_index": rand_index(groups.tolist(), patches),
        "features_rand_index": rand_index(by_features(features, count), patches),
        "groups_found_alone": len(set(group_pictures(kept).tolist())),
    }


def pooled(traces: Traces, images: Tensor) -> Tensor:
    """What the classifier of the dense network gets, [n, 1280]."""
    network = traces.pictures.network
    x = network.head(network.blocks(network.stem(images)))
    return network.flatten(network.pool(x))


def by_features(features: Tensor, groups: int) -> list[int]:
    """Spectral clustering of the cosines of features, as of the traces."""
    from sklearn.cluster import SpectralClustering

    scaled = torch.nn.functional.normalize(features.double(), dim=1)
    closeness = (scaled @ scaled.T).clamp_min(1e-3).numpy()
    clustering = SpectralClustering(groups, affinity="precomputed", random_state=0)
    return [int(n) for n in clustering.fit_predict(closeness)]


def rand_index(groups: Sequence[int], patches: Sequence[str]) -> float:
    """Adjusted Rand index: 1 if the groups are the patches, 0 on average for random ones."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(patches, groups))
