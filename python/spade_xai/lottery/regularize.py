"""Do tickets explain themselves more as the dense network does, if the loss asks for it? (open question 2).

The masks are those of an arm that was found without the term; each ticket is trained again from the same state,
with the same order of pictures, and a weight of the term. Weight 0 gives the plain ticket bit for bit.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from spade_xai.choices import misnamed
from spade_xai.lottery import pcbm as pc
from spade_xai.lottery.collect import difference, estimate
from spade_xai.lottery.concepts import BankSettings, read_bank
from spade_xai.lottery.data.pictures import batches
from spade_xai.lottery.folder import Arm, Run
from spade_xai.lottery.gradcam import ends_in_mean_pooling
from spade_xai.lottery.maps import MapSettings, maps_stage
from spade_xai.lottery.networks import find_head, find_last_maps
from spade_xai.lottery.penalties import ConceptPenalty, GradCAMPenalty
from spade_xai.lottery.stability import stability
from spade_xai.lottery.stages import bank_file, concepts_of, concepts_stage, pcbm_of, pcbm_stage
from spade_xai.lottery.storage import RunError, read_json, read_state, write_json
from spade_xai.lottery.tickets import finish_ticket, write_log
from spade_xai.lottery.train import Penalty, Round, train_round

FORMS = ("gradcam", "concepts")


def regularize(
    run: Run,
    weights: Sequence[float],
    *,
    form: str = "gradcam",
    layer: str | None = None,
    tickets: Sequence[int] = (),
    base: str = "magnitude",
    device: torch.device | str = "cpu",
    workers: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """Train tickets again with each weight of the term, and compare with weight 0, picture by picture.

    Args:
        run: With tickets, and the concepts, bottlenecks and maps of `lottery concepts`, `pcbm` and `maps`.
        weights: Of the term; 0 is added.
        form: "gradcam" or "concepts".
        layer: Of Grad-CAM, for normalised images; None: the last feature maps.
        tickets: Numbers; none: the one in the middle and the last.
        base: Arm whose masks are used.
        device: Where to train.
        workers: Processes that read pictures.
        progress: Whether to draw a bar.

    Returns:
        What regularize.json holds of this form, layer and base: accuracy, IoU of maps and overlap of concepts for
        each weight and ticket, with paired differences from weight 0.
    """
    if form not in FORMS:
        raise ValueError(f"regularize: {misnamed('form', FORMS, form)}")
    if any(w < 0 for w in weights):
        raise ValueError(f"regularize: weights must be at least 0, got {list(weights)}")
    arms = [arm for arm in run.arms() if arm.name == base]
    if not arms:
        raise RunError(f"regularize: {run.path} must hold tickets of arm {base!r}")
    about = concepts_of(run)
    shared = sorted(set.intersection(*(set(arm.numbers()) for arm in arms)) - {0})
    chosen = list(tickets) or sorted({shared[len(shared) // 2], shared[-1]} if shared else set())
    if not chosen or not set(chosen) <= set(shared):
        raise ValueError(f"regularize: tickets must be of {shared}, got {chosen}")
    grid = sorted({0.0, *map(float, weights)})
    jobs = [(arm, weight, k) for arm in arms for weight in grid for k in chosen]
    equal = True
    for arm, weight, number in tqdm(jobs, desc="regularize", unit="ticket", disable=not progress):
        same = _train(run, arm, weight, number, form, layer, chosen, device, workers)
        equal = equal and (same or weight != 0)
    stages: dict[str, Any] = {"device": device, "workers": workers, "progress": progress}
    settings = {**about["settings"], "penalties": tuple(about["settings"]["penalties"])}
    concepts_stage(run, about["bank"], BankSettings(**settings), limit=about["limit"], **stages)
    pcbm_stage(run, pc.PCBMSettings(**read_json(run.path / "pcbm.json", "pcbm")["settings"]))
    maps = MapSettings(**read_json(run.path / "maps.json", "maps")["settings"])
    maps_stage(run, maps, **stages)
    record = {
        "form": form, "layer": layer, "base": base, "weights": grid, "tickets": chosen,
        "zero_equals_plain": equal,
        "rows": [row for k in chosen for row in _rows(run, arms, form, layer, grid, k)],
    }  # fmt: skip
    path = run.path / "regularize.json"
    others = read_json(path, "regularize")["runs"] if path.is_file() else []
    own = (form, layer, base)
    kept = [r for r in others if (r["form"], r["layer"], r["base"]) != own]
    write_json(path, "regularize", {"runs": [*kept, record]})
    return record


def arm_name(base: str, form: str, layer: str | None, weight: float) -> str:
    """Name of the arm of a weight."""
    where = "" if layer is None else f"-{layer}"
    return f"{base}-{form}{where}-{weight:g}"


def _train(
    run: Run, base: Arm, weight: float, number: int, form: str, layer: str | None,
    tickets: Sequence[int], device: Any, workers: int,
) -> bool:  # fmt: skip
    """Train one ticket unless it is done; whether its weights equal the base's."""
    record = {"base": base.name, "penalty": weight, "form": form, "layer": layer,
              "tickets": list(tickets)}  # fmt: skip
    arm = run.begin_arm(arm_name(base.name, form, layer, weight), base.seed, record)
    plain = base.ticket(number)
    if not arm.file("ticket", number, "json").is_file():
        model = run.network.make(base.seed)
        model.load_state_dict(read_state(base.path / "theta_rewind.safetensors", "state")[0])
        model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        penalty = _penalty(run, base, weight, form, layer, device)
        job = Round(model, run.network, plain.masks, base.seed, number, penalty=penalty)
        done = train_round(
            job, run.training, run.data.train, run.data.validation,
            arm.path / "checkpoint.safetensors", workers=workers,
            on_epoch=lambda epochs: write_log(arm, number, epochs),
        )  # fmt: skip
        finish_ticket(arm, model, plain.masks, number, done, workers)
    state = arm.ticket(number).state
    return all(torch.equal(state[name], value) for name, value in plain.state.items())


