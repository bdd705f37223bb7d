"""A study of the backdoored ImageNet network that ships, on the photographs that ship with it.

The right class is what the network answers without the patch, the predicted one the patch's: so it is known which part
of the picture drives the predicted class. Settings are small, so that it is made in a few minutes: its visualisations
are coarse, and no result of it stands for the method.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from spade_xai.models.efficientnet_lite import imagenet_classes
from spade_xai.progress import Progress
from spade_xai.study.build import build_study
from spade_xai.study.folder import Study
from spade_xai.study.options import StudyOptions
from spade_xai.study.part import Candidate
from spade_xai.tracing.augment import ImageAugment
from spade_xai.tracing.schedule import FAITHFUL
from spade_xai.trojans import imagenet

# Feature maps of 14 x 14 positions and 112 channels: ten times cheaper than the last ones, and finer.
CAM_LAYER = "blocks.10"
LAYERS = ["blocks.15"]  # the last block: at 0.99 most traces would not be faithful
REGION = 0.08  # a little larger than a patch


def build_demo(
    folder: Path,
    *,
    images: int = 6,
    steps: int = 96,
    augmentations: int = 64,
    size: int = 128,
    library: str = "npm",
    seed: int = 0,
    progress: Progress = True,
    report: Callable[[str], object] = print,
    **trace_options: Any,
) -> Study:
    """Build the study.

    Args:
        folder: Of the study.
        images: Images, each of another photograph.
        steps: Steps of each visualisation.
        augmentations: Augmentations of each image.
        size: Pixels per side of visualisations.
        library: Where jsPsych comes from, as in `library_files`.
        seed: The seed of every draw.
        progress: True for bars, or callback(stage, done, total).
        report: Called with a line as each step ends.
        **trace_options: Further arguments of `trace`.
    """
    planted = imagenet.load_trojan_pictures("trojan", per_photograph=1)
    answers = imagenet.load_trojan_pictures("clean").predictions
    known = imagenet.preprocessing()

    def read(k: int) -> Candidate:
        label = int(answers[planted.photographs[k]])
        return Candidate(planted.names[k], planted.images[k], planted.inputs[k : k + 1], label)

    options = StudyOptions(
        title="Which part of the picture?", count=images, region=REGION, cam_layer=CAM_LAYER, steps=steps,
        pattern_size=size, seed=seed,
    )  # fmt: skip
    about = {
        "model": "the shipped backdoored network", "sparsity": "faithful", "augment": "resnet",
    }  # fmt: skip
    return build_study(
        folder, imagenet.load_network(), len(planted), read, options, preprocessing=known,
        classes=imagenet_classes(), library=library, about=about,
        progress=progress, report=report, sparsity=FAITHFUL, layers=LAYERS, augmentations=augmentations,
        augment=ImageAugment("resnet", mean=known.mean, std=known.std), **trace_options,
    )  # fmt: skip
