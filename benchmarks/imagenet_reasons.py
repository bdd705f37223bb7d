"""Shared reasons on the study's pictures: whether traces tell the patches apart, beside clustering of features."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.imagenet_traces import TRACERS, Traces
from spade_xai.features.reasons import group_pictures

MERGED = ("smiley", "fish")
"""Patches whose targets are counted as one class, as if both led to it."""


def shared_reasons(traces: Traces) -> dict[str, Any]:
    """For each tracer, on the Trojan pictures whose traces are there.

    The trace of picture i runs on picture j. Kept: its answer is the dense network's. With two targets counted as one
    class, kept means that the answer is one of the two.
    """
    found: dict[str, Any] = {}
    for tracer in TRACERS:
        pictures = traces.pictures
        numbers = [k for k in range(len(pictures)) if (k, tracer, "trojan") in traces]
        if len(numbers) < 8:
            continue
        images = torch.cat([pictures.input(k, "trojan") for k in numbers])
        patches = [str(pictures.trojans.backdoors[k]) for k in numbers]
        wanted = torch.tensor([pictures.answer(k, "trojan") for k in numbers])
        with torch.no_grad():
            answers = torch.stack(
                [traces(k, tracer, "trojan").model(images).argmax(1) for k in numbers]
            )
            features = pooled(traces, images)
        both = sorted({int(w) for w, p in zip(wanted, patches, strict=True) if p in MERGED})
        as_one = torch.where(torch.isin(answers, torch.tensor(both)), both[0], answers)
        wanted_as_one = torch.where(torch.isin(wanted, torch.tensor(both)), both[0], wanted)
        found[tracer] = {
            "photographs": len(numbers),
            "four targets": grouping(answers == wanted, patches),
            "two patches share a target": grouping(as_one == wanted_as_one, patches),
            "pooled features": rand_index(by_features(features, len(set(patches))), patches),
        }
    return found


def grouping(kept: Tensor, patches: Sequence[str]) -> dict[str, float]:
    """Shares of kept answers within and across patches, and how well the groups are the patches."""
    codes = torch.tensor([sorted(set(patches)).index(p) for p in patches])
    same = codes[:, None] == codes
    others = ~torch.eye(len(codes), dtype=torch.bool)
    groups = group_pictures(kept, len(set(patches)))
    return {
        "kept_within": float(kept[same & others].double().mean()),
        "kept_across": float(kept[~same].double().mean()),
        "rand_index": rand_index(groups.tolist(), patches),
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
