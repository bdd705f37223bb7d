"""Maps of test pictures for every ticket, how far they have moved, and the same for SPADE's traces of the tickets."""

from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from spade_xai.attribution.attribute import METHODS, attribute, pixel_map
from spade_xai.choices import misnamed
from spade_xai.lottery.data.pictures import batches
from spade_xai.lottery.drift import drift, relevance
from spade_xai.lottery.folder import Arm, Run
from spade_xai.lottery.gradcam import enlarged, gradcam
from spade_xai.lottery.stages import each, is_done, key_of
from spade_xai.lottery.storage import RunError, read_state, write_json, write_state
from spade_xai.measures import metrics
from spade_xai.tracing.trace import trace

BATCH = 64


@dataclass(frozen=True)
class MapSettings:
    """Which maps.

    Attributes:
        method: "gradcam", or a method of `attribute`.
        limit: Test pictures, in their order; 0 for all.
        insertion: Of how many of them to ask how much the pixels convince ticket k and ticket 0.
        traces: Of how many of them to trace every ticket by SPADE.
        tracer: "sparsegpt" or "obc".
        augmentations: Of each traced picture.
    """

    method: str = "gradcam"
    limit: int = 0
    insertion: int = 0
    traces: int = 0
    tracer: str = "sparsegpt"
    augmentations: int = 128


def maps_stage(
    run: Run,
    settings: MapSettings,
    *,
    device: torch.device | str = "cpu",
    workers: int = 0,
    progress: bool = False,
) -> None:
    """Compute the maps of each ticket, then what they have in common with the dense network's."""
    if settings.method != "gradcam" and settings.method not in METHODS:
        wrong = misnamed("method", ("gradcam", *METHODS), settings.method)
        raise ValueError(f"maps_stage: {wrong}")
    key = key_of(asdict(settings))
    write_json(run.path / "maps.json", "maps", {"settings": asdict(settings), "key": key})
    for arm, number in each(run, "maps", progress):
        path = arm.file("maps", number, "safetensors")
        if not is_done(path, "maps", key):
            tensors = _maps(run, arm, number, settings, device, workers)
            write_state(path, "maps", tensors, {"key": key})
    for arm, number in each(run, "drift", progress):
        path = arm.file("drift", number, "safetensors")
        if not is_done(path, "drift", key):
            found = _compare(run, arm, number, settings, key, device, workers)
            write_state(path, "drift", found, {"key": key})


def maps_of(arm: Arm, number: int, key: str) -> dict[str, Tensor]:
    """A ticket's maps."""
    tensors, record = read_state(arm.file("maps", number, "safetensors"), "maps")
    if record["key"] != key:
        raise RunError(f"lottery: maps of {arm.path}, ticket {number} are of other settings")
    return tensors


def chosen_pictures(run: Run, limit: int) -> list[int]:
    """Indices of the test pictures whose maps are made."""
    count = len(run.data.test)
    return list(range(min(limit, count) if limit else count))


def _maps(
    run: Run, arm: Arm, number: int, settings: MapSettings, device: Any, workers: int
) -> dict[str, Tensor]:
    chosen = chosen_pictures(run, settings.limit)
    pictures = run.data.test.subset(chosen)
    model = arm.model(number, device)
    maps, traced, kept = [], [], []
    for _, images, labels in batches(pictures, run.network.size, BATCH, workers=workers):
        images, labels = images.to(device), labels.to(device)
        maps.append(_method(run, model, images, labels, settings.method).cpu())
    tensors = {"maps": torch.cat(maps)}
    if settings.traces:
        few = pictures.subset(list(range(min(settings.traces, len(pictures)))))
        for index, images, labels in batches(few, run.network.size, 1):
            result = trace(
                model, images.to(device), method=settings.tracer,
                augmentations=settings.augmentations, seed=int(index), progress=False,
            )  # fmt: skip
            labels = labels.to(device)
            traced.append(_method(run, result.model, images.to(device), labels, settings.method))
            with torch.no_grad():
                same = model(images.to(device)).argmax(1) == result.model(images.to(device)).argmax(
                    1
                )
            kept.append(same.cpu())
        tensors |= {"traced": torch.cat(traced).cpu(), "answer_kept": torch.cat(kept)}
    return tensors


def _method(run: Run, model: nn.Module, images: Tensor, labels: Tensor, method: str) -> Tensor:
    if method == "gradcam":
        return gradcam(model, run.layers[1], images, labels)
    maps = pixel_map(attribute(model, images, labels, cast(Any, method)), method)
    return maps.clamp_min(0)  # what speaks for the class


def _compare(
    run: Run, arm: Arm, number: int, settings: MapSettings, key: str, device: Any, workers: int
) -> dict[str, Tensor]:
    own, dense = maps_of(arm, number, key), maps_of(arm.reference, 0, key)
    size = run.network.size
    maps, reference = enlarged(own["maps"], size), enlarged(dense["maps"], size)
    found = {f"drift/{name}": value for name, value in vars(drift(maps, reference)).items()}
    pictures = run.data.test.subset(chosen_pictures(run, settings.limit))
    if pictures.has_regions:
        found |= _relevance(run, pictures, maps)
    if settings.insertion:
        count = min(settings.insertion, len(pictures))
        _, images, labels = next(batches(pictures, size, count, workers=workers))
        steps: dict[str, Any] = {"steps": 20, "batch_size": 64, "progress": False}
        for name, judge, judged in (("own", arm, number), ("dense", arm.reference, 0)):
            model = judge.model(judged, device)
            area = metrics.insertion(
                model, images.to(device), maps[:count].to(device), labels, **steps
            )
            found[f"insertion/{name}"] = area.cpu()
    if settings.traces:
        traced = enlarged(own["traced"], size)
        other = enlarged(dense["traced"], size)
        count = len(traced)
        found |= {f"traced/{n}": v for n, v in vars(drift(traced, other)).items()}
        found |= {f"own_trace/{n}": v for n, v in vars(drift(traced, maps[:count])).items()}
        found["traced/answer_kept"] = own["answer_kept"]
    return found


def _relevance(run: Run, pictures: Any, maps: Tensor) -> dict[str, Tensor]:
    """Of pictures with an object that is neither missing nor the whole picture."""
    regions = [pictures.region(k, run.network.size) for k in range(len(pictures))]
    usable = [k for k, r in enumerate(regions) if r is not None and 0 < int(r.sum()) < r.numel()]
    if not usable:
        return {}
    inside = torch.stack([regions[k] for k in usable])
    found = {f"relevance/{n}": v for n, v in relevance(maps[usable], inside).items()}
    found["relevance/index"] = torch.tensor(usable)
    return found
