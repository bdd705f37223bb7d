"""Networks pruned for other images than the one explained (the paper's Table 18).

1ST: a random other picture with the same patch, 1SC: a random picture of the same true class, 1SD: any random picture,
each with its augmentations. MST, MSC, MSD: many such pictures without augmentations. Pictures of these are drawn with
replacement and read from disk as they are needed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spade_xai.models.images import read_image
from spade_xai.models.preprocessing import Preprocessing
from spade_xai.reproduce.table import LeftOut
from spade_xai.tracing.trace import trace
from spade_xai.trojans.patch import plant, read_patch
from spade_xai.trojans.planted import Picture, Planted


@dataclass(frozen=True)
class Pool:
    """Pictures without a patch to prune for, read when they are needed.

    Attributes:
        files: Their paths.
        labels: The true class of each; None where it is not known.
        preprocessing: What makes the network's inputs of pictures.
    """

    files: Sequence[Path]
    labels: Sequence[int | None]
    preprocessing: Preprocessing

    def image(self, place: int) -> Tensor:
        """A picture [3, H, W] in [0, 1], scaled and cut."""
        return read_image(self.files[place], self.preprocessing.fit)

    def of_class(self, label: int) -> list[int]:
        """Places of the pictures of a class."""
        return [place for place, own in enumerate(self.labels) if own == label]


class Stream:
    """Instead of variants of a sample: pictures drawn at random, planted with a patch if there is one.

    Whatever draws is seeded by whoever calls it, so that each pass over the pictures gives the same ones.
    """

    draws_each = True

    def __init__(self, pool: Pool, places: Sequence[int], patch: Tensor | None) -> None:
        self.pool, self.places, self.patch = pool, list(places), patch

    def __call__(self, images: Tensor) -> Tensor:
        """As many pictures as images [B, 3, H, W], as the network takes them."""
        drawn = torch.randint(len(self.places), (len(images),)).tolist()
        made = []
        for k in drawn:
            image = self.pool.image(self.places[k])
            if self.patch is not None:
                seed = int(torch.randint(2**62, ()))
                image, _ = plant(image, self.patch, torch.Generator().manual_seed(seed))
            made.append(image)
        return self.pool.preprocessing.normalize(torch.stack(made)).to(images)


class Selection:
    """Gives each sample the network that was pruned for other images; call it with the place of the sample.

    Args:
        kind: A name in SELECTIONS.
        model: The dense network.
        read: Gives the sample at a place, as the network takes it.
        pictures: What is known of each sample.
        planted: The folder's index, for the patches.
        folder: Where the patches lie.
        pool: Pictures without a patch.
        options: Arguments of `trace`.

    Raises:
        LeftOut: There are no such pictures for a sample.
    """

    def __init__(
        self,
        kind: str,
        model: nn.Module,
        read: Callable[[int], Tensor],
        pictures: Sequence[Picture],
        planted: Planted,
        folder: Path,
        pool: Pool,
        options: Mapping[str, Any],
    ) -> None:
        self.kind, self.model, self.read, self.pictures = kind, model, read, pictures
        self.planted, self.folder, self.pool, self.options = planted, folder, pool, dict(options)
        self._made: tuple[Any, nn.Module] | None = None
        for place in range(len(pictures)):
            self.choice(place)

    def choice(self, place: int) -> Any:
        """Which pictures a sample's network is pruned for: the place of one, or what many have in common."""
        picture = self.pictures[place]
        shared, what = self.kind[2], "pictures of the pool"
        if self.kind == "1ST":
            what = f"another picture with the patch {picture.backdoor!r}"
            found = [
                k
                for k, other in enumerate(self.pictures)
                if k != place and other.backdoor == picture.backdoor
            ]
        elif shared == "C":
            what = f"a picture of the class {picture.label} in the pool"
            found = [] if picture.label is None else self.pool.of_class(picture.label)
        else:
            found = list(range(len(self.pool.files)))
        if not found:
            raise LeftOut(f"it needs {what}, got none: --pool and --limit may give more")
        if self.kind[0] == "M":
            return {"T": picture.backdoor, "C": picture.label, "D": None}[shared]
        draws = np.random.default_rng([int(self.options.get("seed", 0)), place])
        return found[int(draws.integers(len(found)))]

    def __call__(self, place: int) -> nn.Module:
        """The network for the sample at a place; the last one is kept, as many samples share it."""
        choice = self.choice(place)
        if self._made is None or self._made[0] != choice:
            self._made = (choice, self._network(choice))
        return self._made[1]

    def order(self) -> list[int]:
        """Places of the samples, those that share a network one after the other."""
        return sorted(range(len(self.pictures)), key=lambda k: (str(self.choice(k)), k))

    def told(self) -> list[list[Any]]:
        """The pictures of the pool, by name and size of the file."""
        return [[file.name, file.stat().st_size] for file in self.pool.files]

    def _network(self, choice: Any) -> nn.Module:
        if self.kind == "1ST":
            return trace(self.model, self.read(choice), **self.options).model
        if self.kind[0] == "1":
            return trace(self.model, self._input(choice), **self.options).model
        places = list(range(len(self.pool.files)))
        patch = None
        if self.kind == "MSC":
            places = self.pool.of_class(choice)
        if self.kind == "MST":
            entry = next(b for b in self.planted.backdoors if b["name"] == choice)
            patch = read_patch(self.folder / entry["patch"], entry["size"])
        stream = Stream(self.pool, places, patch)
        options = {**self.options, "augment": stream}
        return trace(self.model, self._input(places[0]), **options).model

    def _input(self, place: int) -> Tensor:
        return self.pool.preprocessing.normalize(self.pool.image(place)[None])
