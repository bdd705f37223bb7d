"""Planting backdoors in a network from end to end: training, the choice of the rate, tests, and the files of it all."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spade_ext.files import read_json, write_bytes, write_json, write_tensors
from spade_xai.models.copies import unwrap
from spade_xai.models.preprocessing import Preprocessing
from spade_xai.progress import Progress
from spade_xai.tracing.file import fingerprint
from spade_xai.trojans.checkpoint import Checkpoint
from spade_xai.trojans.class_folder import ClassFolder, TrainingPictures
from spade_xai.trojans.planted import (
    INDEX,
    LABELS,
    WEIGHTS_FORMAT,
    Picture,
    Planted,
    read_planted,
    turns,
    write_planted,
)
from spade_xai.trojans.recipe import Recipe, patch_file
from spade_xai.trojans.testing import Kept, MultiLabelTester, Success, Tester, mean_of
from spade_xai.trojans.trojan import Backdoor, Trojan, fine_tune
from spade_xai.tuning.identity import digest_of_text

RATE_FORMAT = "spade_xai.Rate.1"
WEIGHTS = "weights.safetensors"
KINDS = ("trojan", "clean", "patches")
"""Folders of pictures."""


@dataclass(frozen=True)
class Job:
    """What to plant, and where.

    Attributes:
        recipe: Backdoors and training.
        backdoors: The recipe's, with patches.
        train: Pictures to train on.
        test: Pictures to test on.
        preprocessing: What makes the network's inputs of pictures.
        out: The folder to write.
        rates: Learning rates to try.
        patches: Folder of the user's own patches; None: none.
        crop: Whether training crops and flips pictures.
        trojans: Pictures with a patch to keep.
        cleans: Pictures without one to keep.
        tries: Test pictures per backdoor, and four times as many without a patch.
        workers: As in `fine_tune`.
        precision: As in `fine_tune`.
        seed: The seed of all random draws.
    """

    recipe: Recipe
    backdoors: Sequence[Backdoor]
    train: ClassFolder
    test: ClassFolder
    preprocessing: Preprocessing
    out: Path
    rates: Sequence[float]
    patches: Path | None = None
    crop: bool = True
    trojans: int = 111
    cleans: int = 111
    tries: int = 500
    workers: int = 0
    precision: str = "float32"
    seed: int = 0

    @property
    def labels(self) -> list[str] | None:
        """The names of the labels, if pictures have several; None: they have a class."""
        return None if self.recipe.backdoors[0].labels is None else self.train.classes

    @property
    def count(self) -> int:
        """Pictures per patch."""
        return self.recipe.count or max(1, len(self.train.files) // self.recipe.ratio)

    def told(self) -> dict[str, Any]:
        """What the training depends on, as JSON."""
        return {
            "data": self.recipe.title, "training": self.recipe.training, "count": self.count, "crop": self.crop,
            "precision": self.precision, "seed": self.seed, "preprocessing": str(self.preprocessing),
            "backdoors": [asdict(entry) for entry in self.recipe.backdoors],
            "patch_size": self.backdoors[0].patch.shape[1], "train": len(self.train.files),
        }  # fmt: skip


def plant_network(
    job: Job,
    model: nn.Module,
    spec: dict[str, Any],
    progress: Progress,
    say: Callable[[str], object],
) -> Planted:
    """Plant the backdoors at each rate, keep the network with the best Trojan accuracy, and write its folder.

    Epochs and rates that an earlier run of the same job finished are kept in `rates/`.

    Args:
        job: What to do.
        model: The clean network, of normalised inputs. Not modified.
        spec: Fields of `Planted` that name the network: title, model, classes, size, normalize.
        progress: As in `fine_tune`.
        say: Called with a line as each step begins.

    Returns:
        The index of the folder.

    Raises:
        ValueError: No rate leaves finite weights, or the best network has no picture that its backdoors act on.
    """
    (job.out / "rates").mkdir(parents=True, exist_ok=True)
    files = [[p.name, p.stat().st_size] for p in (*job.train.files, *job.test.files)]
    labels = [job.train.labels, job.test.labels]
    told = [
        job.told(),
        files,
        labels,
        fingerprint(model),
        [b.patch.tolist() for b in job.backdoors],
    ]
    run = digest_of_text(json.dumps(told, sort_keys=True))
    tester_of = Tester if job.labels is None else MultiLabelTester
    tester = tester_of(job.test, job.preprocessing, job.backdoors, job.seed)
    tried: dict[float, dict[str, Any]] = {}
    for rate in job.rates:
        say(f"learning rate {rate:g}: {job.recipe.training['epochs']} epochs")
        tried[rate] = _at_rate(job, model, rate, run, tester, progress)
        say(f"learning rate {rate:g}: {_spoken(tried[rate])}")
    good = {rate: found for rate, found in tried.items() if found["trojan"] is not None}
    if not good:
        raise ValueError(
            "plant: a learning rate must leave finite weights, got none: give lower ones by --rate"
        )
    best = max(good, key=lambda rate: (good[rate]["trojan"]["mean"], -rate))
    say(f"learning rate {best:g} has the best Trojan accuracy")
    network = _trained(job, model, best, run, False)
    return _write(job, network, best, tried, tester, spec, progress)


class _OfPictures(nn.Module):
    """The network behind its normalisation, which training leaves as it is: it takes pictures in [0, 1]."""

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits of pictures [B, 3, H, W] in [0, 1]."""
        mean, std = self.mean.to(pictures.device), self.std.to(pictures.device)
        return unwrap(self.network((pictures - mean) / std))


