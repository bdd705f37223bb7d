"""The folder of a run: its settings, its arms (ways to choose tickets) by seed, and their tickets."""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spade_xai.lottery.data.open import open_data
from spade_xai.lottery.data.pictures import Data
from spade_xai.lottery.masks import Masks
from spade_xai.lottery.networks import Network, find_head, find_last_maps
from spade_xai.lottery.storage import (
    RunError,
    finite,
    read_json,
    read_state,
    write_json,
    write_state,
)
from spade_xai.lottery.train import Training
from spade_xai.tracing.packed import Packed, pack_bits


@dataclass(frozen=True)
class Pruning:
    """How an arm chooses its tickets.

    Attributes:
        rounds: Tickets, the dense network among them; `rounds - 1` prunings.
        share: Of the living weights that go in a round.
        scope: "layer" or "global".
        criterion: "magnitude", "random", "sparsegpt", "obc", "gradcam" or "structured".
        rewind: To which state of round 0: "0" the start, "500it" after so many steps, "2ep" after so many epochs.
        norms: Prune gains of batch norms too.
        reinit: The control with the masks of magnitude and freshly drawn weights in every round.
    """

    rounds: int = 15
    share: float = 0.1
    scope: str = "layer"
    criterion: str = "magnitude"
    rewind: str = "0"
    norms: bool = False
    reinit: bool = False

    @property
    def arm(self) -> str:
        """Name of the arm: what differs from pruning by magnitude, per layer, to the start."""
        parts = [self.criterion]
        parts += ["global"] if self.scope != "layer" else []
        parts += ["norms"] if self.norms else []
        parts += [f"rewind{self.rewind}"] if self.rewind != "0" else []
        parts += ["reinit"] if self.reinit else []
        return "-".join(parts)


@dataclass(frozen=True)
class Ticket:
    """A trained sparse network.

    Attributes:
        number: Of the round; 0 is dense.
        masks: Living weights.
        state: The best weights, of all parameters and buffers.
        record: Living weights by tensor, accuracies, epochs.
    """

    number: int
    masks: Masks
    state: dict[str, Tensor]
    record: dict[str, Any]

    @property
    def alive(self) -> float:
        """Share of the prunable weights that live."""
        return self.record["alive"]


@dataclass
class Arm:
    """Tickets of one way to choose them and one seed, in a folder of their own."""

    run: "Run"
    name: str
    seed: int
    record: dict[str, Any]

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.run.path / self.name / f"seed_{self.seed}"

    def file(self, kind: str, number: int, ending: str) -> Path:
        """Path of a ticket's file, such as ticket_03.json."""
        return self.path / f"{kind}_{number:02d}.{ending}"

    def numbers(self) -> list[int]:
        """Numbers of the tickets that are done."""
        found = [re.fullmatch(r"ticket_(\d+)\.json", p.name) for p in self.path.glob("ticket_*")]
        return sorted(int(match[1]) for match in found if match)

    def ticket(self, number: int) -> Ticket:
        """Read a ticket."""
        record = read_json(self.file("ticket", number, "json"), "ticket")
        return Ticket(number, *self._weights(number), record)

    def _weights(self, number: int) -> tuple[Masks, dict[str, Tensor]]:
        tensors, head = read_state(self.file("ticket", number, "safetensors"), "ticket")
        state = {k.removeprefix("dense/"): v for k, v in tensors.items() if k.startswith("dense/")}
        masks = {}
        for name, shape in head["shapes"].items():
            bits, values = tensors[f"bits/{name}"], tensors[f"values/{name}"]
            packed = Packed(tuple(shape), bits, values)
            masks[name], state[name] = packed.mask(), packed.weights()
        return masks, state

    def write_ticket(
        self, number: int, masks: Masks, state: dict[str, Tensor], record: dict[str, Any]
    ) -> None:
        """Write a ticket: the weights first, then the record that says it is done."""
        tensors = {f"dense/{name}": value for name, value in state.items() if name not in masks}
        for name, mask in masks.items():
            tensors[f"bits/{name}"] = pack_bits(mask.flatten())
            tensors[f"values/{name}"] = state[name].flatten()[mask.flatten()]
        shapes = {name: list(mask.shape) for name, mask in masks.items()}
        write_state(
            self.file("ticket", number, "safetensors"), "ticket", tensors, {"shapes": shapes}
        )
        write_json(self.file("ticket", number, "json"), "ticket", record)

    def model(self, number: int, device: torch.device | str = "cpu") -> nn.Module:
        """The ticket as a network for images in [0, 1], in eval mode."""
        model = self.run.plain_model()
        model.load_state_dict(self.ticket(number).state)
        return self.run.network.on_images(model).to(device)

    @property
    def reference(self) -> "Arm":
        """The arm whose ticket 0 this arm's tickets are compared with: its own, or that of its base."""
        base = self.record.get("base")
        return self if base is None else self.run.arm(base, self.seed)