def _penalty(
    run: Run, base: Arm, weight: float, form: str, layer: str | None, device: Any
) -> Penalty:
    dense = run.network.make(base.seed)
    dense.load_state_dict(base.ticket(0).state)
    dense = dense.to(device).eval()
    head = find_head(dense)
    if form == "concepts":
        return ConceptPenalty(weight, dense, head, read_bank(bank_file(run, base, 0)))
    size = run.network.size
    blank = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    where = layer or find_last_maps(dense, blank)
    if where not in dict(dense.named_modules()):
        raise ValueError(f"regularize: layer must name a layer of the network, got {where!r}")
    last = ends_in_mean_pooling(dense, where, head, blank)
    penalty = GradCAMPenalty(weight, dense, where, head, last)
    if not (run.training.crop or run.training.flip):
        penalty.stored = _stored(run, penalty, device)
    return penalty


def _stored(run: Run, penalty: GradCAMPenalty, device: Any) -> Tensor:
    found = [
        penalty.maps_of_dense(run.network.normalize(images.to(device)), labels.to(device)).cpu()
        for _, images, labels in batches(run.data.train, run.network.size, run.training.batch)
    ]
    return torch.cat(found)


def _rows(
    run: Run, arms: Sequence[Arm], form: str, layer: str | None, grid: Sequence[float], number: int
) -> list[dict[str, Any]]:
    """Accuracy by seed; IoU by picture and overlap by class, each the mean over seeds."""
    found: dict[float, dict[str, Tensor]] = {}
    for weight in grid:
        own = [run.arm(arm_name(a.name, form, layer, weight), a.seed) for a in arms]
        drift = [read_state(a.file("drift", number, "safetensors"), "drift")[0] for a in own]
        overlap = [
            stability(
                pcbm_of(run, a, number)[0].weight, pcbm_of(run, a.reference, 0)[0].weight
            ).overlap
            for a in own
        ]
        found[weight] = {
            "test_accuracy": torch.tensor(
                [a.ticket(number).record["test_accuracy"] for a in own], dtype=torch.float64
            ),
            "iou": torch.stack([d["drift/iou_threshold"].double() for d in drift]).mean(0),
            "cosine": torch.stack([d["drift/cosine"].double() for d in drift]).mean(0),
            "overlap": torch.stack(overlap).mean(0),
        }
    return [
        {
            "ticket": number,
            "alive": arms[0].ticket(number).alive,
            "weight": weight,
            "measure": measure,
            **estimate(values),
            "minus_plain": difference(values, found[0.0][measure]),
        }
        for weight, measures in found.items()
        for measure, values in measures.items()
    ]
