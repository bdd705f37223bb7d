"""TCAV scores (Kim et al., ICML 2018) of tickets through captum, on the vectors of their banks.

The last layer is linear, so a logit's derivative along a concept is the same for every picture of a class. The score is
therefore asked of the log-probability, whose derivative depends on the picture.
"""

import tempfile
from collections import defaultdict
from typing import Any

import torch
from captum.concept import TCAV, Classifier, Concept
from captum.concept._core.cav import CAV
from captum.concept._utils.common import concepts_to_str
from torch import Tensor, nn

from spade_xai.lottery.concepts import Bank, read_bank
from spade_xai.lottery.data.pictures import batches
from spade_xai.lottery.folder import Run
from spade_xai.lottery.stages import bank_file, each
from spade_xai.lottery.storage import write_json
from spade_xai.models.copies import unwrap


class _LogProbabilities(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return unwrap(self.model(x)).log_softmax(1)


class _None(Classifier):
    """Fits nothing."""

    def __init__(self) -> None:
        super().__init__()

    def train_and_eval(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError

    def weights(self) -> Tensor:
        raise NotImplementedError

    def classes(self) -> list[int]:
        raise NotImplementedError


class _Known(TCAV):
    """captum's TCAV with vectors that are there already; it fits none and writes none."""

    def __init__(self, model: nn.Module, layer: str, bank: Bank, folder: str) -> None:
        super().__init__(
            model, [layer], classifier=_None(), attribute_to_layer_input=True, save_path=folder
        )
        self.bank, self.layer = bank, layer

    def compute_cavs(self, experimental_sets: Any, *args: Any, **kwargs: Any) -> Any:
        self.cavs: Any = defaultdict(dict)
        for c, pair in enumerate(experimental_sets):
            vector = (self.bank.vectors[c] / self.bank.norms[c]).float()
            stats = {"weights": torch.stack([vector, -vector]), "classes": [p.id for p in pair]}
            self.cavs[concepts_to_str(pair)][self.layer] = CAV(pair, self.layer, stats)
        return self.cavs


def tcav_scores(
    model: nn.Module, head: str, bank: Bank, images: Tensor, label: int
) -> tuple[Tensor, Tensor]:
    """Share of pictures whose log-probability of the class grows along each concept, and the mean derivative.

    Args:
        model: For the images, in eval mode. Not modified.
        head: Name of its last layer.
        bank: Concept vectors in the embedding that the head reads.
        images: Of one class.
        label: The class.

    Returns:
        The share, in [0, 1], and the mean derivative along the concept's unit vector, each [concepts].
    """
    count = len(bank.names)
    pairs = [
        [Concept(c, name, None), Concept(count + c, f"not {name}", None)]
        for c, name in enumerate(bank.names)
    ]
    with tempfile.TemporaryDirectory() as folder:
        method = _Known(_LogProbabilities(model), f"model.{head}", bank, folder)
        found = method.interpret(images, pairs, target=label)
    scores = [next(iter(found[concepts_to_str(pair)].values())) for pair in pairs]
    return (
        torch.stack([s["sign_count"][0] for s in scores]).cpu(),
        torch.stack([s["magnitude"][0] for s in scores]).cpu(),
    )


def tcav_stage(
    run: Run, *, limit: int = 64, device: torch.device | str = "cpu", progress: bool = False
) -> list[dict[str, Any]]:
    """TCAV scores of every ticket and class on at most `limit` test pictures of the class; tcav.json holds them."""
    head = run.layers[0]
    rows = []
    for arm, number in each(run, "TCAV", progress):
        bank, model = read_bank(bank_file(run, arm, number)), arm.model(number, device)
        for label, name in enumerate(run.data.classes):
            own = (run.data.test.labels == label).nonzero()[:limit, 0].tolist()
            if not own:
                continue
            pictures = run.data.test.subset(own)
            _, images, _ = next(batches(pictures, run.network.size, len(own)))
            sign, magnitude = tcav_scores(model, head, bank, images.to(device), label)
            rows += [
                {
                    "arm": arm.name, "seed": arm.seed, "number": number, "class": name,
                    "concept": concept, "sign": float(sign[c]), "magnitude": float(magnitude[c]),
                    "pictures": len(own),
                }
                for c, concept in enumerate(bank.names)
            ]  # fmt: skip
    write_json(run.path / "tcav.json", "tcav", {"rows": rows})
    return rows