@dataclass
class Run:
    """A folder with everything of a study: `run.json` says of which data, network and training.

    Attributes:
        path: The folder.
        record: What run.json holds.
    """

    path: Path
    record: dict[str, Any] = field(repr=False)

    @classmethod
    def start(
        cls, path: Path, data: dict[str, Any], network: Network, training: Training, digest: str
    ) -> "Run":
        """Make the folder, or take up one of the same settings.

        Raises:
            RunError: The folder holds a run of other settings or other pictures.
        """
        record = finite(
            {
                "data": data,
                "pictures": digest,
                "network": asdict(network),
                "training": asdict(training),
            }
        )
        if (path / "run.json").is_file():
            old = read_json(path / "run.json", "run")
            for key, value in record.items():
                if old.get(key) != value:
                    raise RunError(
                        f"find_tickets: {path} holds a run of other {key}: expected {old.get(key)}, got {value}"
                    )
        else:
            write_json(path / "run.json", "run", record)
        return cls(path, record)

    @classmethod
    def open(cls, path: Path) -> "Run":
        """Open a run."""
        return cls(path, read_json(path / "run.json", "run"))

    @cached_property
    def data(self) -> Data:
        """Its pictures, which must be those it was started with."""
        data = open_data(self.record["data"])
        if data.digest() != self.record["pictures"]:
            raise RunError(
                f"lottery: the pictures of {self.path} have changed since it was started"
            )
        return data

    @cached_property
    def network(self) -> Network:
        """Its backbone."""
        given = self.record["network"]
        return Network(**{**given, "mean": tuple(given["mean"]), "std": tuple(given["std"])})

    @cached_property
    def training(self) -> Training:
        """Its settings of training."""
        return Training(**self.record["training"])

    def plain_model(self, seed: int = 0) -> nn.Module:
        """The backbone for normalised images with its starting weights."""
        return self.network.make(seed)

    @cached_property
    def layers(self) -> tuple[str, str]:
        """Names of the last layer and of the last feature maps in a network for images in [0, 1]."""
        model = self.network.on_images(self.plain_model())
        size = self.network.size
        return find_head(model), find_last_maps(model, torch.zeros(1, 3, size, size))

    def arm(self, name: str, seed: int) -> Arm:
        """An arm that was begun."""
        path = self.path / name / f"seed_{seed}" / "arm.json"
        return Arm(self, name, seed, read_json(path, "arm"))

    def begin_arm(self, name: str, seed: int, record: dict[str, Any]) -> Arm:
        """Begin an arm, or take up one of the same settings."""
        arm = Arm(self, name, seed, finite(record))
        path = arm.path / "arm.json"
        if path.is_file():
            old = read_json(path, "arm")
            differing = [k for k in {*old, *arm.record} if old.get(k) != arm.record.get(k)]
            if differing:
                key = sorted(differing)[0]
                raise RunError(
                    f"find_tickets: {arm.path} was begun with other settings: {key} must be {old.get(key)}, "
                    f"got {arm.record.get(key)}"
                )
        else:
            write_json(path, "arm", arm.record)
        return arm

    def arms(self) -> list[Arm]:
        """All arms with at least one ticket, by name and seed; magnitude first."""
        found = []
        for path in self.path.glob("*/seed_*/arm.json"):
            arm = self.arm(path.parent.parent.name, int(path.parent.name.removeprefix("seed_")))
            if arm.numbers():
                found.append(arm)
        return sorted(found, key=lambda a: (a.name != "magnitude", a.name, a.seed))

    def tickets(self) -> Iterator[tuple[Arm, int]]:
        """Every ticket of every arm.

        Raises:
            RunError: There is none.
        """
        arms = self.arms()
        if not arms:
            raise RunError(f"lottery: {self.path} holds no tickets: run `lottery find` first")
        for arm in arms:
            for number in arm.numbers():
                yield arm, number
