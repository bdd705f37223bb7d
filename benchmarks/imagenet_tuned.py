"""One ratio per block for all pictures, tuned by the study's maps as section 3.2 of the paper describes."""

from torch import nn

from benchmarks.imagenet_traces import TRACERS, Traces
from spade_xai.measures import metrics
from spade_xai.reports.explain import image_map
from spade_xai.tuning.tune import tune

PHOTOGRAPHS = 16  # the last ones, by their second Trojan pictures; they are not measured on
METHOD = "saliency"
GROUPS = [*(f"blocks.{k}.*" for k in range(16)), "head.conv", "fc"]


def tune_ratios(traces: Traces, tracer: str) -> None:
    """Tune the ratios unless they are there; an interrupted run goes on where it was."""
    file, pictures = traces.ratios(tracer), traces.pictures
    if file.exists():
        return
    numbers = range(len(pictures) - PHOTOGRAPHS, len(pictures))

    def found(sparse: nn.Module, index: int) -> float:
        k = numbers[index]
        x, target = pictures.input(k, "second"), pictures.answer(k, "second")
        one = image_map(sparse, x, target, METHOD, 0)
        return float(metrics.auroc(one, pictures.mask(k, "second")))

    ratios = tune(
        pictures.network, [pictures.input(k, "second") for k in numbers], found, groups=GROUPS,
        checkpoint=file.with_suffix(".jsonl"), method=TRACERS[tracer], augment=traces.augment,
        augmentations=traces.augmentations, progress=False,
    )  # fmt: skip
    ratios.save(file)
