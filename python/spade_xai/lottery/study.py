"""Whole studies: a run begun by the settings of its data set, and every stage on drawn pictures."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from spade_xai.lottery.data.open import open_data
from spade_xai.lottery.difficulty import difficulty
from spade_xai.lottery.folder import Run
from spade_xai.lottery.maps import MapSettings, maps_stage
from spade_xai.lottery.networks import network_for
from spade_xai.lottery.regularize import regularize
from spade_xai.lottery.settings import (
    bank_of,
    pcbm_settings_of,
    pruning_of,
    settings_of,
    training_of,
)
from spade_xai.lottery.stages import concepts_stage, pcbm_stage
from spade_xai.lottery.tickets import find_tickets

QUICK_DATA = {"train": 384, "validation": 60, "test": 60, "concepts": 300}
QUICK_TRAINING = {"epochs": 2, "first_epochs": 8, "batch": 16, "step": 5}
CONTROLS = ({"criterion": "random"}, {"reinit": True})
CRITERIA = ({"criterion": "sparsegpt"}, {"criterion": "structured"})


def start(
    path: Path,
    kind: str,
    folder: Path | None = None,
    *,
    model: str | None = None,
    weights: Path | None = None,
    size: int | None = None,
    auxiliary: float = 0.0,
    data_options: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
) -> Run:
    """Begin a run, or take one up, by the settings of its data set and what is given instead.

    Args:
        path: Folder of the run.
        kind: "cub", "ham10000", "folder" or "shapes".
        folder: Of the data set; None for "shapes".
        model: Backbone; None: that of the data set.
        weights: File of the backbone's own weights.
        size: Pixels per side; None: that of the data set.
        auxiliary: Weight of an auxiliary classifier's loss.
        data_options: Of the data set; None counts as not given.
        training: Fields of `Training`; None counts as not given.
    """
    said = settings_of(kind)
    if (folder is None) != (kind == "shapes"):
        raise ValueError(
            f"lottery: {kind} must {'have no' if kind == 'shapes' else 'be given its'} folder, got {folder}"
        )
    spec: dict[str, Any] = {"kind": kind}
    if folder is not None and path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"lottery: --out must be outside of the data set's folder {folder}, got {path}: its files would become "
            "part of the data"
        )
    if folder is not None:
        spec["folder"] = str(folder)
    spec |= {key: value for key, value in (data_options or {}).items() if value is not None}
    data = open_data(spec)
    chosen = model or said["network"]
    network = network_for(chosen, data, size or said["size"], weights, auxiliary)
    return Run.start(path, spec, network, training_of(kind, **(training or {})), data.digest())


def run_all(
    path: Path,
    kind: str,
    seeds: Sequence[int],
    *,
    rounds: int | None = None,
    quick: bool = False,
    progress: bool = False,
    report: Callable[[str], object] = print,
) -> Run:
    """Every stage: tickets by magnitude of each seed, controls and other criteria of the first seed, and the rest.

    Args:
        path: Folder of the run.
        kind: "shapes".
        seeds: Of training and of banks.
        rounds: Tickets; None: as many as the settings say, four if quick.
        quick: Few pictures, tickets and arms.
        progress: Whether to draw bars.
        report: Called with a line of text per stage.
    """
    if kind != "shapes":
        raise ValueError(f"lottery all: data must be shapes, which needs no folder, got {kind!r}")
    with one_thread():
        return _run_all(path, kind, seeds, rounds, quick, progress, report)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: to divide the small network's layers costs more than it saves."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run_all(
    path: Path, kind: str, seeds: Sequence[int], rounds: int | None, quick: bool, progress: bool,
    report: Callable[[str], object],
) -> Run:  # fmt: skip
    run = start(
        path, kind, data_options=QUICK_DATA if quick else {},
        training=QUICK_TRAINING if quick else {},
    )  # fmt: skip
    rounds = rounds if rounds is not None else (4 if quick else None)
    share = 0.5 if quick else None
    report(f"tickets by magnitude, seeds {', '.join(map(str, seeds))}")
    for seed in seeds:
        find_tickets(run, pruning_of(kind, rounds=rounds, share=share), seed, progress=progress)
    others = CRITERIA[1:] if quick else (*CONTROLS, *CRITERIA)
    for options in others:
        report(
            f"tickets of {', '.join(str(v) for v in options.values() if v is not True) or 'fresh weights'}"
        )
        pruning = pruning_of(kind, rounds=rounds, share=share, **options)
        find_tickets(run, pruning, seeds[0], progress=progress)
    report("concept banks")
    bank = bank_of(kind, count=60 if quick else None)
    concepts_stage(run, "shapes", bank, progress=progress)
    report("bottlenecks")
    pcbm_stage(run, pcbm_settings_of(kind, epochs=20 if quick else None), progress=progress)
    report("maps")
    maps_stage(run, MapSettings(), progress=progress)
    report("easy and hard pictures")
    difficulty(run)
    report("tickets held near the dense network's maps")
    regularize(run, [1.0], tickets=[max(run.arms()[0].numbers())], progress=progress)
    return run
