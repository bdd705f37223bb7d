"""The stages after the tickets: concept banks, bottlenecks and maps of every ticket, each resumed where it stopped."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from spade_xai.lottery import pcbm as pc
from spade_xai.lottery.concepts import BankSettings, fit_bank, read_bank, write_bank
from spade_xai.lottery.data.open import open_concepts
from spade_xai.lottery.data.pictures import ConceptPictures
from spade_xai.lottery.embed import embeddings_of
from spade_xai.lottery.folder import Arm, Run
from spade_xai.lottery.storage import RunError, finite, read_json, read_state, write_json

REDRAWN = 1000  # added to the seed of a second bank of the dense network: what the bank's draws alone change


def concepts_stage(
    run: Run,
    bank: str,
    settings: BankSettings,
    *,
    limit: int | None = None,
    device: torch.device | str = "cpu",
    workers: int = 0,
    progress: bool = False,
) -> ConceptPictures:
    """Fit a bank for each ticket, and a second one of other pictures for each dense network.

    Args:
        run: With tickets.
        bank: Which concepts; see `open_concepts`.
        settings: How to fit.
        limit: The first so many concepts; None: all.
        device: Where to run networks.
        workers: Processes that read pictures.
        progress: Whether to draw a bar.
    """
    concepts = limited_concepts(open_concepts(bank, run.record["data"], run.data), limit)
    record = finite(
        {"bank": bank, "limit": limit, "settings": asdict(settings), "names": list(concepts.names),
         "pictures": concepts.pictures.digest()}
    )  # fmt: skip
    key = key_of(record)
    for arm, number in each(run, "concepts", progress):
        names = [("bank", arm.seed)] + ([("redrawn", arm.seed + REDRAWN)] if number == 0 else [])
        for name, seed in names:
            path = arm.file(name, number, "safetensors")
            if not is_done(path, "bank", key):
                phi = embeddings_of(arm, number, concepts, device=device, workers=workers).concepts
                write_bank(
                    path, fit_bank(phi, concepts.labels, concepts.names, settings, seed), key
                )
    write_json(run.path / "concepts.json", "concepts", {**record, "key": key})
    return concepts


def pcbm_stage(run: Run, settings: pc.PCBMSettings, *, progress: bool = False) -> None:
    """Fit a bottleneck on each bank, and score it on the test pictures."""
    concepts = concept_pictures(run)
    key = key_of({"bank": concepts_of(run)["key"], "settings": asdict(settings)})
    data, classes = run.data, len(run.data.classes)
    for arm, number in each(run, "bottlenecks", progress):
        for name, source in (("pcbm", "bank"), ("redrawn_pcbm", "redrawn")):
            path = arm.file(name, number, "safetensors")
            if (source == "redrawn" and number) or is_done(path, "pcbm", key):
                continue
            bank = read_bank(bank_file(run, arm, number, source))
            phi = embeddings_of(arm, number, concepts)
            train = bank.project(phi.train)
            z, test = (pc.prepared(v, train, settings) for v in (train, bank.project(phi.test)))
            seed = arm.seed + (REDRAWN if source == "redrawn" else 0)
            model = pc.fit_pcbm(z, data.train.labels, classes, settings, seed, phi.train)
            found: dict[str, Any] = {
                "key": key,
                "settings": asdict(settings),
                "test": pc.scores(model.logits(test), data.test.labels),
            }
            if model.residual is not None:
                found["test_h"] = pc.scores(model.logits(test, phi.test), data.test.labels)
            pc.write_pcbm(path, model, found)
    write_json(
        run.path / "pcbm.json",
        "pcbm",
        {"settings": asdict(settings), "bank": concepts_of(run)["key"], "key": key},
    )


def bank_file(run: Run, arm: Arm, number: int, source: str = "bank") -> Path:
    """Path of a ticket's bank, which must be of the concepts that the run holds now."""
    path = arm.file(source, number, "safetensors")
    if not is_done(path, "bank", concepts_of(run)["key"]):
        raise RunError(f"lottery: {path} is missing or of other concepts: run `lottery concepts`")
    return path


def pcbm_of(run: Run, arm: Arm, number: int, name: str = "pcbm") -> tuple[pc.PCBM, dict[str, Any]]:
    """A ticket's bottleneck, which must be of the settings that the run holds now."""
    path = arm.file(name, number, "safetensors")
    about = read_json(run.path / "pcbm.json", "pcbm")
    if about["bank"] != concepts_of(run)["key"] or not is_done(path, "pcbm", about["key"]):
        raise RunError(f"lottery: {path} is missing or of other settings: run `lottery pcbm`")
    return pc.read_pcbm(path)


def projections(run: Run, arm: Arm, number: int) -> tuple[Tensor, Tensor]:
    """A ticket's projections of training and test pictures as its bottleneck reads them."""
    concepts = concept_pictures(run)
    settings = pc.PCBMSettings(**read_json(run.path / "pcbm.json", "pcbm")["settings"])
    bank = read_bank(bank_file(run, arm, number))
    phi = embeddings_of(arm, number, concepts)
    train, test = bank.project(phi.train), bank.project(phi.test)
    return pc.prepared(train, train, settings), pc.prepared(test, train, settings)


def limited_concepts(concepts: ConceptPictures, limit: int | None) -> ConceptPictures:
    """The first so many concepts; all for None."""
    if limit is None:
        return concepts
    return ConceptPictures(concepts.pictures, concepts.names[:limit], concepts.labels[:, :limit])


def concept_pictures(run: Run) -> ConceptPictures:
    """The concepts of the run."""
    about = concepts_of(run)
    concepts = open_concepts(about["bank"], run.record["data"], run.data)
    return limited_concepts(concepts, about["limit"])


def concepts_of(run: Run) -> dict[str, Any]:
    """What `concepts_stage` wrote of the whole run."""
    path = run.path / "concepts.json"
    if not path.is_file():
        raise RunError(f"lottery: {run.path} holds no concept banks: run `lottery concepts` first")
    return read_json(path, "concepts")


def each(run: Run, what: str, progress: bool) -> Iterator[tuple[Arm, int]]:
    """Every ticket, under a bar."""
    yield from tqdm(list(run.tickets()), desc=what, unit="ticket", disable=not progress)


def key_of(record: dict[str, Any]) -> str:
    """A digest of settings."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def is_done(path: Path, kind: str, key: str) -> bool:
    """Whether a file is there and of these settings."""
    return path.is_file() and read_state(path, kind)[1].get("key") == key