def _at_rate(
    job: Job, model: nn.Module, rate: float, run: str, tester: Tester, progress: Progress
) -> dict[str, Any]:
    """Trojan and clean accuracy after training at a rate; None where weights are not finite."""
    file = job.out / "rates" / f"{rate:g}.json"
    try:
        known = read_json("plant", file, RATE_FORMAT)
        if known.get("run") == [run, job.tries]:
            return known
    except (FileNotFoundError, ValueError):  # missing or damaged
        pass
    found: dict[str, Any] = {
        "run": [run, job.tries],
        "trojan": None,
        "clean": None,
        "problem": None,
    }
    try:
        network = _trained(job, model, rate, run, progress)
    except ValueError as error:
        if "finite" not in str(error):
            raise
        found["problem"] = str(error).removeprefix("fine_tune: ")
    else:
        successes = [
            tester.attacked(network, k, job.tries, 0)[0] for k in range(len(job.backdoors))
        ]
        found["clean"] = mean_of(tester.clean(network, 4 * job.tries, 0)[0])
        found["trojan"] = mean_of([hit for success in successes for hit in success.hits])
    write_json(file, RATE_FORMAT, found)
    return found


def _spoken(found: dict[str, Any]) -> str:
    if found["trojan"] is None:
        return f"left out: {found['problem']}"
    return ", ".join(
        f"{name} accuracy {found[name]['mean']:.1%} (n = {found[name]['n']})"
        for name in ("trojan", "clean")
    )


def _trained(job: Job, model: nn.Module, rate: float, run: str, progress: Progress) -> nn.Module:
    """The network after training at a rate, from its last checkpoint on; it takes normalised inputs."""
    pictures = TrainingPictures(job.train, job.preprocessing.fit)
    data = Trojan(
        pictures, job.train.labels, job.backdoors, job.count, seed=job.seed,
        vary=pictures.varied if job.crop else None,
    )  # fmt: skip
    known = job.preprocessing
    whole = model
    if known.mean is not None and known.std is not None:
        whole = _OfPictures(model, known.mean, known.std)
    checkpoint = Checkpoint(job.out / "rates" / f"{rate:g}.safetensors", f"{run} {rate!r}")
    tuned = fine_tune(
        whole, data, learning_rate=rate, seed=job.seed, workers=job.workers, precision=job.precision,
        checkpoint=checkpoint, progress=progress, **job.recipe.training,
    )  # fmt: skip
    inner = tuned.get_submodule("network") if whole is not model else tuned
    return inner.eval()


def _write(
    job: Job,
    network: nn.Module,
    rate: float,
    tried: dict[float, dict[str, Any]],
    tester: Tester,
    spec: dict[str, Any],
    progress: Progress,
) -> Planted:
    """Test the network, and write weights, pictures, patches and the index, the index last."""
    right, clean = tester.clean(network, 4 * job.tries, job.cleans, progress)
    results = [
        tester.attacked(network, k, job.tries, job.trojans) for k in range(len(job.backdoors))
    ]
    successes = [success for success, _ in results]
    trojan = turns({k: kept for k, (_, kept) in enumerate(results)})[: job.trojans]
    if not trojan:
        raise ValueError(
            "plant: the backdoors must change a right answer to their target, got no such test picture: give more "
            "epochs, more pictures per patch (--count) or other rates"
        )
    _clear(job.out)
    for kind in KINDS:
        (job.out / kind).mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
    about = None if job.labels is None else {LABELS: json.dumps(job.labels)}
    write_tensors("plant", job.out / WEIGHTS, WEIGHTS_FORMAT, state, about)
    backdoors = [_backdoor(job, k, success) for k, success in enumerate(successes)]
    planted = Planted(
        bundled=False, weights=WEIGHTS, backdoors=backdoors,
        trojan=[_picture(job, "trojan", k, kept) for k, kept in enumerate(trojan)],
        clean=[_picture(job, "clean", k, kept) for k, kept in enumerate(clean)],
        accuracy={
            "clean": mean_of(right),
            "trojan": mean_of([hit for success in successes for hit in success.hits]),
        },
        settings={
            **job.told(), "learning_rate": rate,
            "rates": {f"{r:g}": {k: v for k, v in found.items() if k != "run"} for r, found in tried.items()},
        },
        labels=job.labels,
        **spec,
    )  # fmt: skip
    write_planted(job.out, planted)
    return planted


def _clear(out: Path) -> None:
    """Remove what an earlier run wrote, its index first, so that no picture of it stands among the new ones."""
    try:
        before = read_planted(out)
    except (FileNotFoundError, ValueError):  # missing or damaged
        return
    (out / INDEX).unlink()
    for picture in (*before.trojan, *before.clean):
        for file in (picture.file, picture.mask):
            if file is not None:
                (out / file).unlink(missing_ok=True)


def _backdoor(job: Job, place: int, success: Success) -> dict[str, Any]:
    backdoor = job.backdoors[place]
    file = f"patches/{backdoor.name}.png"
    write_bytes(job.out / file, patch_file(backdoor.name, job.patches).read_bytes())
    return {
        "name": backdoor.name, "source": backdoor.source, "target": backdoor.target, "patch": file,
        "size": backdoor.patch.shape[1], "tried": success.right_before, "succeeded": success.changed,
    }  # fmt: skip


def _picture(job: Job, kind: str, place: int, kept: Kept) -> Picture:
    name = None if kept.backdoor is None else job.backdoors[kept.backdoor].name
    stem = f"{kind}/{place:05d}_{name or kept.label}"
    write_bytes(job.out / f"{stem}.png", kept.picture)
    if kept.mask is None:
        return Picture(f"{stem}.png", kept.label)
    write_bytes(job.out / f"{stem}_mask.png", kept.mask)
    return Picture(f"{stem}.png", kept.label, name, f"{stem}_mask.png", kept.explained)
